//! The files beside a model's weights: configuration, tokenizer, template, licence.
//!
//! Must not depend on: weights.

use std::path::Path;

use serde_json::Value;
use tonfall_blocks::Format;

use crate::checkpoint::{CheckpointError, read_bounded};
use crate::description::ModelDescription;
use crate::hf_config::{config_json, generation_json, pretty};
use crate::mapped_file::OpenError;
use crate::tokenizer_files::{SideFile, TokenizerFiles};

const NAMES: [&str; 11] = [
    "added_tokens.json",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
];
/// Licences and terms stay with the weights that they cover.
const PREFIXES: [&str; 3] = ["LICENSE", "NOTICE", "USE_POLICY"];

/// Reads those of a directory, by name.
pub(crate) fn read(dir: &Path) -> Result<Vec<SideFile>, CheckpointError> {
    let io = |source| OpenError::Io { path: dir.to_owned(), source };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(io)? {
        let entry = entry.map_err(io)?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let wanted = NAMES.contains(&name.as_str())
            || name.ends_with(".jinja")
            || PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        if wanted && entry.path().is_file() {
            names.push(name);
        }
    }
    names.sort();
    let read = |name: String| Ok(SideFile { bytes: read_bounded(&dir.join(&name))?, name });
    names.into_iter().map(read).collect()
}

/// Makes them for a model that came out of a GGUF file.
pub(crate) fn make(model: &ModelDescription, tokenizer: &TokenizerFiles, dtype: Format) -> Vec<SideFile> {
    let file = |name: &str, bytes: Vec<u8>| SideFile { name: name.to_owned(), bytes };
    let mut config = config_json(model, dtype);
    let pad = tokenizer.pad.as_ref().map(|token| token.id);
    config.insert("pad_token_id".to_owned(), pad.map_or(Value::Null, Value::from));
    vec![
        file("config.json", pretty(&config)),
        file("generation_config.json", pretty(&generation_json(model, pad))),
        file("tokenizer.json", tokenizer.tokenizer_json.clone()),
        file("tokenizer_config.json", pretty(&tokenizer.config_json(model.max_position_embeddings))),
    ]
}
