//! Cells of a polars table as texts, JSON values and messages.
//!
//! Responsible for: reading cells by column name and row. Must not depend on: where the table came from.

use std::collections::HashMap;

use polars::prelude::{AnyValue, Column, DataFrame, Series};
use serde_json::{Map, Value};

use crate::conversation::Message;
use crate::error::RowFault;

/// A table whose cells are read one by one.
pub(crate) struct Table<'a> {
    columns: HashMap<&'a str, &'a Column>,
}

impl<'a> Table<'a> {
    pub(crate) fn new(frame: &'a DataFrame) -> Self {
        Self { columns: frame.columns().iter().map(|column| (column.name().as_str(), column)).collect() }
    }

    fn cell(&self, column: &str, row: usize) -> Result<AnyValue<'_>, RowFault> {
        let column = self.columns.get(column).ok_or_else(|| RowFault::Missing(column.to_owned()))?;
        column.get(row).map_err(|error| RowFault::Syntax(error.to_string()))
    }

    /// A text.
    pub(crate) fn text(&self, column: &str, row: usize) -> Result<String, RowFault> {
        match self.cell(column, row)? {
            AnyValue::Null => Err(RowFault::Null(column.to_owned())),
            cell => match cell.get_str() {
                Some(text) => Ok(text.to_owned()),
                None => Err(RowFault::Syntax(format!("column `{column}` holds {}, not text", cell.dtype()))),
            },
        }
    }

    /// A cell as JSON; `None` for null or without such a column.
    pub(crate) fn json(&self, column: &str, row: usize) -> Result<Option<Value>, RowFault> {
        if !self.columns.contains_key(column) {
            return Ok(None);
        }
        let value = json(&self.cell(column, row)?).map_err(RowFault::Syntax)?;
        Ok(Some(value).filter(|value| !value.is_null()))
    }

    /// A list of messages. `fields` are what the table doesn't hold of each, nulls included, where that is known.
    pub(crate) fn messages(
        &self,
        column: &str,
        row: usize,
        fields: Option<Vec<Map<String, Value>>>,
    ) -> Result<Vec<Message>, RowFault> {
        let list = match self.cell(column, row)? {
            AnyValue::Null => return Err(RowFault::Null(column.to_owned())),
            AnyValue::List(list) => list,
            cell => return Err(RowFault::Syntax(format!("column `{column}` holds {}, not messages", cell.dtype()))),
        };
        let mut fields = fields.map(Vec::into_iter);
        list.iter()
            .enumerate()
            .map(|(index, cell)| {
                let fault = |why| RowFault::Message { index, why };
                let mut message = match json(&cell).map_err(fault)? {
                    Value::Object(message) => message,
                    other => return Err(fault(format!("it is {}, not an object", crate::conversation::kind(&other)))),
                };
                if let Some(fields) = &mut fields {
                    message.retain(|_, value| !value.is_null());
                    message.extend(fields.next().unwrap_or_default());
                }
                Message::from_fields(message).map_err(fault)
            })
            .collect()
    }
}

/// A cell as JSON. A table has every key in every struct, so a null in a struct means that there is none; only `content`
/// keeps its null, which chat templates ask about.
fn json(cell: &AnyValue<'_>) -> Result<Value, String> {
    Ok(match cell {
        AnyValue::Null => Value::Null,
        AnyValue::Boolean(truth) => Value::from(*truth),
        AnyValue::String(text) => Value::from(*text),
        AnyValue::StringOwned(text) => Value::from(text.as_str()),
        AnyValue::Int8(number) => Value::from(*number),
        AnyValue::Int16(number) => Value::from(*number),
        AnyValue::Int32(number) => Value::from(*number),
        AnyValue::Int64(number) => Value::from(*number),
        AnyValue::UInt8(number) => Value::from(*number),
        AnyValue::UInt16(number) => Value::from(*number),
        AnyValue::UInt32(number) => Value::from(*number),
        AnyValue::UInt64(number) => Value::from(*number),
        AnyValue::Float32(number) => Value::from(*number),
        AnyValue::Float64(number) => Value::from(*number),
        AnyValue::List(list) => Value::Array(series(list)?),
        AnyValue::Struct(_, _, fields) => object(fields.iter().map(|field| field.name().as_str()), cell)?,
        AnyValue::StructOwned(owned) => object(owned.1.iter().map(|field| field.name().as_str()), cell)?,
        other => return Err(format!("a value of type {} has no meaning here", other.dtype())),
    })
}

fn series(list: &Series) -> Result<Vec<Value>, String> {
    list.iter().map(|cell| json(&cell)).collect()
}

fn object<'n>(names: impl Iterator<Item = &'n str>, cell: &AnyValue<'_>) -> Result<Value, String> {
    let mut object = Map::new();
    let values: Vec<AnyValue<'_>> = match cell {
        AnyValue::StructOwned(owned) => owned.0.clone(),
        cell => cell._iter_struct_av().collect(),
    };
    for (name, value) in names.zip(&values) {
        let value = json(value)?;
        if !value.is_null() || name == "content" {
            object.insert(name.to_owned(), value);
        }
    }
    Ok(Value::Object(object))
}
