//! The servers, and how they differ: one row each.
//!
//! Responsible for: which requests a server understands.
//! Must not depend on: the network.
//!
//! Sources: llama.cpp `tools/server/README.md` (run: builds of 2026); the API documentation of vLLM, SGLang, TGI, Ollama,
//! LM Studio and Open WebUI (read, not run).

use std::fmt;

use serde::Serialize;
use serde_json::{Value, json};

/// The program that answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    LlamaServer,
    Vllm,
    Sglang,
    Tgi,
    Ollama,
    LmStudio,
    OpenWebui,
    /// An unknown server with an OpenAI API.
    Other,
}

/// How a prompt is completed without a chat template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Completions {
    NotOffered,
    /// `/completion`, which returns the ids of all tokens. The log-probabilities of its `/v1/completions` omit tokens
    /// that are only part of a UTF-8 character.
    LlamaServer,
    /// `/api/generate` with `raw`. Its `/v1/completions` applies the template.
    Ollama,
    OpenAi {
        /// Whether a prompt may be a list of token ids.
        token_prompts: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chats {
    OpenAi,
    /// `/api/chat`. Its `/v1/chat/completions` has no way to turn off the Modelfile's repetition penalty.
    Ollama,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tokenizing {
    NotOffered,
    /// `/tokenize`, and `/apply-template` for messages.
    LlamaServer,
    /// `/tokenize` with a prompt or with messages.
    Vllm,
    /// `/tokenize` with a prompt only.
    Sglang,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Adapters {
    NotOffered,
    /// Loaded at start; `/lora-adapters` shows and sets their scales.
    Slots,
    /// Loaded and unloaded by name. An adapter is then a model of the list.
    Named {
        load: &'static str,
        unload: &'static str,
    },
}

/// What a server understands.
pub(crate) struct Row {
    pub(crate) kind: Kind,
    pub(crate) name: &'static str,
    /// A path and the place in its JSON answer that only this server has.
    pub(crate) probe: Option<(&'static str, &'static str)>,
    pub(crate) models: &'static str,
    pub(crate) chat: &'static str,
    pub(crate) completions: Completions,
    pub(crate) chats: Chats,
    pub(crate) tokenizing: Tokenizing,
    pub(crate) adapters: Adapters,
    /// Makes generations greedy and complete, in addition to temperature 0 and the seed. Servers apply penalties from
    /// the model's own defaults otherwise.
    pub(crate) greedy: fn() -> Value,
}

const OPENAI: Row = Row {
    kind: Kind::Other,
    name: "an OpenAI-compatible server",
    probe: None,
    models: "/v1/models",
    chat: "/v1/chat/completions",
    completions: Completions::OpenAi { token_prompts: false },
    chats: Chats::OpenAi,
    tokenizing: Tokenizing::NotOffered,
    adapters: Adapters::NotOffered,
    // Only keys of OpenAI's API: a strict server refuses others.
    greedy: || json!({}),
};

/// In the order in which they are tried. Programs that imitate others come before those they imitate.
pub(crate) const ROWS: [Row; 8] = [
    Row {
        kind: Kind::LlamaServer,
        name: "llama-server",
        probe: Some(("/props", "/default_generation_settings")),
        completions: Completions::LlamaServer,
        tokenizing: Tokenizing::LlamaServer,
        adapters: Adapters::Slots,
        // `samplers` leaves out all penalties. With cached prefixes, batches have other sizes and results may differ in
        // the last bits.
        greedy: || json!({"samplers": ["top_k"], "top_k": 1, "cache_prompt": false}),
        ..OPENAI
    },
    Row {
        kind: Kind::OpenWebui,
        name: "Open WebUI",
        probe: Some(("/api/config", "/features")),
        models: "/api/models",
        chat: "/api/chat/completions",
        completions: Completions::NotOffered,
        ..OPENAI
    },
    Row {
        kind: Kind::LmStudio,
        name: "LM Studio",
        probe: Some(("/api/v0/models", "/data")),
        greedy: || json!({"repeat_penalty": 1.0}),
        ..OPENAI
    },
    Row { kind: Kind::Tgi, name: "TGI", probe: Some(("/info", "/max_concurrent_requests")), ..OPENAI },
    Row {
        kind: Kind::Sglang,
        name: "SGLang",
        probe: Some(("/get_model_info", "/model_path")),
        completions: Completions::OpenAi { token_prompts: true },
        tokenizing: Tokenizing::Sglang,
        adapters: Adapters::Named { load: "/load_lora_adapter", unload: "/unload_lora_adapter" },
        greedy: || json!({"repetition_penalty": 1.0}),
        ..OPENAI
    },
    Row {
        kind: Kind::Ollama,
        name: "Ollama",
        probe: Some(("/api/tags", "/models")),
        chat: "/api/chat",
        completions: Completions::Ollama,
        chats: Chats::Ollama,
        greedy: || json!({"repeat_penalty": 1.0, "top_k": 1}),
        ..OPENAI
    },
    Row {
        kind: Kind::Vllm,
        name: "vLLM",
        probe: Some(("/version", "/version")),
        completions: Completions::OpenAi { token_prompts: true },
        tokenizing: Tokenizing::Vllm,
        adapters: Adapters::Named { load: "/v1/load_lora_adapter", unload: "/v1/unload_lora_adapter" },
        greedy: || json!({"repetition_penalty": 1.0, "return_token_ids": true}),
        ..OPENAI
    },
    OPENAI,
];

impl Kind {
    pub(crate) fn row(self) -> &'static Row {
        ROWS.iter().find(|row| row.kind == self).unwrap_or_else(|| unreachable!("every kind has a row"))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.row().name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_row_and_only_the_last_row_needs_no_probe() {
        for (index, row) in ROWS.iter().enumerate() {
            assert_eq!(row.kind.row().name, row.name);
            assert_eq!(row.probe.is_none(), index == ROWS.len() - 1, "{}", row.name);
        }
    }
}
