//! Bodies of requests. All are greedy: temperature 0 and a fixed seed.
//!
//! Must not depend on: the network.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::kinds::{Chats, Completions, Row};

const SEED: u64 = 0;

/// A message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, …
    pub role: String,
    pub content: String,
}

/// A prompt without a chat template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prompt<'a> {
    /// Token ids, used as they are.
    Tokens(&'a [u32]),
    /// A text. The server tokenizes it and adds the tokens that its tokenizer adds (often a BOS token).
    Text(&'a str),
}

/// What a server is to tokenize.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToTokenize<'a> {
    Text {
        text: &'a str,
        /// Whether the server adds what its tokenizer adds (often a BOS token). A text that a chat template has rendered
        /// already has these tokens.
        add_special: bool,
    },
    /// A conversation, rendered by the server's own template, with the start of an assistant's turn at its end.
    Messages(&'a [Message]),
}

/// Path and body of a completion. `None` if the server has no such request for this prompt.
pub(crate) fn completion(row: &Row, model: &str, prompt: Prompt<'_>, max_tokens: u32) -> Option<(&'static str, Value)> {
    let text = match prompt {
        Prompt::Text(text) => json!(text),
        Prompt::Tokens(ids) => json!(ids),
    };
    match (row.completions, prompt) {
        (Completions::NotOffered, _)
        | (Completions::Ollama | Completions::OpenAi { token_prompts: false }, Prompt::Tokens(_)) => None,
        (Completions::LlamaServer, _) => {
            let body = json!({
                "model": model, "prompt": text, "n_predict": max_tokens, "temperature": 0, "seed": SEED,
                "return_tokens": true,
            });
            Some(("/completion", with(body, row)))
        }
        (Completions::Ollama, Prompt::Text(_)) => {
            let options = ollama_options(row, max_tokens);
            let body = json!({"model": model, "prompt": text, "raw": true, "stream": false, "options": options});
            Some(("/api/generate", body))
        }
        (Completions::OpenAi { .. }, _) => {
            let body = json!({
                "model": model, "prompt": text, "max_tokens": max_tokens, "temperature": 0, "seed": SEED,
            });
            Some(("/v1/completions", with(body, row)))
        }
    }
}

/// The body of a chat request to [`Row::chat`].
pub(crate) fn chat(row: &Row, model: &str, messages: &[Message], max_tokens: u32) -> Value {
    match row.chats {
        Chats::Ollama => {
            let options = ollama_options(row, max_tokens);
            json!({"model": model, "messages": messages, "stream": false, "options": options})
        }
        Chats::OpenAi => {
            let body = json!({
                "model": model, "messages": messages, "max_tokens": max_tokens, "temperature": 0, "seed": SEED,
                "stream": false,
            });
            with(body, row)
        }
    }
}

fn ollama_options(row: &Row, max_tokens: u32) -> Value {
    with(json!({"num_predict": max_tokens, "temperature": 0, "seed": SEED}), row)
}

/// Adds the settings of [`Row::greedy`].
fn with(mut body: Value, row: &Row) -> Value {
    if let (Some(body), Value::Object(greedy)) = (body.as_object_mut(), (row.greedy)()) {
        body.extend(greedy);
    }
    body
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test panics on purpose")]
mod tests {
    use super::*;
    use crate::kinds::{Kind, ROWS};

    #[test]
    fn every_request_is_greedy_and_limited() {
        for row in &ROWS {
            let text = completion(row, "m", Prompt::Text("p"), 7).map(|(_, body)| body);
            for body in text.into_iter().chain([chat(row, "m", &[], 7)]) {
                let settings = body.get("options").unwrap_or(&body);
                assert_eq!(settings["temperature"], 0, "{}", row.name);
                assert_eq!(settings["seed"], 0, "{}", row.name);
                let limit = ["max_tokens", "n_predict", "num_predict"].iter().find_map(|key| settings.get(*key));
                assert_eq!(limit, Some(&json!(7)), "{}", row.name);
            }
        }
    }

    #[test]
    fn token_prompts_are_offered_only_where_the_server_documents_them() {
        let offered: Vec<Kind> = ROWS
            .iter()
            .filter(|row| completion(row, "m", Prompt::Tokens(&[1]), 1).is_some())
            .map(|row| row.kind)
            .collect();
        assert_eq!(offered, [Kind::LlamaServer, Kind::Sglang, Kind::Vllm]);
    }

    #[test]
    fn settings_have_the_types_that_servers_read() {
        let (path, body) = completion(Kind::LlamaServer.row(), "m", Prompt::Tokens(&[1, 2]), 3).unwrap();
        assert_eq!(path, "/completion");
        let expected = json!({
            "model": "m", "prompt": [1, 2], "n_predict": 3, "temperature": 0, "seed": 0, "return_tokens": true,
            "samplers": ["top_k"], "top_k": 1, "cache_prompt": false,
        });
        assert_eq!(body, expected);
    }
}
