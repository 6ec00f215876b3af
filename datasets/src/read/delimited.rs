//! CSV and TSV (RFC 4180).
//!
//! Responsible for: records as rows of text. Cells stay texts (`007` is no number); an empty cell is no cell.
//! Must not depend on: what a row means.

use std::io::{self, BufRead, Read};

use csv::{ErrorKind, ReaderBuilder, StringRecord};
use serde_json::Value;

use crate::error::{DataError, RowFault};
use crate::read::files::{DataFile, Kind};
use crate::read::rows::{Chunks, Content, Row};

/// A longer record is a quote that nothing closes.
const RECORD_BYTES: u64 = 64 << 20;

/// The names in the header.
pub(crate) fn columns(file: &DataFile) -> Result<Vec<String>, DataError> {
    Ok(open(file)?.1)
}

/// The records of a file, and the names in its header.
#[expect(clippy::type_complexity, reason = "a reader of whatever a file is packed with")]
fn open(file: &DataFile) -> Result<(csv::Reader<Watched<Box<dyn BufRead + Send>>>, Vec<String>), DataError> {
    let unreadable = |why: String| DataError::Unreadable { path: file.path.clone(), why };
    let mut input = file.open()?;
    let delimiter = match file.kind {
        Kind::Tsv => b'\t',
        _ => most_frequent(input.fill_buf().map_err(|error| file.fault(error))?),
    };
    let mut reader = ReaderBuilder::new().delimiter(delimiter).from_reader(Watched::new(input, delimiter));
    let header = reader.headers().map_err(|error| unreadable(format!("the header: {}", describe(&error))))?;
    let names: Vec<String> = header.iter().map(|name| name.trim().to_owned()).collect();
    if let Some((index, name)) = names.iter().enumerate().find(|(index, name)| names[..*index].contains(name)) {
        return Err(unreadable(format!("the header has `{name}` twice, the second time as column {}", index + 1)));
    }
    Ok((reader, names))
}

/// Every record behind the header, with the line on which it begins.
pub(crate) fn read(file: &DataFile, chunks: &mut Chunks<'_>) -> Result<(), DataError> {
    let unreadable = |why: String| DataError::Unreadable { path: file.path.clone(), why };
    let (mut reader, names) = open(file)?;
    let mut record = StringRecord::new();
    loop {
        let line = reader.position().line();
        reader.get_mut().left = RECORD_BYTES;
        match reader.read_record(&mut record) {
            Ok(false) => match reader.get_ref().inside_quotes() {
                None => return Ok(()),
                Some(line) => {
                    let why = "a quote that is never closed begins here, so that the rest of the file is one cell";
                    return Err(DataError::row(&file.path, line, why.to_owned()));
                }
            },
            Ok(true) => {
                let cells = names.iter().zip(&record).filter(|(_, cell)| !cell.is_empty());
                let row: Row = cells.map(|(name, cell)| (name.clone(), Value::from(cell))).collect();
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
                _ if reader.get_ref().left == 0 => {
                    let why = format!("the row has more than {} MiB; is a quote never closed?", RECORD_BYTES >> 20);
                    return Err(DataError::row(&file.path, line, why));
                }
                _ => {
                    return Err(match error.into_kind() {
                        ErrorKind::Io(error) => file.fault(error),
                        other => unreadable(format!("{other:?}")),
                    });
                }
            },
        }
    }
}

/// Input of which a record may take so much, and whose quotes are followed: the reader takes the end of a file for the end
/// of a quote.
struct Watched<R> {
    input: R,
    left: u64,
    delimiter: u8,
    place: Place,
    line: u64,
    /// Line of the last quote that was opened.
    opened: u64,
}

/// Where in a record the next byte stands.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    BeforeCell,
    Cell,
    Quoted,
    /// Behind a quote in a quoted cell: the first of two, or the last one.
    Quote,
}

impl<R> Watched<R> {
    fn new(input: R, delimiter: u8) -> Self {
        Self { input, left: RECORD_BYTES, delimiter, place: Place::BeforeCell, line: 1, opened: 1 }
    }

    /// The line of the quote that is still open.
    fn inside_quotes(&self) -> Option<u64> {
        (self.place == Place::Quoted).then_some(self.opened)
    }

    fn follow(&mut self, byte: u8) {
        self.place = match (self.place, byte) {
            (Place::BeforeCell, b'"') => {
                self.opened = self.line;
                Place::Quoted
            }
            (Place::Quote, b'"') => Place::Quoted,
            (Place::Quoted, b'"') => Place::Quote,
            (Place::Quoted, _) => Place::Quoted,
            (_, b'\n' | b'\r') => Place::BeforeCell,
            (_, byte) if byte == self.delimiter => Place::BeforeCell,
            _ => Place::Cell,
        };
        self.line += u64::from(byte == b'\n');
    }
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let read = self.input.read(buffer)?;
        self.left = self.left.saturating_sub(read as u64);
        buffer[..read].iter().for_each(|byte| self.follow(*byte));
        Ok(read)
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
