//! Which rows of a source are taken: an SQL expression over its columns, in polars' dialect.
//!
//! Responsible for: the expression, and which rows of a chunk it is true for. Must not depend on: where rows come from.
//!
//! Only the columns that the expression names are made into a table. A column of texts that are all numbers, as CSV has
//! them, is a column of numbers.

use std::path::Path;

use polars::prelude::{Column, DataFrame, DataType, Expr, IntoLazy, PlSmallStr};
use serde_json::Value;

use crate::error::DataError;
use crate::read::parquet::{first_line, guarded};
use crate::read::rows::Row;

/// A parsed expression.
#[derive(Clone, Debug)]
pub(crate) struct Filter {
    text: String,
    expression: Expr,
    columns: Vec<String>,
}

impl Filter {
    /// # Errors
    /// When it is no SQL expression.
    pub(crate) fn new(text: &str) -> Result<Self, DataError> {
        let expression = polars::sql::sql_expr(text)
            .map_err(|error| DataError::Filter { filter: text.to_owned(), why: first_line(&error.to_string()) })?;
        let mut columns: Vec<String> = (&expression)
            .into_iter()
            .filter_map(|part| if let Expr::Column(name) = part { Some(name.to_string()) } else { None })
            .collect();
        columns.sort_unstable();
        columns.dedup();
        Ok(Self { text: text.to_owned(), expression, columns })
    }

    /// The columns that it reads.
    pub(crate) fn columns(&self) -> &[String] {
        &self.columns
    }

    /// For each row whether the expression is true for it; a row that is faulty (`None`) passes, to be reported.
    pub(crate) fn keep(&self, path: &Path, rows: &[Option<&Row>]) -> Result<Vec<bool>, DataError> {
        let fault = |why: String| DataError::Filter { filter: self.text.clone(), why };
        let columns: Vec<Column> =
            self.columns.iter().map(|name| column(name, rows)).collect::<Result<_, _>>().map_err(fault)?;
        let frame = DataFrame::new(rows.len(), columns).map_err(|error| fault(error.to_string()))?;
        let selected = guarded(path, || frame.lazy().select([self.expression.clone().alias("keep")]).collect());
        let selected = selected.map_err(|error| fault(first_line(&error.to_string())))?;
        let kept = selected.column("keep").and_then(|kept| kept.bool().cloned());
        let kept = kept.map_err(|_| fault("it is neither true nor false for a row".to_owned()))?;
        // An expression without columns is the same for every row.
        let at = |index| kept.get(if kept.len() == 1 { 0 } else { index }).unwrap_or(false);
        Ok(rows.iter().enumerate().map(|(index, row)| row.is_none() || at(index)).collect())
    }
}

/// A column of the types that SQL compares.
fn column(name: &str, rows: &[Option<&Row>]) -> Result<Column, String> {
    let cells: Vec<&Value> = rows.iter().map(|row| row.and_then(|row| row.get(name)).unwrap_or(&Value::Null)).collect();
    let label = PlSmallStr::from_str(name);
    let present = || cells.iter().filter(|cell| !cell.is_null());
    let number = |cell: &Value| match cell {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    if present().next().is_none() {
        return Ok(Column::full_null(label, cells.len(), &DataType::Null));
    }
    if present().all(|cell| cell.as_i64().is_some()) {
        return Ok(Column::new(label, cells.iter().map(|cell| cell.as_i64()).collect::<Vec<_>>()));
    }
    if present().all(|cell| cell.is_boolean()) {
        return Ok(Column::new(label, cells.iter().map(|cell| cell.as_bool()).collect::<Vec<_>>()));
    }
    if present().all(|cell| number(cell).is_some()) {
        return Ok(Column::new(label, cells.iter().map(|cell| number(cell)).collect::<Vec<_>>()));
    }
    if present().all(|cell| cell.is_string()) {
        return Ok(Column::new(label, cells.iter().map(|cell| cell.as_str()).collect::<Vec<_>>()));
    }
    let odd = present().find(|cell| !cell.is_string()).map_or("text", |cell| crate::formats::conversation::kind(cell));
    Err(format!("column `{name}` holds {odd}, which can't be compared with its other values"))
}
