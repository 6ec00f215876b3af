//! Cells of a polars table as JSON.
//!
//! Responsible for: rows by column name. Must not depend on: where the table came from.

use polars::prelude::{AnyValue, Column, DataFrame, Series};
use serde_json::{Map, Value};

use crate::error::RowFault;
use crate::read::rows::Row;

/// A table whose rows are read one by one.
pub(crate) struct Table<'a> {
    columns: Vec<(&'a str, &'a Column)>,
}

impl<'a> Table<'a> {
    pub(crate) fn new(frame: &'a DataFrame) -> Self {
        Self { columns: frame.columns().iter().map(|column| (column.name().as_str(), column)).collect() }
    }

    /// A row; a null is kept as one.
    pub(crate) fn row(&self, index: usize) -> Result<Row, RowFault> {
        let cells = self.columns.iter().map(|(name, column)| {
            let cell = column.get(index).map_err(|error| RowFault::Syntax(error.to_string()))?;
            let value = json(&cell).map_err(|why| RowFault::Syntax(format!("column `{name}`: {why}")))?;
            Ok(((*name).to_owned(), value))
        });
        cells.collect()
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
        // Dates, times and other exact things, as they are written.
        other => Value::from(other.to_string()),
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
