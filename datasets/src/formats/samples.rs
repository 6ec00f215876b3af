//! Rows → samples, for each format.
//!
//! Responsible for: messages, ShareGPT, Alpaca, prompt and completion, plain text, preferences, and context documents.
//! [`crate::formats::tasks`] builds the samples of the formats style and terminology.
//! Must not depend on: files, tokenizers.

use std::collections::BTreeMap;

use serde_json::Value;
use tonfall_recipes::plan::{AuditRule, DataFormat, SourcePlan, TemplateKind};

use crate::error::RowFault;
use crate::formats::conversation::{Conversation, Message, Sample, kind};
use crate::formats::entry::NoTask;
use crate::formats::format::{CONTEXT, Fields, Layout};
use crate::formats::roles;
use crate::formats::tasks::Tasks;
use crate::read::rows::Row;

/// The result of building one row.
#[derive(Debug, Default)]
pub(crate) struct Built {
    pub(crate) samples: Vec<Sample>,
    /// Rows of one group stay on the same side of the split.
    pub(crate) group: Option<String>,
    /// Why `samples` is empty.
    pub(crate) no_task: Option<NoTask>,
    /// Audit findings about the row, even if it has no samples.
    pub(crate) findings: Vec<(AuditRule, String)>,
}

/// Builds the samples of a row. `key` is the seed of random choices.
pub(crate) fn build(
    row: &Row,
    layout: &Layout,
    source: &SourcePlan,
    tasks: &Tasks,
    key: u64,
) -> Result<Built, RowFault> {
    let fields = layout.fields(row);
    let conversation = match layout.format.format {
        DataFormat::Style => return tasks.style(fields, source.language.as_deref(), key),
        DataFormat::Terminology => return tasks.terms(fields, source, key),
        DataFormat::Text => {
            let text = fields.text("text")?.to_owned();
            return Ok(Built { samples: vec![Sample::Text(text).validate()?], ..Built::default() });
        }
        DataFormat::Messages | DataFormat::Auto => {
            let mut turns = messages(fields.list("messages")?)?;
            with_system(&mut turns, fields)?;
            Conversation { messages: turns, tools: tools(fields)? }
        }
        DataFormat::Sharegpt => sharegpt(fields)?,
        DataFormat::Alpaca => alpaca(fields)?,
        DataFormat::PromptCompletion => match pair(fields, source)? {
            Sample::Conversation(conversation) => conversation,
            pair => return Ok(Built { samples: vec![pair.validate()?], ..Built::default() }),
        },
        DataFormat::Preference => preference(fields)?,
    };
    let conversation = with_context(conversation, fields, source, tasks, key)?;
    Ok(Built { samples: vec![Sample::Conversation(conversation).validate()?], ..Built::default() })
}

fn messages(list: Vec<Value>) -> Result<Vec<Message>, RowFault> {
    let messages = list.into_iter().enumerate().map(|(index, item)| {
        let fault = |why| RowFault::Message { index, why };
        match item {
            Value::Object(fields) => Message::from_fields(fields).map_err(fault),
            other => Err(fault(format!("it is {}, not an object", kind(&other)))),
        }
    });
    messages.collect()
}

/// Marks prompt messages as not trained. Only the answer to the prompt carries loss, not assistant messages within it.
fn given(messages: &mut [Message]) {
    messages.iter_mut().filter(|message| message.is_assistant()).for_each(|message| message.trained = false);
}

/// A list of tools. Tables often store it as a JSON string.
fn tools(fields: Fields<'_>) -> Result<Option<Value>, RowFault> {
    let list = match fields.value("tools") {
        None => return Ok(None),
        Some(Value::String(text)) if text.is_empty() => return Ok(None),
        Some(Value::String(text)) => serde_json::from_str(text).map_err(|_| RowFault::Tools)?,
        Some(list) => list.clone(),
    };
    match list {
        Value::Array(list) if list.is_empty() => Ok(None),
        Value::Null => Ok(None),
        Value::Array(list) => Ok(Some(Value::Array(list))),
        _ => Err(RowFault::Tools),
    }
}

fn sharegpt(fields: Fields<'_>) -> Result<Conversation, RowFault> {
    let mut turns = Vec::new();
    for (index, turn) in fields.list("conversations")?.into_iter().enumerate() {
        let fault = |why: String| RowFault::Message { index, why };
        let Value::Object(mut turn) = turn else { return Err(fault(format!("it is {}, not an object", kind(&turn)))) };
        if !turn.contains_key("role") {
            let mut text = |key: &str| match turn.shift_remove(key) {
                Some(Value::String(text)) => Ok(text),
                Some(other) => Err(fault(format!("`{key}` is {}, not text", kind(&other)))),
                None => Err(fault(format!("no `{key}`"))),
            };
            let (from, value) = (text("from")?, text("value")?);
            if roles::meaning(&from).is_none() {
                return Err(fault(format!("`from` is \"{from}\", none of {}", roles::known())));
            }
            turn.insert("role".to_owned(), from.into());
            turn.insert("content".to_owned(), value.into());
        }
        turns.push(Message::from_fields(turn).map_err(fault)?);
    }
    with_system(&mut turns, fields)?;
    Ok(Conversation { messages: turns, tools: tools(fields)? })
}

/// Inserts the text of a `system` column as the first message. If the row already has a system message, both must be
/// equal.
fn with_system(turns: &mut Vec<Message>, fields: Fields<'_>) -> Result<(), RowFault> {
    let Some(system) = fields.optional_text("system")?.filter(|text| !text.trim().is_empty()) else { return Ok(()) };
    match turns.first().filter(|first| first.role == "system") {
        Some(first) if first.content == system => Ok(()),
        Some(_) => Err(RowFault::TwoSystems),
        None => {
            turns.insert(0, Message::new("system", system));
            Ok(())
        }
    }
}

fn alpaca(fields: Fields<'_>) -> Result<Conversation, RowFault> {
    let instruction = fields.text("instruction")?;
    let user = match fields.optional_text("input")?.map(str::trim).filter(|input| !input.is_empty()) {
        Some(input) => format!("{instruction}\n\n{input}"),
        None => instruction.to_owned(),
    };
    Ok(talk(fields.optional_text("system")?, user, fields.text("output")?.to_owned(), None))
}

fn talk(system: Option<&str>, user: String, assistant: String, tools: Option<Value>) -> Conversation {
    let system = system.filter(|text| !text.is_empty()).map(|text| Message::new("system", text));
    let turns = [Message::new("user", user), Message::new("assistant", assistant)];
    Conversation { messages: system.into_iter().chain(turns).collect(), tools }
}

/// A prompt and its completion: two texts, or two lists of messages.
fn pair(fields: Fields<'_>, source: &SourcePlan) -> Result<Sample, RowFault> {
    let prompt = fields.required("prompt")?;
    if prompt.is_array() {
        let mut turns = messages(fields.list("prompt")?)?;
        given(&mut turns);
        turns.extend(messages(fields.list("completion")?)?);
        with_system(&mut turns, fields)?;
        return Ok(Sample::Conversation(Conversation { messages: turns, tools: tools(fields)? }));
    }
    let has_context = CONTEXT.iter().any(|field| fields.value(field).is_some());
    let unanswered = |text: &&str| text.trim().is_empty() && has_context;
    let completion = match (fields.optional_text("completion")?, &source.no_answer) {
        (None, Some(answer)) if has_context => answer.clone(),
        (Some(text), Some(answer)) if unanswered(&text) => answer.clone(),
        _ => fields.text("completion")?.to_owned(),
    };
    let prompt = fields.text("prompt")?.to_owned();
    let (system, tools) = (fields.optional_text("system")?, tools(fields)?);
    if system.is_none() && tools.is_none() && !has_context {
        return Ok(Sample::PromptCompletion { prompt, completion });
    }
    Ok(Sample::Conversation(talk(system, prompt, completion, tools)))
}

/// Trains on the chosen answer. The rejected answer is used only to find the prompt that both answers share.
fn preference(fields: Fields<'_>) -> Result<Conversation, RowFault> {
    let as_messages = |field, role: &str| match fields.required(field)? {
        Value::Array(list) => messages(list.clone()),
        _ => Ok(vec![Message::new(role, fields.text(field)?)]),
    };
    let rejected = as_messages("rejected", "assistant")?;
    let mut turns = match fields.value("prompt") {
        Some(_) => as_messages("prompt", "user")?,
        None => Vec::new(),
    };
    let chosen = as_messages("chosen", "assistant")?;
    // In some files the answers repeat the prompt. In others the prompt is only in the answers.
    let shared = |left: &[Message], right: &[Message]| left.iter().zip(right).take_while(|(a, b)| a == b).count();
    let repeated = shared(&turns, &chosen);
    let prompt = if turns.is_empty() { shared(&chosen, &rejected) } else { turns.len() };
    turns.extend(chosen.into_iter().skip(if repeated == turns.len() { repeated } else { 0 }));
    given(&mut turns[..prompt]);
    with_system(&mut turns, fields)?;
    Ok(Conversation { messages: turns, tools: tools(fields)? })
}

/// Inserts the row's context documents before the last user message.
fn with_context(
    mut conversation: Conversation,
    fields: Fields<'_>,
    source: &SourcePlan,
    tasks: &Tasks,
    key: u64,
) -> Result<Conversation, RowFault> {
    let mut documents = Vec::new();
    for field in CONTEXT {
        match fields.listed(field).as_deref() {
            None => {}
            Some(Value::String(text)) => documents.push(text.clone()),
            Some(Value::Array(items)) => {
                for item in items {
                    documents.push(document(item).ok_or_else(|| {
                        RowFault::Syntax(format!(
                            "a document in `{field}` is {}, not text or {{title, text}}",
                            kind(item)
                        ))
                    })?);
                }
            }
            Some(other) => return Err(RowFault::Syntax(format!("`{field}` is {}, not text or a list", kind(other)))),
        }
    }
    documents.retain(|document| !document.trim().is_empty());
    if documents.is_empty() {
        return Ok(conversation);
    }
    if let (Some(answer), Some(last)) = (&source.no_answer, conversation.messages.last_mut())
        && last.is_assistant()
        && last.content.trim().is_empty()
        && !last.fields.contains_key("tool_calls")
    {
        *last = Message { trained: last.trained, ..Message::new("assistant", answer.clone()) };
    }
    let Some(question) = conversation.messages.iter_mut().rev().find(|message| message.role == "user") else {
        return Err(RowFault::Syntax("documents, but no question to put them before".to_owned()));
    };
    let template = tasks.pick(TemplateKind::Context, source.language.as_deref(), key, &["context", "question"]);
    let context = match documents.len() {
        1 => documents.remove(0),
        _ => documents
            .iter()
            .zip(1..)
            .map(|(text, number)| format!("[{number}] {text}"))
            .collect::<Vec<_>>()
            .join("\n\n"),
    };
    let asked = std::mem::take(&mut question.content);
    let values = BTreeMap::from([("context", context), ("question", asked)]);
    question.set_text(template.map_or_else(
        || format!("{}\n\n{}", values["context"], values["question"]),
        |template| crate::formats::tasks::fill(&template.user, &values),
    ));
    Ok(conversation)
}

/// A text, or an object with a text and an optional title.
fn document(item: &Value) -> Option<String> {
    if let Some(text) = item.as_str() {
        return Some(text.to_owned());
    }
    let text = |keys: &[&str]| keys.iter().find_map(|key| item.get(key)?.as_str());
    let body = text(&["text", "content", "page_content", "body"])?;
    Some(match text(&["title", "source", "name"]) {
        Some(title) => format!("{title}\n{body}"),
        None => body.to_owned(),
    })
}
