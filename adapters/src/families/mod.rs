//! Model families: `config.json` or GGUF metadata → [`ModelDescription`].
//!
//! Responsible for: the table of known architectures (one file each), and refusing every unknown key that could change
//! the model's mathematics. Must not depend on: weights.
//!
//! To add a family: one file with its mapping, one row in [`FAMILIES`], one variant of [`Family`], one fixture.

mod config_keys;
mod gemma;
mod gemma2;
mod gemma3;
mod gguf;
mod gguf_metadata;
mod llama;
mod mistral;
mod qwen2;
mod qwen3;
mod rope;

use std::path::Path;

use serde_json::{Map, Value};

use config_keys::Config;
pub use config_keys::ConfigError;

use crate::description::{Family, ModelDescription};
pub(crate) use gemma2::PERIOD_KEY;
pub(crate) use gguf::{GgufSide, describe as describe_gguf, of_metadata};
pub(crate) use gguf_metadata::{metadata as gguf_metadata, rope_divisors};
pub(crate) use rope::rope_parameters;

/// One known family.
pub(crate) struct Row {
    pub family: Family,
    /// `model_type` in config.json.
    pub model_type: &'static str,
    /// `architectures[0]` in config.json.
    pub architecture: &'static str,
    describe: fn(&mut Config<'_>) -> Result<ModelDescription, ConfigError>,
    pub gguf: &'static GgufSide,
}

pub(crate) const FAMILIES: [Row; 7] = [
    Row {
        family: Family::Llama,
        model_type: "llama",
        architecture: "LlamaForCausalLM",
        describe: llama::describe,
        gguf: &llama::GGUF,
    },
    Row {
        family: Family::Mistral,
        model_type: "mistral",
        architecture: "MistralForCausalLM",
        describe: mistral::describe,
        gguf: &mistral::GGUF,
    },
    Row {
        family: Family::Qwen2,
        model_type: "qwen2",
        architecture: "Qwen2ForCausalLM",
        describe: qwen2::describe,
        gguf: &qwen2::GGUF,
    },
    Row {
        family: Family::Qwen3,
        model_type: "qwen3",
        architecture: "Qwen3ForCausalLM",
        describe: qwen3::describe,
        gguf: &qwen3::GGUF,
    },
    Row {
        family: Family::Gemma,
        model_type: "gemma",
        architecture: "GemmaForCausalLM",
        describe: gemma::describe,
        gguf: &gemma::GGUF,
    },
    Row {
        family: Family::Gemma2,
        model_type: "gemma2",
        architecture: "Gemma2ForCausalLM",
        describe: gemma2::describe,
        gguf: &gemma2::GGUF,
    },
    Row {
        family: Family::Gemma3,
        model_type: "gemma3_text",
        architecture: "Gemma3ForCausalLM",
        describe: gemma3::describe,
        gguf: &gemma3::GGUF,
    },
];

impl Row {
    pub(crate) fn of(family: Family) -> &'static Self {
        FAMILIES.iter().find(|row| row.family == family).unwrap_or_else(|| unreachable!("every family has a row"))
    }
}

/// Names of the known families, for messages.
pub(crate) fn known() -> String {
    FAMILIES.map(|row| row.model_type).join(", ")
}

/// Describes the model of a `config.json`.
///
/// # Errors
/// [`ConfigError`], which names the file and the key.
pub(crate) fn describe(path: &Path, config: &Map<String, Value>) -> Result<ModelDescription, ConfigError> {
    let mut config = Config::new(path, config);
    let model_type = config.string("model_type")?;
    let unknown = |what: String| ConfigError::Architecture { path: path.to_owned(), what, known: known() };
    let Some(row) = FAMILIES.iter().find(|row| row.model_type == model_type) else {
        return Err(unknown(format!("model_type \"{model_type}\"")));
    };
    if let Some(architecture) = config.architecture()?
        && architecture != row.architecture
    {
        return Err(unknown(format!("architecture \"{architecture}\"")));
    }
    let description = (row.describe)(&mut config)?;
    config.finish()?;
    config.check_sizes(&description)?;
    Ok(description)
}

/// The ids in `eos_token_id` of a `generation_config.json`. They end a generation, in addition to the ids in the
/// configuration.
pub(crate) fn end_tokens(path: &Path, generation: &Map<String, Value>) -> Result<Vec<u32>, ConfigError> {
    Config::new(path, generation).token_ids("eos_token_id")
}
