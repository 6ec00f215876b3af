//! Samples: a conversation, a prompt with its completion, or a text.
//!
//! Responsible for: these types, reading messages from JSON, and validating samples.
//! Must not depend on: file formats, templates, tokenizers.

use serde_json::{Map, Value};

use crate::error::RowFault;
use crate::formats::content;
use crate::formats::roles::{self, Meaning};
use crate::formats::thinking;

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool`, or another name that is passed to the chat template.
    pub role: String,
    /// The text. Empty if the row has `null` or no content. For a list of parts: the texts of all parts, concatenated.
    pub content: String,
    /// All other keys of the message. A `content` that is an empty text, null or a list of parts is also stored here,
    /// because chat templates treat these forms differently.
    pub fields: Map<String, Value>,
    /// Whether the message has loss, if `data.train_on` includes it. `"train": false` in a row switches it off.
    pub trained: bool,
}

impl Message {
    /// A message with a plain text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), fields: Map::new(), trained: true }
    }

    /// Reads a message from the JSON of a row.
    ///
    /// # Errors
    /// If the value is not an object, or if a key has an invalid value.
    pub fn from_json(value: Value) -> Result<Self, RowFault> {
        match value {
            Value::Object(fields) => Ok(Self::from_fields(fields)?),
            other => Err(RowFault::Syntax(format!("a message is {}, not an object", kind(&other)))),
        }
    }

    /// Whether this is a message of the model.
    pub fn is_assistant(&self) -> bool {
        self.role == "assistant"
    }

    /// The tool calls. Empty if there are none.
    pub(crate) fn tool_calls(&self) -> &[Value] {
        self.fields.get("tool_calls").and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// Replaces the text. A `content` that is a list becomes a list with one part.
    pub(crate) fn set_text(&mut self, text: impl Into<String>) {
        self.content = text.into();
        match self.fields.get_mut("content") {
            Some(Value::Array(parts)) => *parts = vec![content::part(&self.content)],
            _ => drop(self.fields.shift_remove("content")),
        }
    }

    /// Reads a message from its keys.
    ///
    /// # Errors
    /// If a key is missing or has an invalid value, such as a weight of 0.5.
    pub(crate) fn from_fields(mut fields: Map<String, Value>) -> Result<Self, String> {
        remove_absent(&mut fields);
        let role = match fields.shift_remove("role") {
            Some(Value::String(role)) => role,
            Some(other) => return Err(format!("`role` is {}, not text", kind(&other))),
            None => return Err(format!("no `role`; it has {}", keys(&fields))),
        };
        let role = match roles::meaning(&role) {
            Some(Meaning::Role(role)) => role.to_owned(),
            Some(Meaning::Call) => {
                call_from_text(&role, &mut fields)?;
                "assistant".to_owned()
            }
            None => role,
        };
        let calls_tools = fields.contains_key("tool_calls");
        let content = match fields.get_mut("content") {
            Some(Value::String(text)) => std::mem::take(text),
            Some(Value::Null) => String::new(),
            Some(Value::Array(parts)) => {
                let (text, parts) = content::text_of(std::mem::take(parts))?;
                let kept = if parts.is_empty() { Value::String(String::new()) } else { Value::Array(parts) };
                fields.insert("content".to_owned(), kept);
                text
            }
            Some(other) => return Err(format!("`content` is {}, not text, null or a list of parts", kind(other))),
            // Some exports omit `content` in turns that only call tools.
            None if calls_tools => String::new(),
            None => return Err(format!("no `content`; it has {}", keys(&fields))),
        };
        if !content.is_empty() && !fields.get("content").is_some_and(Value::is_array) {
            fields.shift_remove("content");
        }
        let trained = trained(&mut fields)?;
        if trained == Some(true) && role != "assistant" {
            return Err(format!("only the assistant's messages are trained, and the role of this one is {role}"));
        }
        Ok(Self { role, content, fields, trained: trained.unwrap_or(true) })
    }
}

/// Removes keys without a value: null (Parquet has every key in every struct), empty lists of tool calls, and empty
/// reasoning. `content` keeps its null, because chat templates check for it.
fn remove_absent(fields: &mut Map<String, Value>) {
    fields.retain(|key, value| match value {
        Value::Null => key == "content",
        Value::Array(items) => key != "tool_calls" || !items.is_empty(),
        Value::String(text) => !text.is_empty() || !thinking::KEYS.contains(&key.as_str()),
        _ => true,
    });
    for call in fields.get_mut("tool_calls").and_then(Value::as_array_mut).into_iter().flatten() {
        let Value::Object(call) = call else { continue };
        call.retain(|_, value| !value.is_null());
        if let Some(Value::Object(function)) = call.get_mut("function") {
            function.retain(|_, value| !value.is_null());
        }
    }
}

/// Converts a message whose role means a tool call: its content becomes `tool_calls`. The content is
/// `{"name": …, "arguments": …}` or a list of these, as in OpenAI's API.
fn call_from_text(role: &str, fields: &mut Map<String, Value>) -> Result<(), String> {
    if fields.contains_key("tool_calls") {
        return Ok(());
    }
    let text = fields.get("content").and_then(Value::as_str).unwrap_or_default();
    let calls = match serde_json::from_str(text) {
        Ok(Value::Array(calls)) => calls,
        Ok(call @ Value::Object(_)) => vec![call],
        _ => return Err(format!("a {role} needs a call as JSON, such as {{\"name\": \"f\", \"arguments\": {{}}}}")),
    };
    let calls = calls.into_iter().map(|call| serde_json::json!({"type": "function", "function": call}));
    fields.insert("tool_calls".to_owned(), calls.collect());
    fields.insert("content".to_owned(), Value::Null);
    Ok(())
}

/// The keys with which data sets and trainers switch the loss of a message on and off.
const SWITCHES: [&str; 5] = ["train", "training", "loss", "weight", "loss_scale"];

/// Removes the loss switches of a message and returns their value. `None` if there is none.
fn trained(fields: &mut Map<String, Value>) -> Result<Option<bool>, String> {
    let mut found: Option<(&str, bool)> = None;
    for key in SWITCHES {
        let on = match fields.shift_remove(key) {
            None => continue,
            Some(Value::Bool(on)) => on,
            Some(Value::Number(number)) if number.as_f64() == Some(0.0) => false,
            Some(Value::Number(number)) if number.as_f64() == Some(1.0) => true,
            Some(other) => {
                return Err(format!("`{key}` is {other}; a message is trained (true or 1) or not (false or 0)"));
            }
        };
        match found {
            Some((other, before)) if before != on => {
                return Err(format!("`{other}` and `{key}` contradict each other"));
            }
            _ => found = Some((key, on)),
        }
    }
    Ok(found.map(|(_, on)| on))
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

/// Messages in order, and the tools that the assistant may call (JSON schemas, unchanged from the file).
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
    /// Refuses samples that can't be trained on.
    pub(crate) fn validate(self) -> Result<Self, RowFault> {
        match &self {
            Self::Conversation(conversation) if conversation.messages.is_empty() => Err(RowFault::NoMessages),
            Self::Conversation(conversation) if !conversation.messages.iter().any(Message::is_assistant) => {
                let mut roles: Vec<&str> = conversation.messages.iter().map(|message| message.role.as_str()).collect();
                roles.dedup();
                roles.truncate(4);
                Err(RowFault::NoAssistant { roles: roles.join(", ") })
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
