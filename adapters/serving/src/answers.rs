//! Reads answers of servers.
//!
//! Responsible for: finding texts, token ids and names in JSON, and refusing answers without them.
//! Must not depend on: the network.

use serde::Serialize;
use serde_json::Value;

use crate::kinds::{Chats, Completions};

/// A generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Completion {
    /// The text after the prompt, without special tokens.
    pub text: String,
    /// The generated ids, the end token included. `None` if the server returns only text.
    pub tokens: Option<Vec<u32>>,
    pub finish: Finish,
}

/// Why a generation ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finish {
    /// At an end token or a stop text.
    Stop,
    /// At the maximum number of tokens.
    Length,
    /// Another reason, in the server's words.
    Other(String),
}

/// An adapter of llama-server.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AdapterSlot {
    pub id: u32,
    /// The file, as the server was given it.
    pub path: String,
    /// Factor of the adapter; 0 is off.
    pub scale: f64,
}

type Read<T> = Result<T, String>;

/// The names of a list of models.
pub(crate) fn models(answer: &Value) -> Read<Vec<String>> {
    let list = answer["data"].as_array().ok_or("it has no list `data` of models")?;
    let id = |model: &Value| model["id"].as_str().map(str::to_owned).ok_or_else(|| "a model has no `id`".to_owned());
    list.iter().map(id).collect()
}

pub(crate) fn completion(form: Completions, answer: &Value) -> Read<Completion> {
    match form {
        Completions::LlamaServer => {
            if answer["truncated"] == true {
                return Err("the server cut the prompt to its context; start it with a larger `-c`".to_owned());
            }
            let text = text(answer, "/content")?;
            Ok(Completion { text, tokens: ids(&answer["tokens"])?, finish: finish(&answer["stop_type"]) })
        }
        Completions::Ollama => ollama(answer, "/response"),
        Completions::OpenAi { .. } | Completions::NotOffered => openai(answer, "/choices/0/text"),
    }
}

pub(crate) fn chat(form: Chats, answer: &Value) -> Read<Completion> {
    match form {
        Chats::Ollama => ollama(answer, "/message/content"),
        Chats::OpenAi => openai(answer, "/choices/0/message/content"),
    }
}

fn openai(answer: &Value, place: &str) -> Read<Completion> {
    let choice = &answer["choices"][0];
    let text = text(answer, place)?;
    Ok(Completion { text, tokens: ids(&choice["token_ids"])?, finish: finish(&choice["finish_reason"]) })
}

fn ollama(answer: &Value, place: &str) -> Read<Completion> {
    Ok(Completion { text: text(answer, place)?, tokens: None, finish: finish(&answer["done_reason"]) })
}

fn text(answer: &Value, place: &str) -> Read<String> {
    match answer.pointer(place) {
        Some(Value::String(text)) => Ok(text.clone()),
        _ => Err(format!("it has no text at `{place}`")),
    }
}

fn finish(reason: &Value) -> Finish {
    match reason.as_str().unwrap_or_default() {
        "stop" | "eos" | "word" => Finish::Stop,
        "length" | "limit" => Finish::Length,
        other => Finish::Other(other.to_owned()),
    }
}

/// A list of token ids. `None` if there is none.
fn ids(value: &Value) -> Read<Option<Vec<u32>>> {
    if value.is_null() {
        return Ok(None);
    }
    let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
    let list = value.as_array().and_then(|list| list.iter().map(id).collect());
    list.map(Some).ok_or_else(|| "its tokens are no list of token ids".to_owned())
}

/// The answer of a `/tokenize`.
pub(crate) fn tokens(answer: &Value) -> Read<Vec<u32>> {
    ids(&answer["tokens"])?.ok_or_else(|| "it has no list `tokens`".to_owned())
}

/// The answer of llama-server's `/apply-template`.
pub(crate) fn rendered(answer: &Value) -> Read<String> {
    text(answer, "/prompt")
}

/// The answer of llama-server's `/lora-adapters`.
pub(crate) fn adapters(answer: &Value) -> Read<Vec<AdapterSlot>> {
    let slot = |slot: &Value| {
        let id = slot["id"].as_u64().and_then(|id| u32::try_from(id).ok())?;
        Some(AdapterSlot { id, path: slot["path"].as_str()?.to_owned(), scale: slot["scale"].as_f64()? })
    };
    let list = answer.as_array().and_then(|list| list.iter().map(slot).collect());
    list.ok_or_else(|| "it is no list of adapters with `id`, `path` and `scale`".to_owned())
}
