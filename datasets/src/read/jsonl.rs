//! JSON: lines, and lists in one file.
//!
//! Responsible for: lines with their numbers, and JSON as strictly as a table needs it: UTF-8, objects, no key twice, no
//! nesting beyond serde_json's limit. Must not depend on: what a row means.

use std::fmt;
use std::io::{self, BufRead, Read};

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::error::{DataError, RowFault};
use crate::read::files::DataFile;
use crate::read::rows::{Chunks, Content, Row, WHOLE_BYTES};

/// A longer line is a file of another kind.
const LINE_BYTES: u64 = 64 << 20;

/// Every line of a file that isn't blank.
pub(crate) fn read(file: &DataFile, chunks: &mut Chunks<'_>) -> Result<(), DataError> {
    lines(file.open()?, &|error| file.fault(error), chunks)
}

/// Every line that isn't blank.
pub(crate) fn lines(
    mut reader: impl BufRead,
    io: &dyn Fn(io::Error) -> DataError,
    chunks: &mut Chunks<'_>,
) -> Result<(), DataError> {
    for number in 1.. {
        let mut line = Vec::new();
        if reader.by_ref().take(LINE_BYTES).read_until(b'\n', &mut line).map_err(io)? == 0 {
            break;
        }
        if line.len() as u64 == LINE_BYTES && line.last() != Some(&b'\n') {
            let skipped = reader.skip_until(b'\n').map_err(io)? as u64;
            let why = format!(
                "the line has {} bytes, more than {} MiB; is this one JSON object a line?",
                LINE_BYTES + skipped,
                LINE_BYTES >> 20
            );
            chunks.push(number, Content::Fault(RowFault::Syntax(why)))?;
        } else if line.iter().any(|byte| !byte.is_ascii_whitespace()) {
            chunks.push(number, Content::Line(line))?;
        }
    }
    Ok(())
}

/// Every object of a list that is the whole file.
pub(crate) fn read_list(file: &DataFile, chunks: &mut Chunks<'_>) -> Result<(), DataError> {
    let text = file.text(WHOLE_BYTES)?;
    let list: Vec<Strict> = serde_json::from_str(&text).map_err(|error| {
        let why = format!("no list of JSON objects: {error}; one object a line belongs in a .jsonl file");
        DataError::Unreadable { path: file.path.clone(), why }
    })?;
    for (item, number) in list.into_iter().zip(1..) {
        let content = match item.0 {
            Value::Object(row) => Content::Row(row),
            other => Content::Fault(RowFault::Syntax(format!(
                "{}, not an object",
                crate::formats::conversation::kind(&other)
            ))),
        };
        chunks.push(number, content)?;
    }
    Ok(())
}

/// One line as an object.
pub(crate) fn parse(bytes: &[u8]) -> Result<Row, RowFault> {
    let text = std::str::from_utf8(bytes).map_err(|error| RowFault::Encoding { column: error.valid_up_to() + 1 })?;
    if text.starts_with('\u{feff}') {
        return Err(RowFault::Syntax(
            "the file begins with a byte order mark; save it as UTF-8 without one".to_owned(),
        ));
    }
    if let Some(at) = bytes.iter().position(|byte| *byte == 0) {
        let why = format!("a zero byte at column {}; the file is damaged, or no text", at + 1);
        return Err(RowFault::Syntax(why));
    }
    match serde_json::from_str(text) {
        Ok(Strict(Value::Object(row))) => Ok(row),
        Ok(Strict(other)) => Err(RowFault::Syntax(format!(
            "{}; expected one JSON object a line",
            crate::formats::conversation::kind(&other)
        ))),
        Err(error) => {
            // serde_json counts lines within this one line; only the column means something here.
            let text = error.to_string();
            let what = text.rfind(" at line ").map_or(text.as_str(), |end| &text[..end]);
            let hint = if error.is_eof() { "; is the line cut off?" } else { "" };
            Err(RowFault::Syntax(format!("{what} (column {}){hint}", error.column())))
        }
    }
}

/// A value in which no object has a key twice.
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
