//! Files → rows, in chunks, so that a file may be larger than memory.
//!
//! Responsible for: a common type for the rows of all kinds of files. Must not depend on: the meaning of a row.

use serde_json::{Map, Value};

use crate::error::{DataError, RowFault};
use crate::read::files::{DataFile, Kind};
use crate::read::{delimited, jsonl, parquet, tbx};

/// A row: column → value, unchanged from the file.
pub(crate) type Row = Map<String, Value>;

/// A row that may not be parsed yet.
pub(crate) struct RawRow {
    /// The line in JSON lines, CSV and TBX. The number of the row, from 1, in Parquet and JSON lists.
    pub(crate) number: u64,
    pub(crate) content: Content,
}

pub(crate) enum Content {
    /// One JSON value.
    Json(Vec<u8>),
    Row(Row),
    Fault(RowFault),
}

impl RawRow {
    /// Parses the row.
    pub(crate) fn parse(self) -> Result<Row, RowFault> {
        match self.content {
            Content::Json(bytes) => jsonl::parse(&bytes),
            Content::Row(row) => Ok(row),
            Content::Fault(fault) => Err(fault),
        }
    }

    /// The approximate size of the row in the file, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        match &self.content {
            Content::Json(bytes) => bytes.len() as u64,
            Content::Row(row) => row.values().map(text_bytes).sum(),
            Content::Fault(_) => 0,
        }
    }
}

fn text_bytes(value: &Value) -> u64 {
    match value {
        Value::String(text) => text.len() as u64,
        Value::Array(items) => items.iter().map(text_bytes).sum(),
        Value::Object(object) => object.values().map(text_bytes).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
    }
}

/// Maximum number of rows in a chunk.
const CHUNK_ROWS: usize = 2048;
/// A chunk is complete when its rows have this many bytes.
const CHUNK_BYTES: u64 = 8 << 20;
/// Maximum size in bytes of files that are read as a whole.
pub(crate) const WHOLE_BYTES: u64 = 1 << 30;

/// Collects rows and passes them to a callback in chunks.
pub(crate) struct Chunks<'a> {
    rows: Vec<RawRow>,
    bytes: u64,
    each: &'a mut dyn FnMut(Vec<RawRow>) -> Result<(), DataError>,
}

impl<'a> Chunks<'a> {
    pub(crate) fn new(each: &'a mut dyn FnMut(Vec<RawRow>) -> Result<(), DataError>) -> Self {
        Self { rows: Vec::new(), bytes: 0, each }
    }

    pub(crate) fn push(&mut self, number: u64, content: Content) -> Result<(), DataError> {
        let row = RawRow { number, content };
        self.bytes += row.bytes();
        self.rows.push(row);
        if self.rows.len() >= CHUNK_ROWS || self.bytes >= CHUNK_BYTES { self.flush() } else { Ok(()) }
    }

    pub(crate) fn flush(&mut self) -> Result<(), DataError> {
        self.bytes = 0;
        if self.rows.is_empty() { Ok(()) } else { (self.each)(std::mem::take(&mut self.rows)) }
    }
}

/// Calls `each` with all rows of a file, in order. With `wanted`, a reader may skip all other columns.
pub(crate) fn read(
    file: &DataFile,
    wanted: Option<&[String]>,
    each: &mut dyn FnMut(Vec<RawRow>) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let mut chunks = Chunks::new(each);
    match file.kind {
        Kind::Json => jsonl::read(file, &mut chunks)?,
        Kind::Parquet => parquet::read(file, wanted, &mut chunks)?,
        Kind::Csv | Kind::Tsv => delimited::read(file, &mut chunks)?,
        Kind::Tbx => tbx::read(file, &mut chunks)?,
        Kind::Text => {
            let text = file.text(WHOLE_BYTES)?;
            chunks.push(1, Content::Row(Row::from_iter([("text".to_owned(), Value::String(text))])))?;
        }
    }
    chunks.flush()
}

/// The columns of a file: those of a table, or the keys of its first rows.
///
/// # Errors
/// If the file can't be read or has no rows.
pub(crate) fn columns(file: &DataFile) -> Result<Vec<String>, DataError> {
    let mut columns: Vec<String> = match file.kind {
        Kind::Parquet => return parquet::columns(&file.path),
        Kind::Csv | Kind::Tsv => delimited::columns(file)?,
        _ => Vec::new(),
    };
    let (mut rows, mut first_fault) = (0, None);
    let mut look = |chunk: Vec<RawRow>| {
        for row in chunk {
            let number = row.number;
            rows += 1;
            match row.parse() {
                Ok(row) => columns.extend(row.into_iter().map(|(key, _)| key)),
                Err(fault) => drop(first_fault.get_or_insert((number, fault))),
            }
        }
        columns.sort_unstable();
        columns.dedup();
        // The first chunk is enough, so reading stops here.
        Err(DataError::Enough)
    };
    match read(file, None, &mut look) {
        Ok(()) | Err(DataError::Enough) => {}
        Err(error) => return Err(error),
    }
    match first_fault {
        _ if rows == 0 => Err(DataError::Empty { path: file.path.clone() }),
        Some((number, fault)) if columns.is_empty() => Err(DataError::row(&file.path, number, fault)),
        _ => Ok(columns),
    }
}
