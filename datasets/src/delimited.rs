//! CSV and TSV (RFC 4180).
//!
//! Responsible for: records as rows of text. Cells stay texts (`007` is no number); an empty cell is no cell.
//! Must not depend on: what a row means.

use std::io::BufRead;

use csv::{ErrorKind, ReaderBuilder, StringRecord};
use serde_json::Value;

use crate::error::{DataError, RowFault};
use crate::files::{DataFile, Kind};
use crate::rows::{Chunks, Content, Row};

/// Every record behind the header, with the line on which it begins.
pub(crate) fn read(file: &DataFile, chunks: &mut Chunks<'_>) -> Result<(), DataError> {
    let io = |source| DataError::Io { path: file.path.clone(), source };
    let unreadable = |why: String| DataError::Unreadable { path: file.path.clone(), why };
    let mut input = file.open()?;
    let delimiter = match file.kind {
        Kind::Tsv => b'\t',
        _ => most_frequent(input.fill_buf().map_err(io)?),
    };
    let mut reader = ReaderBuilder::new().delimiter(delimiter).from_reader(input);
    let header = reader.headers().map_err(|error| unreadable(format!("the header: {}", describe(&error))))?.clone();
    let names: Vec<&str> = header.iter().map(str::trim).collect();
    if let Some((index, name)) = names.iter().enumerate().find(|(index, name)| names[..*index].contains(name)) {
        return Err(unreadable(format!("the header has `{name}` twice, the second time as column {}", index + 1)));
    }
    let mut record = StringRecord::new();
    loop {
        let line = reader.position().line();
        match reader.read_record(&mut record) {
            Ok(false) => return Ok(()),
            Ok(true) => {
                let cells = names.iter().zip(&record).filter(|(_, cell)| !cell.is_empty());
                let row: Row = cells.map(|(name, cell)| ((*name).to_owned(), Value::from(cell))).collect();
                let line = record.position().map_or(line, csv::Position::line);
                chunks.push(line, Content::Row(row))?;
            }
            Err(error) => match error.kind() {
                ErrorKind::Utf8 { err, pos } => {
                    let line = pos.as_ref().map_or(line, csv::Position::line);
                    let why = format!("not UTF-8 in column {}; save the file as UTF-8", err.field() + 1);
                    chunks.push(line, Content::Fault(RowFault::Syntax(why)))?;
                }
                ErrorKind::UnequalLengths { pos, .. } => {
                    let line = pos.as_ref().map_or(line, csv::Position::line);
                    chunks.push(line, Content::Fault(RowFault::Syntax(describe(&error))))?;
                }
                _ => return Err(unreadable(error.to_string())),
            },
        }
    }
}

/// The delimiter of which the first line has most, outside of quotes.
fn most_frequent(beginning: &[u8]) -> u8 {
    let (mut counts, mut quoted) = ([(b',', 0), (b';', 0), (b'\t', 0)], false);
    for byte in beginning.iter().take_while(|byte| **byte != b'\n') {
        quoted ^= *byte == b'"';
        for (delimiter, count) in &mut counts {
            *count += usize::from(!quoted && delimiter == byte);
        }
    }
    // The first of the most frequent.
    counts.iter().rev().max_by_key(|(_, count)| *count).map_or(b',', |(delimiter, _)| *delimiter)
}

fn describe(error: &csv::Error) -> String {
    match error.kind() {
        ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("{len} cells, the header has {expected_len}; is a quote or a delimiter missing?")
        }
        ErrorKind::Utf8 { .. } => "not UTF-8; save the file as UTF-8".to_owned(),
        _ => error.to_string(),
    }
}
