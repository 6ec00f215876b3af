//! What a row of a dataset says: a conversation, a prompt with its completion, or a text.
//!
//! Responsible for: these types, and what makes one valid.
//! Must not depend on: file formats, templates, tokenizers.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::error::RowFault;

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    pub role: String,
    /// The text; empty where the file has no text (see `fields`).
    pub content: String,
    /// Every other key, as the file has it. A `content` that isn't text (null, a list of parts) stands here under its
    /// own name, and is what the chat template sees.
    pub fields: Map<String, Value>,
    /// Does it carry loss, as far as `data.train_on` lets it? Rows say so with `"train": false` or `"weight": 0`.
    pub trained: bool,
}

impl Message {
    /// A message of plain text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), fields: Map::new(), trained: true }
    }

    /// Reads a message from JSON, as a row of data has it.
    ///
    /// # Errors
    /// When it is no object, or a key has no meaning.
    pub fn from_json(value: Value) -> Result<Self, RowFault> {
        match value {
            Value::Object(fields) => Ok(Self::from_fields(fields)?),
            other => Err(RowFault::Syntax(format!("a message is {}, not an object", kind(&other)))),
        }
    }

    /// Does the model itself speak in it?
    pub fn is_assistant(&self) -> bool {
        self.role == "assistant"
    }

    /// Reads a message from its keys.
    ///
    /// # Errors
    /// When a key has no meaning, such as a weight of 0.5.
    pub(crate) fn from_fields(mut fields: Map<String, Value>) -> Result<Self, String> {
        let role = match fields.shift_remove("role") {
            Some(Value::String(role)) => role,
            Some(other) => return Err(format!("`role` is {}, not text", kind(&other))),
            None => return Err(format!("no `role`; it has {}", keys(&fields))),
        };
        let calls_tools = fields.contains_key("tool_calls");
        let content = match fields.get_mut("content") {
            Some(Value::String(text)) => std::mem::take(text),
            Some(Value::Null | Value::Array(_)) => String::new(),
            Some(other) => return Err(format!("`content` is {}, not text, null or a list of parts", kind(other))),
            // A turn that only calls tools has no content in some exports.
            None if calls_tools => String::new(),
            None => return Err(format!("no `content`; it has {}", keys(&fields))),
        };
        // An empty text stays among the fields, so that it differs from no content at all.
        if !content.is_empty() {
            fields.shift_remove("content");
        }
        let trained = trained(&mut fields)?;
        if trained == Some(true) && role != "assistant" {
            return Err(format!("only the assistant's messages are trained, and this is {role}'s"));
        }
        Ok(Self { role, content, fields, trained: trained.unwrap_or(true) })
    }
}

/// Takes `train` and `weight` out of a message: `None` when it has neither.
fn trained(fields: &mut Map<String, Value>) -> Result<Option<bool>, String> {
    let train = match fields.shift_remove("train") {
        None | Some(Value::Null) => None,
        Some(Value::Bool(train)) => Some(train),
        Some(other) => return Err(format!("`train` is {}, not true or false", kind(&other))),
    };
    let weight = match fields.shift_remove("weight") {
        None | Some(Value::Null) => None,
        Some(weight) if weight.as_f64() == Some(0.0) => Some(false),
        Some(weight) if weight.as_f64() == Some(1.0) => Some(true),
        Some(weight) => return Err(format!("`weight` is {weight}; a message is trained (1) or not (0)")),
    };
    match (train, weight) {
        (Some(train), Some(weight)) if train != weight => Err("`train` and `weight` contradict each other".to_owned()),
        _ => Ok(train.or(weight)),
    }
}

fn keys(fields: &Map<String, Value>) -> String {
    if fields.is_empty() { "no keys".to_owned() } else { fields.keys().cloned().collect::<Vec<_>>().join(", ") }
}

/// The name of a JSON value's type.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Messages in order, and the tools that the assistant may call (JSON schemas, as the file has them).
#[derive(Clone, Debug, PartialEq)]
pub struct Conversation {
    pub messages: Vec<Message>,
    pub tools: Option<Value>,
}

impl Conversation {
    /// The tools that it offers or calls.
    pub(crate) fn tool_names(&self) -> BTreeSet<&str> {
        fn list(value: Option<&Value>) -> impl Iterator<Item = &Value> {
            value.and_then(Value::as_array).into_iter().flatten()
        }
        let calls = self.messages.iter().flat_map(|message| list(message.fields.get("tool_calls")));
        let all = list(self.tools.as_ref()).chain(calls);
        all.filter_map(|tool| tool.get("function").unwrap_or(tool).get("name")?.as_str()).collect()
    }
}

/// A validated row.
#[derive(Clone, Debug, PartialEq)]
pub enum Sample {
    Conversation(Conversation),
    PromptCompletion { prompt: String, completion: String },
    Text(String),
}

impl Sample {
    /// Checks what no later step could repair.
    pub(crate) fn validate(self) -> Result<Self, RowFault> {
        match &self {
            Self::Conversation(conversation) if conversation.messages.is_empty() => Err(RowFault::NoMessages),
            Self::Conversation(conversation) if !conversation.messages.iter().any(Message::is_assistant) => {
                Err(RowFault::NoAssistant)
            }
            Self::PromptCompletion { prompt, .. } if prompt.is_empty() => Err(RowFault::EmptyText("prompt")),
            Self::PromptCompletion { completion, .. } if completion.is_empty() => {
                Err(RowFault::EmptyText("completion"))
            }
            Self::Text(text) if text.is_empty() => Err(RowFault::EmptyText("text")),
            _ => Ok(self),
        }
    }
}
