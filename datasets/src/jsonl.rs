//! JSON lines, line by line: where each row stands, whether it is what the recipe says, and what a table can't hold.
//!
//! Responsible for: the survey of a JSON lines file. Must not depend on: polars, templates.
//!
//! A table has one type per column. Reading lines into it turns absent keys into nulls and, where lines differ, numbers
//! into text, all without a word. So every line is looked at before the table is read: a fault is named with its line,
//! texts are known to be texts, and structured values (tool calls, content in parts) are kept as the file has them.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::ops::ControlFlow;
use std::path::Path;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::conversation::{Shape, TOOLS};
use crate::error::{DataError, RowFault};

/// What a table can't hold of one row.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct SurveyedRow {
    /// Line in the file, from 1.
    pub(crate) line: u64,
    /// For each message its keys besides `role` and `content`; `content` too where it isn't text.
    pub(crate) fields: Vec<Map<String, Value>>,
    pub(crate) tools: Option<Value>,
}

/// Calls `each` with every line that isn't blank, and its number from 1, until it breaks off.
fn lines(path: &Path, mut each: impl FnMut(u64, &[u8]) -> Result<ControlFlow<()>, DataError>) -> Result<(), DataError> {
    let io = |source| DataError::Io { path: path.to_owned(), source };
    let mut reader = BufReader::with_capacity(1 << 16, File::open(path).map_err(io)?);
    let (mut buffer, mut line) = (Vec::new(), 0);
    loop {
        buffer.clear();
        if reader.read_until(b'\n', &mut buffer).map_err(io)? == 0 {
            return Ok(());
        }
        line += 1;
        // The same blanks that the table's reader skips.
        if buffer.iter().any(|byte| !matches!(byte, b' ' | b'\t' | b'\r' | b'\n')) && each(line, &buffer)?.is_break() {
            return Ok(());
        }
    }
}

/// The keys of the first rows, in order of appearance.
pub(crate) fn columns(path: &Path) -> Result<Vec<String>, DataError> {
    const ROWS: usize = 100;
    let (mut columns, mut rows): (Vec<String>, usize) = (Vec::new(), 0);
    lines(path, |line, bytes| {
        let keys: Keys =
            parse(bytes, |text| serde_json::from_str(text)).map_err(|fault| DataError::row(path, line, fault))?;
        for key in keys.0 {
            if !columns.contains(&key) {
                columns.push(key);
            }
        }
        rows += 1;
        Ok(if rows < ROWS { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })?;
    if rows == 0 { Err(DataError::Empty { path: path.to_owned() }) } else { Ok(columns) }
}

/// Looks at every line.
///
/// # Errors
/// Names the first line that isn't an object with the columns of `shape`.
pub(crate) fn survey(path: &Path, shape: &Shape) -> Result<Vec<SurveyedRow>, DataError> {
    let mut rows = Vec::new();
    lines(path, |line, bytes| {
        let row = survey_line(bytes, shape).map_err(|fault| DataError::row(path, line, fault))?;
        rows.push(SurveyedRow { line, ..row });
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(rows)
}

/// Looks at one line.
pub(crate) fn survey_line(bytes: &[u8], shape: &Shape) -> Result<SurveyedRow, RowFault> {
    let found = parse(bytes, |text| {
        let mut json = serde_json::Deserializer::from_str(text);
        let found = RowSeed(shape).deserialize(&mut json)?;
        json.end()?;
        Ok(found)
    })?;
    for (column, _) in shape.columns() {
        match found.seen.iter().find(|(name, _)| name == column) {
            None => return Err(RowFault::Missing(column.clone())),
            Some((_, false)) => return Err(RowFault::Null(column.clone())),
            Some((_, true)) => {}
        }
    }
    Ok(found.row)
}

fn parse<T>(bytes: &[u8], read: impl FnOnce(&str) -> serde_json::Result<T>) -> Result<T, RowFault> {
    let text = std::str::from_utf8(bytes).map_err(|error| RowFault::Encoding { column: error.valid_up_to() + 1 })?;
    if text.starts_with('\u{feff}') {
        return Err(RowFault::Syntax(
            "the file begins with a byte order mark; save it as UTF-8 without one".to_owned(),
        ));
    }
    read(text).map_err(|error| {
        // serde_json counts lines within this one line; only the column means something here.
        let text = error.to_string();
        let what = text.rfind(" at line ").map_or(text.as_str(), |end| &text[..end]);
        RowFault::Syntax(format!("{what} (column {})", error.column()))
    })
}

/// A row that has been read, and which of the wanted columns it had (with `true` for a value, `false` for null).
struct Found {
    row: SurveyedRow,
    seen: Vec<(String, bool)>,
}

struct RowSeed<'a>(&'a Shape);

impl<'de> DeserializeSeed<'de> for RowSeed<'_> {
    type Value = Found;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Found, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for RowSeed<'_> {
    type Value = Found;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("one JSON object a line")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Found, A::Error> {
        let mut found = Found { row: SurveyedRow::default(), seen: Vec::new() };
        while let Some(key) = map.next_key::<String>()? {
            if !self.0.uses(&key) {
                // Not `IgnoredAny`: this one keeps the limit on nesting.
                map.next_value::<Skipped>()?;
                continue;
            }
            if found.seen.iter().any(|(seen, _)| *seen == key) {
                return Err(A::Error::custom(format_args!("key `{key}` stands twice in the row")));
            }
            let present = match self.0 {
                Shape::Messages { column } if *column == key => {
                    let messages = map.next_value::<Option<Vec<MessageFields>>>()?;
                    let present = messages.is_some();
                    found.row.fields = messages.unwrap_or_default().into_iter().map(|message| message.0).collect();
                    present
                }
                Shape::Messages { .. } => {
                    debug_assert_eq!(key, TOOLS);
                    found.row.tools = map.next_value::<Option<Value>>()?;
                    true
                }
                _ => map.next_value::<Option<Text>>()?.is_some(),
            };
            found.seen.push((key, present));
        }
        Ok(found)
    }
}

/// What a table of `role` and `content` can't hold of a message.
struct MessageFields(Map<String, Value>);

impl<'de> Deserialize<'de> for MessageFields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = MessageFields;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a message object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<MessageFields, A::Error> {
                let mut fields = Map::new();
                let (mut role, mut content) = (false, false);
                while let Some(key) = map.next_key::<String>()? {
                    let twice = match key.as_str() {
                        "role" => std::mem::replace(&mut role, true),
                        "content" => std::mem::replace(&mut content, true),
                        other => fields.contains_key(other),
                    };
                    if twice {
                        return Err(A::Error::custom(format_args!("key `{key}` stands twice in a message")));
                    }
                    match key.as_str() {
                        "role" => {
                            map.next_value::<Text>()?;
                        }
                        "content" => match map.next_value::<Content>()? {
                            Content::Text => {}
                            Content::Other(value) => {
                                fields.insert(key, value);
                            }
                        },
                        _ => {
                            fields.insert(key, map.next_value()?);
                        }
                    }
                }
                if !role {
                    return Err(A::Error::custom("a message without `role`"));
                }
                if !content && !fields.contains_key("tool_calls") {
                    return Err(A::Error::custom("a message without `content`"));
                }
                Ok(MessageFields(fields))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// A text, looked at and not kept.
struct Text;

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Look;
        impl Visitor<'_> for Look {
            type Value = Text;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("text")
            }

            fn visit_str<E>(self, _: &str) -> Result<Text, E> {
                Ok(Text)
            }
        }
        deserializer.deserialize_str(Look)
    }
}

/// A message's content: text, looked at and not kept, or another value.
enum Content {
    Text,
    Other(Value),
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Look;
        impl<'de> Visitor<'de> for Look {
            type Value = Content;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("text, null or a list of parts as `content`")
            }

            fn visit_str<E>(self, _: &str) -> Result<Content, E> {
                Ok(Content::Text)
            }

            fn visit_unit<E>(self) -> Result<Content, E> {
                Ok(Content::Other(Value::Null))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Content, A::Error> {
                let mut parts = Vec::new();
                while let Some(part) = seq.next_element()? {
                    parts.push(part);
                }
                Ok(Content::Other(Value::Array(parts)))
            }
        }
        deserializer.deserialize_any(Look)
    }
}

/// The keys of an object.
struct Keys(Vec<String>);

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Keys;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("one JSON object a line")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Keys, A::Error> {
                let mut keys = Vec::new();
                while let Some((key, Skipped)) = map.next_entry()? {
                    keys.push(key);
                }
                Ok(Keys(keys))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// Any value, skipped within serde_json's limit on nesting (which `IgnoredAny` escapes, and the table's reader needs).
struct Skipped;

impl<'de> Deserialize<'de> for Skipped {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Skip;
        impl<'de> Visitor<'de> for Skip {
            type Value = Skipped;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a JSON value")
            }

            fn visit_bool<E>(self, _: bool) -> Result<Skipped, E> {
                Ok(Skipped)
            }

            fn visit_i64<E>(self, _: i64) -> Result<Skipped, E> {
                Ok(Skipped)
            }

            fn visit_u64<E>(self, _: u64) -> Result<Skipped, E> {
                Ok(Skipped)
            }

            fn visit_f64<E>(self, _: f64) -> Result<Skipped, E> {
                Ok(Skipped)
            }

            fn visit_str<E>(self, _: &str) -> Result<Skipped, E> {
                Ok(Skipped)
            }

            fn visit_unit<E>(self) -> Result<Skipped, E> {
                Ok(Skipped)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Skipped, A::Error> {
                while seq.next_element::<Skipped>()?.is_some() {}
                Ok(Skipped)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Skipped, A::Error> {
                while map.next_entry::<IgnoredAny, Skipped>()?.is_some() {}
                Ok(Skipped)
            }
        }
        deserializer.deserialize_any(Skip)
    }
}
