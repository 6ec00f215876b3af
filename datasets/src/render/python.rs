//! Python's notation of values, which chat templates rely on.
//!
//! Responsible for: JSON with the spaces of Python's `json.dumps`, values in the notation of Python's `str`, string
//! methods that minijinja's compatibility layer lacks, and JSON data as template values.
//! Must not depend on: a particular template.

use std::fmt::Write as _;

use minijinja::value::{Kwargs, ValueKind, from_args};
use minijinja::{Error, ErrorKind, Output, State, Value};

use crate::formats::conversation::Message;

/// Keys with the reasoning of an assistant message. Most templates read the first one.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// Converts a message to a template value, and adds its bytes to `size`. Reasoning is passed under all names that
/// templates read, as in transformers.
pub(crate) fn message(message: &Message, size: &mut usize) -> Value {
    let fields = &message.fields;
    let reasoning = REASONING.iter().find_map(|key| fields.get(*key).filter(|value| !value.is_null()));
    let mut pairs = Vec::with_capacity(fields.len() + 4);
    if let Some(reasoning) = reasoning.filter(|_| !fields.contains_key("thinking")) {
        pairs.push(("thinking", value(reasoning, size)));
    }
    pairs.push(("role", Value::from(message.role.clone())));
    let calls_only = message.content.is_empty() && fields.contains_key("tool_calls");
    if !fields.contains_key("content") && !calls_only {
        pairs.push(("content", Value::from(message.content.clone())));
    }
    *size += message.role.len() + message.content.len();
    let others = fields.iter().filter(|(key, _)| reasoning.is_none() || *key != REASONING[0]);
    pairs.extend(others.map(|(key, field)| (key.as_str(), value(field, size))));
    pairs.extend(reasoning.map(|reasoning| (REASONING[0], value(reasoning, size))));
    Value::from_pairs(pairs)
}

/// Converts JSON to a template value, and adds its bytes to `size`. The order of keys is kept.
pub(crate) fn value(json: &serde_json::Value, size: &mut usize) -> Value {
    *size += 8;
    match json {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(truth) => Value::from(*truth),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(integer), ..) => Value::from(integer),
            (None, Some(integer), _) => Value::from(integer),
            (None, None, float) => Value::from(float.unwrap_or(f64::NAN)),
        },
        serde_json::Value::String(text) => {
            *size += text.len();
            Value::from(text.clone())
        }
        serde_json::Value::Array(items) => Value::from(items.iter().map(|item| value(item, size)).collect::<Vec<_>>()),
        serde_json::Value::Object(fields) => {
            *size += fields.keys().map(String::len).sum::<usize>();
            Value::from_pairs(fields.iter().map(|(key, field)| (key.clone(), value(field, size))).collect::<Vec<_>>())
        }
    }
}

/// The filter `tojson` of transformers: `json.dumps(value, ensure_ascii=False, indent, separators, sort_keys)`, without
/// the escaping for HTML that Jinja's own filter adds.
pub(crate) fn tojson(state: &State, value: &Value, options: Kwargs) -> Result<Value, Error> {
    let separators: Option<Vec<String>> = options.get("separators")?;
    let indent: Option<Value> = options.get("indent")?;
    let indent = match indent.filter(|indent| !indent.is_none()) {
        None => None,
        Some(indent) => match (indent.as_str(), indent.as_usize()) {
            (Some(text), _) if text.len() <= 64 => Some(text.to_owned()),
            (None, Some(width)) if width <= 64 => Some(" ".repeat(width)),
            _ => {
                return Err(Error::new(
                    ErrorKind::InvalidOperation,
                    "tojson: `indent` must be a text or number of at most 64",
                ));
            }
        },
    };
    let (item, key) = match separators.as_deref() {
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => return Err(Error::new(ErrorKind::InvalidOperation, "tojson: `separators` must be two texts")),
    };
    let ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let sort = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    options.assert_all_used()?;
    let mut writer = Json { state: Some(state), out: String::new(), charged: 0, indent, item, key, ascii, sort };
    writer.value(value, 0)?;
    writer.charge()?;
    Ok(Value::from(writer.out))
}

/// Writes JSON in the same notation as `tojson`.
pub(crate) fn dumps(json: &serde_json::Value) -> String {
    let (item, key) = (", ".to_owned(), ": ".to_owned());
    let mut writer =
        Json { state: None, out: String::new(), charged: 0, indent: None, item, key, ascii: false, sort: false };
    match writer.value(&value(json, &mut 0), 0) {
        Ok(()) => writer.out,
        // Only values that don't exist in JSON can fail.
        Err(_) => json.to_string(),
    }
}

/// Maximum nesting depth of written values. JSON data has at most 128 levels.
const DEPTH: usize = 256;

struct Json<'a, 'b, 'c> {
    /// Fuel is consumed from this state.
    state: Option<&'a State<'b, 'c>>,
    out: String,
    /// Bytes of `out` for which fuel was consumed.
    charged: usize,
    indent: Option<String>,
    item: String,
    key: String,
    ascii: bool,
    sort: bool,
}

impl Json<'_, '_, '_> {
    /// Consumes fuel for the bytes written since the last call: 1/8 for each byte.
    fn charge(&mut self) -> Result<(), Error> {
        let fresh = self.out.len() - self.charged;
        self.charged = self.out.len();
        self.state.map_or(Ok(()), |state| state.consume_fuel(fresh as u64 / 8 + 1))
    }

    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > DEPTH {
            return Err(Error::new(ErrorKind::BadSerialization, "tojson: the value is nested too deeply"));
        }
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.out.push_str(&number(value)),
            ValueKind::String => self.text(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items = value.try_iter()?.checked().map(|item| {
                    self.state.map_or(Ok(()), |state| state.consume_fuel(1))?;
                    item
                });
                let items: Vec<Value> = items.collect::<Result<_, _>>()?;
                self.group('[', ']', depth, items, |json, item| json.value(item, depth + 1))?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.checked().collect::<Result<_, _>>()?;
                if self.sort {
                    keys.sort();
                }
                self.group('{', '}', depth, keys, |json, key| {
                    match key.as_str() {
                        Some(text) => json.text(text),
                        None => json.text(&json_key(key)),
                    }
                    json.out.push_str(&json.key.clone());
                    json.value(&value.get_item(key)?, depth + 1)
                })?;
            }
            kind => {
                let why = format!("tojson: a value of type {kind} is not JSON serializable");
                return Err(Error::new(ErrorKind::BadSerialization, why));
            }
        }
        Ok(())
    }

    fn group(
        &mut self,
        open: char,
        close: char,
        depth: usize,
        items: Vec<Value>,
        mut write: impl FnMut(&mut Self, &Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out.push(open);
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                self.out.push_str(&self.item.clone());
            }
            self.line(depth + 1);
            write(self, item)?;
            self.charge()?;
        }
        if !items.is_empty() {
            self.line(depth);
        }
        self.out.push(close);
        Ok(())
    }

    fn line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            self.out.push_str(&indent.repeat(depth));
        }
    }

    fn text(&mut self, text: &str) {
        self.out.push('"');
        for char in text.chars() {
            match char {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                char if (char as u32) < 0x20 || self.ascii && !char.is_ascii() => {
                    for unit in char.encode_utf16(&mut [0; 2]) {
                        // Writing to a string can't fail.
                        let _ = write!(self.out, "\\u{unit:04x}");
                    }
                }
                char => self.out.push(char),
            }
        }
        self.out.push('"');
    }
}

fn json_key(key: &Value) -> String {
    match key.kind() {
        ValueKind::None => "null".to_owned(),
        ValueKind::Bool => if key.is_true() { "true" } else { "false" }.to_owned(),
        ValueKind::Number => number(key),
        _ => key.to_string(),
    }
}

/// A number in the notation of Python's `repr`: the shortest digits that parse to the same value, with an exponent for
/// 1e16 and above and for values below 1e-4.
fn number(value: &Value) -> String {
    let Some(float) = (!value.is_integer()).then(|| f64::try_from(value.clone()).ok()).flatten() else {
        return value.to_string();
    };
    if !float.is_finite() {
        return if float.is_nan() {
            "NaN"
        } else if float > 0.0 {
            "Infinity"
        } else {
            "-Infinity"
        }
        .to_owned();
    }
    let size = float.abs();
    if size != 0.0 && !(1e-4..1e16).contains(&size) {
        let text = format!("{float:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    format!("{float:?}")
}

/// Writes `{{ value }}` in the notation of Python's `str`.
pub(crate) fn format(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    let written = match value.as_str() {
        Some(text) => out.write_str(text),
        None => out.write_str(&text(state, value)?),
    };
    written.map_err(|_| Error::from(ErrorKind::WriteFailure))
}

/// Python's `str`.
pub(crate) fn text(state: &State, value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::String => Ok(value.as_str().unwrap_or_default().to_owned()),
        ValueKind::Undefined => Ok(String::new()),
        ValueKind::Invalid => Err(Error::new(ErrorKind::InvalidOperation, value.to_string())),
        _ => repr(state, value, 0),
    }
}

/// Whether Python can iterate over the value. (It can't iterate over `None`.)
pub(crate) fn is_iterable(value: &Value) -> bool {
    is_sequence(value) || value.kind() == ValueKind::Iterable
}

/// Whether the value has a length and items in Python, like texts and mappings.
pub(crate) fn is_sequence(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Undefined | ValueKind::String | ValueKind::Seq | ValueKind::Map)
}

/// Python's `repr`.
fn repr(state: &State, value: &Value, depth: usize) -> Result<String, Error> {
    if depth > DEPTH {
        return Err(Error::new(ErrorKind::InvalidOperation, "a value is nested too deeply to be written"));
    }
    state.consume_fuel(1)?;
    let text = match value.kind() {
        ValueKind::Number => match number(value).as_str() {
            "NaN" => "nan".to_owned(),
            "Infinity" => "inf".to_owned(),
            "-Infinity" => "-inf".to_owned(),
            number => number.to_owned(),
        },
        ValueKind::String => quoted(value.as_str().unwrap_or_default()),
        // A sum of lists is an iterable in the template engine, but a list in Python.
        ValueKind::Seq | ValueKind::Iterable => {
            let items = value.try_iter()?.checked().map(|item| repr(state, &item?, depth + 1));
            let items: Vec<String> = items.collect::<Result<_, Error>>()?;
            match (value.is_tuple(), items.as_slice()) {
                (false, _) => format!("[{}]", items.join(", ")),
                (true, [only]) => format!("({only},)"),
                (true, _) => format!("({})", items.join(", ")),
            }
        }
        ValueKind::Map => {
            let mut items = Vec::new();
            for key in value.try_iter()?.checked() {
                let key = key?;
                let item = value.get_item(&key)?;
                items.push(format!("{}: {}", repr(state, &key, depth + 1)?, repr(state, &item, depth + 1)?));
            }
            format!("{{{}}}", items.join(", "))
        }
        _ => value.to_string(),
    };
    state.consume_fuel(text.len() as u64 / 8)?;
    Ok(text)
}

fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for char in text.chars() {
        match char {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            char if char == quote => out.extend(['\\', quote]),
            char if (char as u32) < 0x20 || char as u32 == 0x7f => {
                let _ = write!(out, "\\x{:02x}", char as u32);
            }
            char => out.push(char),
        }
    }
    out.push(quote);
    out
}

/// Methods of Python's types: those of minijinja's compatibility layer, and some more for strings.
pub(crate) fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let Some(text) = value.as_str() else {
        return minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args);
    };
    match name {
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Ok(Value::from(text.strip_prefix(prefix).unwrap_or(text)))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Ok(Value::from(text.strip_suffix(suffix).unwrap_or(text)))
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            if separator.is_empty() {
                return Err(Error::new(ErrorKind::InvalidOperation, "empty separator"));
            }
            let parts = match name {
                "partition" => text.split_once(separator).map_or([text, "", ""], |(a, b)| [a, separator, b]),
                _ => text.rsplit_once(separator).map_or(["", "", text], |(a, b)| [a, separator, b]),
            };
            Ok(Value::from(parts.map(Value::from).to_vec()))
        }
        "rsplit" => {
            let (separator, limit): (Option<&str>, Option<i64>) = from_args(args)?;
            let limit = limit.and_then(|limit| usize::try_from(limit).ok()).map_or(usize::MAX, |limit| limit + 1);
            let mut parts: Vec<Value> = match separator {
                Some("") => return Err(Error::new(ErrorKind::InvalidOperation, "empty separator")),
                Some(separator) => text.rsplitn(limit, separator).map(Value::from).collect(),
                None if limit == usize::MAX => text.split_whitespace().rev().map(Value::from).collect(),
                None => return Err(Error::new(ErrorKind::InvalidOperation, "rsplit: a limit needs a separator")),
            };
            parts.reverse();
            Ok(Value::from(parts))
        }
        _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args),
    }
}
