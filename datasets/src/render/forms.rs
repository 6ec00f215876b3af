//! Alternative forms of message fields: contents are a text or a list of parts, arguments of tool calls are an object
//! or a JSON text.
//!
//! Responsible for: detecting the forms that a chat template supports, and converting a conversation to these forms.
//! Must not depend on: tokenizers, which tokens are trained.
//!
//! Data sets use both forms, and so do templates. For example, `arguments | tojson` writes a text as a JSON string in a
//! JSON string, and `content + '<|im_end|>'` fails on a list. A form that the template writes correctly is never
//! changed, so the text is the same as with transformers. The supported forms are detected once, with two small
//! conversations.

use std::borrow::Cow;

use serde_json::{Value, json};

use crate::error::RowFault;
use crate::formats::content;
use crate::formats::conversation::{Conversation, Message};
use crate::render::python;
use crate::render::template::{ChatTemplate, Rendering};

/// The forms that a template supports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Forms {
    content: Form,
    arguments: Form,
}

/// The form that a template supports for one field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// The form of the data is kept.
    AsGiven,
    Text,
    /// A list of parts, or an object.
    Structure,
}

impl Form {
    fn of(writes_text: bool, writes_structure: bool) -> Self {
        match (writes_text, writes_structure) {
            (true, false) => Self::Text,
            (false, true) => Self::Structure,
            // A template that writes neither form fails later with an error that names the line.
            (true, true) | (false, false) => Self::AsGiven,
        }
    }
}

impl Forms {
    /// Detects the forms that `template` supports.
    pub(crate) fn of(template: &ChatTemplate) -> Self {
        Self {
            content: Form::of(
                writes_content(template, |text| text.into()),
                writes_content(template, |text| json!([content::part(text)])),
            ),
            arguments: Form::of(
                writes_arguments(template, CITY_AS_TEXT.into(), CITY_AS_TEXT),
                writes_arguments(template, json!({"city": "Zermatt"}), "Zermatt"),
            ),
        }
    }

    /// Converts the conversation to the forms that the template supports.
    ///
    /// # Errors
    /// If the template needs objects, and the arguments are a text that is not a JSON object.
    pub(crate) fn apply<'a>(&self, conversation: &'a Conversation) -> Result<Cow<'a, Conversation>, RowFault> {
        let mut changed = Cow::Borrowed(conversation);
        for (index, message) in conversation.messages.iter().enumerate() {
            let parts = message.fields.get("content").is_some_and(Value::is_array);
            match self.content {
                Form::Text if parts => drop(changed.to_mut().messages[index].fields.shift_remove("content")),
                Form::Structure if !parts && !message.content.is_empty() => {
                    let fields = &mut changed.to_mut().messages[index].fields;
                    fields.insert("content".to_owned(), json!([content::part(&message.content)]));
                }
                _ => {}
            }
            for (number, call) in message.tool_calls().iter().enumerate() {
                let Some(arguments) = call.get("function").unwrap_or(call).get("arguments") else { continue };
                let other = match (self.arguments, arguments) {
                    (Form::Structure, Value::String(text)) => parsed(text).ok_or(RowFault::Arguments { index })?,
                    (Form::Text, Value::Object(_)) => Value::String(python::dumps(arguments)),
                    _ => continue,
                };
                if let Some(calls) = changed.to_mut().messages[index].fields.get_mut("tool_calls")
                    && let Some(call) = calls.get_mut(number)
                {
                    let holder = if call.get("function").is_some() { &mut call["function"] } else { call };
                    holder["arguments"] = other;
                }
            }
        }
        Ok(changed)
    }
}

/// Parses a text as a JSON object. An empty text means no arguments.
fn parsed(text: &str) -> Option<Value> {
    match text.trim() {
        "" => Some(json!({})),
        text => serde_json::from_str(text).ok().filter(Value::is_object),
    }
}

/// Whether the template writes a user and an assistant message whose contents have this form.
fn writes_content(template: &ChatTemplate, form: impl Fn(&str) -> Value) -> bool {
    const TEXTS: [(&str, &str); 2] = [("user", "Zermatt?"), ("assistant", "Andermatt.")];
    let messages = TEXTS.map(|(role, text)| with(role, [("content", form(text))]));
    let written = render(template, &messages, None).unwrap_or_default();
    // A list written in Python's notation is not correct.
    TEXTS.iter().all(|(_, text)| written.contains(text)) && !written.contains("'text'")
}

const CITY_AS_TEXT: &str = r#"{"city": "Zermatt"}"#;

/// Whether the template writes a tool call with these arguments. Its text must contain `expected`.
fn writes_arguments(template: &ChatTemplate, arguments: Value, expected: &str) -> bool {
    let call =
        json!([{"type": "function", "id": "call00001", "function": {"name": "weather", "arguments": arguments}}]);
    let result = [("content", "Sun.".into()), ("name", "weather".into()), ("tool_call_id", "call00001".into())];
    let messages = [
        Message::new("user", "How is it?"),
        with("assistant", [("content", "".into()), ("tool_calls", call)]),
        with("tool", result),
        Message::new("assistant", "Sunny."),
    ];
    let city = json!({"type": "string", "description": "Where."});
    let parameters = json!({"type": "object", "properties": {"city": city}, "required": ["city"]});
    let function = json!({"name": "weather", "description": "Tells the weather.", "parameters": parameters});
    let tools = json!([{"type": "function", "function": function}]);
    let written = render(template, &messages, Some(&tools)).unwrap_or_default();
    written.contains(expected) && !written.contains("'city'")
}

fn render(template: &ChatTemplate, messages: &[Message], tools: Option<&Value>) -> Option<String> {
    template.render(Rendering { messages, tools, add_generation_prompt: false }).ok()
}

fn with<const N: usize>(role: &str, fields: [(&str, Value); N]) -> Message {
    let mut message = Message::new(role, "");
    message.fields.extend(fields.map(|(key, value)| (key.to_owned(), value)));
    message
}
