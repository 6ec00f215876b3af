//! Two forms of one thing: contents as text or as a list of parts, arguments of tool calls as an object or as JSON text.
//!
//! Responsible for: which form a chat template writes, and giving it a conversation in that form. Must not depend on:
//! tokenizers, what is trained.
//!
//! Data sets have either form, and so do templates: `arguments | tojson` writes a text as a JSON string in a JSON string,
//! `content + '<|im_end|>'` fails on a list. A form that a template writes right is never changed, so that texts are those
//! of transformers. Which forms it writes right is found out once, with two small conversations.

use std::borrow::Cow;

use serde_json::{Value, json};

use crate::error::RowFault;
use crate::formats::content;
use crate::formats::conversation::{Conversation, Message};
use crate::render::python;
use crate::render::template::{ChatTemplate, Rendering};

/// Which forms a template takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Forms {
    content: Form,
    arguments: Form,
}

/// Which form of one thing a template takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// The one that the data has.
    AsGiven,
    Text,
    /// A list of parts; an object.
    Structure,
}

impl Form {
    fn of(writes_text: bool, writes_structure: bool) -> Self {
        match (writes_text, writes_structure) {
            (true, false) => Self::Text,
            (false, true) => Self::Structure,
            // A template that writes neither fails on its own, with an error that says where.
            (true, true) | (false, false) => Self::AsGiven,
        }
    }
}

impl Forms {
    /// The forms that `template` takes.
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

    /// The conversation in the forms that the template takes.
    ///
    /// # Errors
    /// When the template takes objects, and arguments are a text that is no JSON object.
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

/// The JSON object that a text holds; an empty text stands for no arguments.
fn parsed(text: &str) -> Option<Value> {
    match text.trim() {
        "" => Some(json!({})),
        text => serde_json::from_str(text).ok().filter(Value::is_object),
    }
}

/// Does it write a question and an answer whose contents `form` makes?
fn writes_content(template: &ChatTemplate, form: impl Fn(&str) -> Value) -> bool {
    const TEXTS: [(&str, &str); 2] = [("user", "Zermatt?"), ("assistant", "Andermatt.")];
    let messages = TEXTS.map(|(role, text)| with(role, [("content", form(text))]));
    let written = render(template, &messages, None).unwrap_or_default();
    // A list that is written as Python writes lists is not written right.
    TEXTS.iter().all(|(_, text)| written.contains(text)) && !written.contains("'text'")
}

const CITY_AS_TEXT: &str = r#"{"city": "Zermatt"}"#;

/// Does it write a tool call with these arguments, so that `expected` is in the text?
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
