//! The values of a template.

/// A value. It borrows its content from the data or from the template.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    /// An absent key of a map, or `nil`.
    Nil,
    Bool(bool),
    Int(i64),
    /// A string: bytes, as in Go.
    Text(&'a [u8]),
    List(&'a [Value<'a>]),
    /// A map with text keys. An absent key is [`Nil`](Self::Nil), because Ollama sets `missingkey=zero`.
    Map(&'a [(&'a str, Value<'a>)]),
    /// A struct. An absent field is an error.
    Struct(&'a [(&'a str, Value<'a>)]),
}

impl<'a> Value<'a> {
    pub fn text(text: &'a str) -> Self {
        Self::Text(text.as_bytes())
    }

    /// Go's truth: everything except `false`, 0, nil and what is empty.
    pub(super) fn is_true(self) -> bool {
        match self {
            Self::Nil => false,
            Self::Bool(truth) => truth,
            Self::Int(number) => number != 0,
            Self::Text(bytes) => !bytes.is_empty(),
            Self::List(items) => !items.is_empty(),
            Self::Map(entries) => !entries.is_empty(),
            Self::Struct(_) => true,
        }
    }

    /// The field or key `name`, or what is wrong.
    pub(super) fn field(self, name: &str) -> Result<Self, String> {
        let find =
            |entries: &'a [(&'a str, Value<'a>)]| entries.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
        match self {
            Self::Map(entries) => Ok(find(entries).unwrap_or(Self::Nil)),
            Self::Struct(fields) => find(fields).ok_or_else(|| format!("can't evaluate field {name}")),
            other => Err(format!("can't evaluate field {name} in {}", other.kind())),
        }
    }

    /// For errors.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::Nil => "nil",
            Self::Bool(_) => "a bool",
            Self::Int(_) => "an integer",
            Self::Text(_) => "a string",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
            Self::Struct(_) => "a struct",
        }
    }
}
