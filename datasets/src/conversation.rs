//! What a row of a dataset says: a conversation, a prompt with its completion, or a text.
//!
//! Responsible for: these types, and which columns make which of them.
//! Must not depend on: file formats, templates, tokenizers.

use std::path::Path;

use serde_json::{Map, Value};
use tonfall_recipes::plan::{DataFormat, DataPlan};

use crate::error::{DataError, RowFault};

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    pub role: String,
    /// The text; empty where the file has no text (see `fields`).
    pub content: String,
    /// Every other key, as the file has it. A `content` that isn't text (null, a list of parts) stands here under its
    /// own name, and is what the chat template sees.
    pub fields: Map<String, Value>,
}

impl Message {
    /// A message of plain text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), fields: Map::new() }
    }

    /// Does the model itself speak in it?
    pub fn is_assistant(&self) -> bool {
        self.role == "assistant"
    }

    /// Reads a message from its keys.
    ///
    /// # Errors
    /// When `role` isn't text, or a key asks for something that isn't done (per-message weights).
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
        if let Some(key) = ["train", "weight"].into_iter().find(|key| fields.contains_key(*key)) {
            return Err(format!(
                "`{key}` on a message is not supported; take it out, and choose the turns with `data.train_on`"
            ));
        }
        Ok(Self { role, content, fields })
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

/// Which columns are read, and as what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    Messages { column: String },
    PromptCompletion { prompt: String, completion: String },
    Text { column: String },
}

/// Column of a conversation's tools; read when it is there.
pub(crate) const TOOLS: &str = "tools";

impl Shape {
    /// The shape that the recipe names or, for `auto`, the only one that `columns` allow.
    ///
    /// # Errors
    /// When `auto` finds none or several.
    pub fn resolve(data: &DataPlan, path: &Path, columns: &[String]) -> Result<Self, DataError> {
        let shape = |format| match format {
            DataFormat::PromptCompletion => Self::PromptCompletion {
                prompt: data.prompt_column.clone(),
                completion: data.completion_column.clone(),
            },
            DataFormat::Text => Self::Text { column: data.text_column.clone() },
            DataFormat::Messages | DataFormat::Auto => Self::Messages { column: data.messages_column.clone() },
        };
        if data.format != DataFormat::Auto {
            return Ok(shape(data.format));
        }
        let mut fitting: Vec<Self> = [DataFormat::Messages, DataFormat::PromptCompletion, DataFormat::Text]
            .map(shape)
            .into_iter()
            .filter(|shape| shape.columns().iter().all(|(column, _)| columns.contains(column)))
            .collect();
        match (fitting.pop(), fitting.is_empty()) {
            (Some(shape), true) => Ok(shape),
            (None, _) => Err(DataError::UnknownFormat { path: path.to_owned(), present: columns.to_vec() }),
            (Some(last), false) => Err(DataError::AmbiguousFormat {
                path: path.to_owned(),
                formats: fitting.iter().chain([&last]).map(Self::name).collect(),
            }),
        }
    }

    /// The format's name in a recipe.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Messages { .. } => "messages",
            Self::PromptCompletion { .. } => "prompt_completion",
            Self::Text { .. } => "text",
        }
    }

    /// The columns that must be there, each with the recipe key that names it.
    pub(crate) fn columns(&self) -> Vec<(&String, &'static str)> {
        match self {
            Self::Messages { column } => vec![(column, "messages_column")],
            Self::PromptCompletion { prompt, completion } => {
                vec![(prompt, "prompt_column"), (completion, "completion_column")]
            }
            Self::Text { column } => vec![(column, "text_column")],
        }
    }

    /// Does this shape use `column`?
    pub(crate) fn uses(&self, column: &str) -> bool {
        self.columns().iter().any(|(name, _)| *name == column)
            || matches!(self, Self::Messages { .. }) && column == TOOLS
    }
}
