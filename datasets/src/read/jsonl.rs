//! JSON: one object per line, or one list of objects.
//!
//! Responsible for: splitting a file into lines or list elements, and strict parsing: valid UTF-8, objects only, no
//! duplicate keys, nesting up to serde_json's limit. Must not depend on: the meaning of a row.

use std::fmt;
use std::io::{self, BufRead, Read};
use std::path::Path;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::error::{DataError, RowFault};
use crate::read::files::DataFile;
use crate::read::rows::{Chunks, Content, Row};

/// Maximum size of a line or a list element, in bytes.
const ROW_BYTES: u64 = 64 << 20;

/// Reads every row of a file. A file that starts with `[` is a list, whatever its name is.
pub(crate) fn read(file: &DataFile, chunks: &mut Chunks<'_>) -> Result<(), DataError> {
    let (mut reader, io) = (file.open()?, |error| file.fault(error));
    let first = reader.fill_buf().map_err(io)?.iter().copied().find(|byte| !byte.is_ascii_whitespace());
    match first {
        Some(b'[') => elements(&file.path, reader, &io, chunks),
        _ => lines(reader, &io, chunks),
    }
}

/// Reads every line that isn't blank.
pub(crate) fn lines(
    mut reader: impl BufRead,
    io: &dyn Fn(io::Error) -> DataError,
    chunks: &mut Chunks<'_>,
) -> Result<(), DataError> {
    for number in 1.. {
        let mut line = Vec::new();
        if reader.by_ref().take(ROW_BYTES).read_until(b'\n', &mut line).map_err(io)? == 0 {
            break;
        }
        if line.len() as u64 == ROW_BYTES && line.last() != Some(&b'\n') {
            let skipped = reader.skip_until(b'\n').map_err(io)? as u64;
            let why = format!(
                "the line has {} bytes, more than {} MiB; is this one JSON object a line?",
                ROW_BYTES + skipped,
                ROW_BYTES >> 20
            );
            chunks.push(number, Content::Fault(RowFault::Syntax(why)))?;
        } else if line.iter().any(|byte| !byte.is_ascii_whitespace()) {
            chunks.push(number, Content::Json(line))?;
        }
    }
    Ok(())
}

/// Reads every element of a list, one at a time, so that the list may be larger than memory.
pub(crate) fn elements(
    path: &Path,
    mut reader: impl BufRead,
    io: &dyn Fn(io::Error) -> DataError,
    chunks: &mut Chunks<'_>,
) -> Result<(), DataError> {
    let (mut splitter, mut number) = (Splitter::default(), 1);
    loop {
        let bytes = reader.fill_buf().map_err(io)?;
        if bytes.is_empty() {
            return match splitter.place {
                Place::After => Ok(()),
                _ => {
                    Err(DataError::row(path, number, "the list ends here without `]`; is the file cut off?".to_owned()))
                }
            };
        }
        let (used, event) = splitter.advance(bytes);
        reader.consume(used);
        match event {
            None => {}
            Some(Event::Element(element)) => {
                let content = match element.is_empty() {
                    true => Content::Fault(RowFault::Syntax("an empty element; is a comma too many?".to_owned())),
                    false => Content::Json(element),
                };
                chunks.push(number, content)?;
                number += 1;
            }
            Some(Event::TooLong) => {
                let why = format!("the element has more than {} MiB; is this a list of JSON objects?", ROW_BYTES >> 20);
                return Err(DataError::row(path, number, why));
            }
            Some(Event::Trailing) => {
                let why = "text after the end of the list; a file holds one list, or one object a line".to_owned();
                return Err(DataError::Unreadable { path: path.to_owned(), why });
            }
        }
    }
}

/// Finds the ends of list elements without parsing them.
#[derive(Default)]
struct Splitter {
    place: Place,
    element: Vec<u8>,
    /// Number of open brackets and braces in the element.
    depth: usize,
    in_text: bool,
    escaped: bool,
    /// Whether an element or a comma has been read.
    begun: bool,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Place {
    #[default]
    Before,
    Inside,
    After,
}

enum Event {
    Element(Vec<u8>),
    TooLong,
    /// Text after the end of the list.
    Trailing,
}

impl Splitter {
    /// Reads bytes up to the next event. Returns the number of bytes read.
    fn advance(&mut self, bytes: &[u8]) -> (usize, Option<Event>) {
        for (index, byte) in bytes.iter().enumerate() {
            let used = index + 1;
            match (self.place, *byte) {
                (Place::Before, b'[') => self.place = Place::Inside,
                (Place::Before, _) => {}
                (Place::After, byte) if byte.is_ascii_whitespace() => {}
                (Place::After, _) => return (used, Some(Event::Trailing)),
                (Place::Inside, byte) => {
                    if let Some(event) = self.inside(byte) {
                        return (used, Some(event));
                    }
                }
            }
        }
        (bytes.len(), None)
    }

    fn inside(&mut self, byte: u8) -> Option<Event> {
        if self.in_text {
            (self.in_text, self.escaped) = (self.escaped || byte != b'"', !self.escaped && byte == b'\\');
        } else if self.depth == 0 && matches!(byte, b',' | b']') {
            let ends = byte == b']';
            // `[]` has no element.
            let empty = ends && !self.begun && self.element.is_empty();
            if ends {
                self.place = Place::After;
            }
            self.begun = true;
            let mut element = std::mem::take(&mut self.element);
            element.truncate(element.trim_ascii_end().len());
            return (!empty).then_some(Event::Element(element));
        } else {
            match byte {
                b'"' => self.in_text = true,
                b'[' | b'{' => self.depth += 1,
                b']' | b'}' => self.depth = self.depth.saturating_sub(1),
                byte if byte.is_ascii_whitespace() && self.element.is_empty() => return None,
                _ => {}
            }
        }
        self.element.push(byte);
        (self.element.len() as u64 > ROW_BYTES).then_some(Event::TooLong)
    }
}

/// Parses a line or an element as an object.
pub(crate) fn parse(bytes: &[u8]) -> Result<Row, RowFault> {
    let text = std::str::from_utf8(bytes).map_err(|error| RowFault::Encoding { column: error.valid_up_to() + 1 })?;
    if let Some(at) = bytes.iter().position(|byte| *byte == 0) {
        let why = format!("a zero byte at column {}; the file is damaged, or no text", at + 1);
        return Err(RowFault::Syntax(why));
    }
    // Without the line break, so that serde_json doesn't report errors in line 2.
    match serde_json::from_str(text.trim_ascii_end()) {
        Ok(Strict(Value::Object(row))) => Ok(row),
        Ok(Strict(other)) => {
            let kind = crate::formats::conversation::kind(&other);
            Err(RowFault::Syntax(format!("{kind}; expected a JSON object")))
        }
        Err(error) => {
            let text = error.to_string();
            let what = text.rfind(" at line ").map_or(text.as_str(), |end| &text[..end]);
            let hint = if error.is_eof() { "; is it cut off, or spread over several lines?" } else { "" };
            let place = match error.line() {
                0 | 1 => format!("column {}", error.column()),
                line => format!("line {line} of the element, column {}", error.column()),
            };
            Err(RowFault::Syntax(format!("{what} ({place}){hint}")))
        }
    }
}

/// A JSON value without duplicate keys in its objects.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Build).map(Strict)
    }
}

struct Build;

impl<'de> Visitor<'de> for Build {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Value, E> {
        Ok(Value::Bool(truth))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::from(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(Value::from(number))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(Number::from_f64(number).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::from(text))
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::String(text))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Strict(item)) = seq.next_element()? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some((key, Strict(value))) = map.next_entry::<String, Strict>()? {
            if object.contains_key(&key) {
                return Err(A::Error::custom(format_args!("key `{key}` stands twice in an object")));
            }
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}
