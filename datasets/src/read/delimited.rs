//! CSV and TSV (RFC 4180), as spreadsheets write them.
//!
//! Responsible for: records as rows of text. Cells stay texts (`007` is not converted to a number), and an empty cell
//! is null.
//! Must not depend on: the meaning of a row.

use std::collections::VecDeque;
use std::io::{self, BufRead, Read};

use csv::{ErrorKind, ReaderBuilder, StringRecord};
use serde_json::Value;

use crate::error::{DataError, RowFault};
use crate::read::files::{DataFile, Kind};
use crate::read::rows::{Chunks, Content, Row};

/// Maximum size of a record in bytes. A longer record usually has a quote without its closing quote.
const RECORD_BYTES: u64 = 64 << 20;

/// The names in the header.
///
/// # Errors
/// If the header can't be read, or if the file is empty.
pub(crate) fn columns(file: &DataFile) -> Result<Vec<String>, DataError> {
    let names = open(file)?.1;
    if names.is_empty() { Err(DataError::Empty { path: file.path.clone() }) } else { Ok(names) }
}

/// Opens a file. Returns a reader for its records, and the names in its header.
#[expect(clippy::type_complexity, reason = "the reader depends on the file's compression")]
fn open(file: &DataFile) -> Result<(csv::Reader<Watched<Box<dyn BufRead + Send>>>, Vec<String>), DataError> {
    let unreadable = |why: String| DataError::Unreadable { path: file.path.clone(), why };
    let mut input = file.open()?;
    let beginning = input.fill_buf().map_err(|error| file.fault(error))?;
    let separator = separator_line(beginning);
    let delimiter = match (separator, file.kind) {
        (Some((delimiter, _)), _) => delimiter,
        (None, Kind::Tsv) => b'\t',
        _ => most_frequent(beginning),
    };
    let skipped = separator.map_or(0, |(_, bytes)| bytes);
    input.consume(skipped);
    let first_line = if skipped > 0 { 2 } else { 1 };
    let mut reader = ReaderBuilder::new().delimiter(delimiter).from_reader(Watched::new(input, delimiter, first_line));
    let header = reader.headers().map_err(|error| unreadable(format!("the header: {}", describe(&error))))?;
    let names: Vec<String> = header.iter().map(|name| name.trim().to_owned()).collect();
    reader.get_mut().records.pop_front();
    // Columns without a name are never read. pandas writes such a column for its index.
    let twice = |(index, name): &(usize, &String)| !name.is_empty() && names[..*index].contains(name);
    if let Some((index, name)) = names.iter().enumerate().find(twice) {
        return Err(unreadable(format!("the header has `{name}` twice, the second time as column {}", index + 1)));
    }
    Ok((reader, names))
}

/// Excel's first line `sep=;`: the delimiter that it states, and the length of the line in bytes.
fn separator_line(beginning: &[u8]) -> Option<(u8, usize)> {
    let end = beginning.iter().position(|byte| *byte == b'\n')?;
    let line = beginning[..end].trim_ascii_end();
    let line = line.strip_prefix(b"\"").and_then(|line| line.strip_suffix(b"\"")).unwrap_or(line);
    match line.strip_prefix(b"sep=").or_else(|| line.strip_prefix(b"SEP=")) {
        Some([delimiter]) if delimiter.is_ascii() => Some((*delimiter, end + 1)),
        // `trim_ascii_end` has removed the tab.
        Some([]) if beginning[..end].contains(&b'\t') => Some((b'\t', end + 1)),
        _ => None,
    }
}

/// Reads every record after the header. The number of a row is the line on which its record starts.
pub(crate) fn read(file: &DataFile, chunks: &mut Chunks<'_>) -> Result<(), DataError> {
    let unreadable = |why: String| DataError::Unreadable { path: file.path.clone(), why };
    let (mut reader, names) = open(file)?;
    let mut record = StringRecord::new();
    loop {
        reader.get_mut().left = RECORD_BYTES;
        let read = reader.read_record(&mut record);
        let begun = reader.get_mut().records.pop_front();
        let line = begun.map_or(reader.get_ref().line, |begun| begun.line);
        let content = match read {
            Ok(false) => return Ok(()),
            Ok(true) => match begun.and_then(|begun| begun.fault) {
                Some(fault) => {
                    let why = format!(
                        "text after the closing quote in line {fault}; inside of a quoted cell, write a quote as two: \"\""
                    );
                    Content::Fault(RowFault::Syntax(why))
                }
                None => Content::Row(row(&names, &record)),
            },
            Err(error) => match error.kind() {
                ErrorKind::Utf8 { err, .. } => {
                    let why = format!("not UTF-8 in column {}; save the file as UTF-8", err.field() + 1);
                    Content::Fault(RowFault::Syntax(why))
                }
                ErrorKind::UnequalLengths { .. } => Content::Fault(RowFault::Syntax(describe(&error))),
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
        };
        if let Some(line) = reader.get_ref().unclosed() {
            let why = "a quote that is never closed begins here, so that the rest of the file is one cell";
            return Err(DataError::row(&file.path, line, why.to_owned()));
        }
        chunks.push(line, content)?;
    }
}

fn row(names: &[String], record: &StringRecord) -> Row {
    let named = names.iter().zip(record).filter(|(name, _)| !name.is_empty());
    let value = |cell: &str| if cell.is_empty() { Value::Null } else { Value::from(cell) };
    named.map(|(name, cell)| (name.clone(), value(cell))).collect()
}

/// A reader that limits the size of a record and tracks the lines on which records start. The positions of the crate
/// `csv` are wrong after `\r\n` and blank lines. It also accepts two faults without an error: text after a closing
/// quote, and an open quote at the end of the file.
struct Watched<R> {
    input: R,
    left: u64,
    delimiter: u8,
    place: Place,
    line: u64,
    /// The line of the last opening quote.
    opened: u64,
    after_return: bool,
    ended: bool,
    /// Records that have started, but that `csv` has not returned yet.
    records: VecDeque<OpenRecord>,
}

#[derive(Clone, Copy)]
struct OpenRecord {
    line: u64,
    /// The line of the first text after a closing quote.
    fault: Option<u64>,
}

/// The position of the next byte in the grammar.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    BeforeRecord,
    BeforeCell,
    Cell,
    Quoted,
    /// After a quote in a quoted cell: either the closing quote, or the first of two quotes.
    Quote,
}

impl<R> Watched<R> {
    fn new(input: R, delimiter: u8, line: u64) -> Self {
        Self {
            input,
            left: RECORD_BYTES,
            delimiter,
            place: Place::BeforeRecord,
            line,
            opened: line,
            after_return: false,
            ended: false,
            records: VecDeque::new(),
        }
    }

    /// The line of the quote that is still open at the end of the file.
    fn unclosed(&self) -> Option<u64> {
        (self.ended && self.place == Place::Quoted).then_some(self.opened)
    }

    fn follow(&mut self, byte: u8) {
        let is_end = matches!(byte, b'\n' | b'\r');
        if self.place == Place::BeforeRecord && !is_end {
            self.records.push_back(OpenRecord { line: self.line, fault: None });
        }
        self.place = match (self.place, byte) {
            (Place::BeforeRecord | Place::BeforeCell, b'"') => {
                self.opened = self.line;
                Place::Quoted
            }
            (Place::Quote, b'"') => Place::Quoted,
            (Place::Quoted, b'"') => Place::Quote,
            (Place::Quoted, _) => Place::Quoted,
            _ if is_end => Place::BeforeRecord,
            (_, byte) if byte == self.delimiter => Place::BeforeCell,
            (Place::Quote, _) => {
                let line = self.line;
                if let Some(begun) = self.records.back_mut() {
                    begun.fault.get_or_insert(line);
                }
                Place::Cell
            }
            _ => Place::Cell,
        };
        // `\r\n` is a single line end.
        self.line += u64::from(byte == b'\r' || (byte == b'\n' && !self.after_return));
        self.after_return = byte == b'\r';
    }
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let read = self.input.read(buffer)?;
        self.left = self.left.saturating_sub(read as u64);
        self.ended = read == 0;
        buffer[..read].iter().for_each(|byte| self.follow(*byte));
        Ok(read)
    }
}

/// The most frequent delimiter in the first line, outside of quotes.
fn most_frequent(beginning: &[u8]) -> u8 {
    let (mut counts, mut quoted) = ([(b',', 0), (b';', 0), (b'\t', 0)], false);
    for byte in beginning.iter().take_while(|byte| **byte != b'\n') {
        quoted ^= *byte == b'"';
        for (delimiter, count) in &mut counts {
            *count += usize::from(!quoted && delimiter == byte);
        }
    }
    // If several are equally frequent, the first one.
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
