//! Message contents that are a list of parts.
//!
//! Responsible for: the text of such a list. Must not depend on: messages, chat templates.

use serde_json::{Map, Value};

use crate::formats::conversation::kind;

/// Concatenates the texts of `parts`, as chat templates do. Also returns the parts with only their `type` and `text`.
///
/// # Errors
/// If a part isn't text, for example an image. The error names the first one.
pub(crate) fn text_of(parts: Vec<Value>) -> Result<(String, Vec<Value>), String> {
    let texts = parts.into_iter().enumerate().map(|(index, part)| part_text(part).map_err(|why| (index, why)));
    let texts: Vec<String> =
        texts.collect::<Result<_, _>>().map_err(|(index, why)| format!("part {index} of `content` is {why}"))?;
    let whole = texts.concat();
    Ok((whole, texts.iter().map(|text| part(text)).collect()))
}

/// A content part with this text.
pub(crate) fn part(text: &str) -> Value {
    Value::Object(Map::from_iter([("type".to_owned(), "text".into()), ("text".to_owned(), text.into())]))
}

fn part_text(part: Value) -> Result<String, String> {
    const OTHERS: &str = "only text is trained";
    let mut fields = match part {
        Value::String(text) => return Ok(text),
        Value::Object(fields) => fields,
        other => return Err(format!("{}, not an object", kind(&other))),
    };
    match fields.get("type") {
        None | Some(Value::Null) => {}
        Some(Value::String(name)) if name == "text" => {}
        Some(Value::String(name)) => return Err(format!("of type \"{name}\"; {OTHERS}")),
        Some(other) => return Err(format!("of a `type` that is {}", kind(other))),
    }
    match fields.shift_remove("text") {
        Some(Value::String(text)) => Ok(text),
        _ => Err(format!("without `text`; {OTHERS}")),
    }
}
