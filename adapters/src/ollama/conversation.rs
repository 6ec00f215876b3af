//! Conversations as Ollama passes them to a template.
//!
//! Responsible for: the data of a rendering. Must not depend on: which template is rendered.
//!
//! Source: `template/template.go` (`Execute`, `collate`) and `server/prompt.go` of Ollama, as of August 2026.

use super::OllamaError;
use super::go_template::{GoTemplate, Value};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    System,
    User,
    Assistant,
}

impl Role {
    /// The name in conversations and templates.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub role: Role,
    pub content: String,
    /// The reasoning before the content: `thinking` of Ollama's API, `reasoning_content` of Jinja templates.
    pub thinking: Option<String>,
}

impl Message {
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into(), thinking: None }
    }
}

/// Renders a template as Ollama does for `/api/chat` without tools.
///
/// # Errors
/// If the template does not use `.Messages`, or if rendering fails.
pub fn render(template: &GoTemplate, messages: &[Message]) -> Result<String, OllamaError> {
    if !template.mentions("Messages") {
        return Err(OllamaError::WithoutMessages);
    }
    let (system, messages) = collate(messages);
    let fields: Vec<_> = messages.iter().map(fields).collect();
    let messages: Vec<_> = fields.iter().map(|fields| Value::Struct(fields)).collect();
    let data = [
        ("System", Value::text(&system)),
        ("Messages", Value::List(&messages)),
        ("Tools", Value::List(&[])),
        ("Response", Value::text("")),
        ("Think", Value::Bool(false)),
        ("ThinkLevel", Value::text("")),
        ("IsThinkSet", Value::Bool(false)),
    ];
    Ok(template.execute(Value::Map(&data))?)
}

/// Joins all system messages for `.System`, and merges adjacent messages of one role.
fn collate(messages: &[Message]) -> (String, Vec<Message>) {
    let system: Vec<_> =
        messages.iter().filter(|message| message.role == Role::System).map(|message| &message.content[..]).collect();
    let mut collated: Vec<Message> = Vec::with_capacity(messages.len());
    for message in messages {
        match collated.last_mut() {
            Some(last) if last.role == message.role => {
                last.content.push_str("\n\n");
                last.content.push_str(&message.content);
            }
            _ => collated.push(message.clone()),
        }
    }
    (system.join("\n\n"), collated)
}

fn fields(message: &Message) -> [(&str, Value<'_>); 7] {
    [
        ("Role", Value::text(message.role.name())),
        ("Content", Value::text(&message.content)),
        ("Thinking", Value::text(message.thinking.as_deref().unwrap_or_default())),
        ("Images", Value::List(&[])),
        ("ToolCalls", Value::List(&[])),
        ("ToolName", Value::text("")),
        ("ToolCallID", Value::text("")),
    ]
}
