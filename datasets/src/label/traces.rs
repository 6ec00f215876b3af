//! Detects the parts of a conversation that the chat template does not write.
//!
//! Responsible for: finding messages, tools, tool calls and reasoning without a trace in the rendered text.
//! Must not depend on: tokenizers, which tokens are trained.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::formats::conversation::{Conversation, Message};
use crate::formats::thinking;
use crate::render::template::{ChatTemplate, Rendering};

/// Parts of a conversation that the template does not write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LeftOut {
    /// Indexes of messages.
    pub(crate) messages: Vec<usize>,
    /// Names of offered or called tools, sorted.
    pub(crate) tools: Vec<String>,
    /// Number of thinking blocks.
    pub(crate) thoughts: usize,
}

impl LeftOut {
    /// Compares `conversation` with `text`, its rendering by `template`.
    pub(crate) fn of(conversation: &Conversation, template: &ChatTemplate, text: &str) -> Self {
        let answers = conversation.messages.iter().filter(|message| message.is_assistant());
        let thoughts = answers.flat_map(thinking::thoughts).filter(|thought| !text.contains(thought)).count();
        Self { messages: messages(conversation, template, text), tools: tools(conversation, template, text), thoughts }
    }
}

fn render(template: &ChatTemplate, messages: &[Message], tools: Option<&Value>) -> Option<String> {
    template.render(Rendering { messages, tools, add_generation_prompt: false }).ok()
}

/// Indexes of the messages whose content has no trace in `text`.
fn messages(conversation: &Conversation, template: &ChatTemplate, text: &str) -> Vec<usize> {
    let messages = conversation.messages.iter().enumerate();
    let said: Vec<(usize, &str)> = messages
        .map(|(index, message)| (index, message.content.trim()))
        .filter(|(_, content)| !content.is_empty())
        .collect();
    // Nearly always, all contents occur in the text one after another.
    let mut at = 0;
    let in_order = said.iter().all(|(_, content)| {
        let found = word(&text[at..], content).map(|found| at + found + content.len());
        at = found.unwrap_or(at);
        found.is_some()
    });
    if in_order {
        return Vec::new();
    }
    // Other contents are written in another form, for example as JSON, or not at all. To find out, the conversation is
    // rendered with a unique marker in place of each content.
    let mark = |index: usize| format!("TRACE{index}ECART");
    let mut marked = conversation.messages.clone();
    said.iter().for_each(|(index, _)| marked[*index].set_text(mark(*index)));
    let written = render(template, &marked, conversation.tools.as_ref());
    let is_left_out = |(index, content): &&(usize, &str)| match &written {
        Some(written) => !written.contains(&mark(*index)),
        // A template that inspects contents may refuse the markers.
        None => !text.contains(content),
    };
    said.iter().filter(is_left_out).map(|(index, _)| *index).collect()
}

/// The offset of `content` in `text`. A match inside a longer word doesn't count.
fn word(text: &str, content: &str) -> Option<usize> {
    let joins = |left: Option<char>, right: Option<char>| {
        left.zip(right).is_some_and(|(left, right)| left.is_ascii_alphanumeric() && right.is_ascii_alphanumeric())
    };
    let (first, last) = (content.chars().next(), content.chars().next_back());
    let mut hits = text.match_indices(content).map(|(at, _)| at);
    hits.find(|at| {
        let (before, after) = (text[..*at].chars().next_back(), text[at + content.len()..].chars().next());
        !joins(before, first) && !joins(last, after)
    })
}

/// The tools without which the template renders the same text.
fn tools(conversation: &Conversation, template: &ChatTemplate, text: &str) -> Vec<String> {
    let name = |tool: &Value| Some(tool.get("function").unwrap_or(tool).get("name")?.as_str()?.to_owned());
    let is_same = |messages: &[Message], tools| render(template, messages, tools).is_some_and(|other| other == text);
    let mut left_out = BTreeSet::new();
    if let Some(tools) = conversation.tools.as_ref()
        && is_same(&conversation.messages, None)
    {
        left_out.extend(tools.as_array().into_iter().flatten().filter_map(name));
    }
    for (index, message) in
        conversation.messages.iter().enumerate().filter(|(_, message)| !message.tool_calls().is_empty())
    {
        let mut without = conversation.messages.clone();
        without[index].fields.shift_remove("tool_calls");
        if message.content.is_empty() {
            without[index].fields.insert("content".to_owned(), "".into());
        }
        if is_same(&without, conversation.tools.as_ref()) {
            left_out.extend(message.tool_calls().iter().filter_map(name));
        }
    }
    left_out.into_iter().collect()
}
