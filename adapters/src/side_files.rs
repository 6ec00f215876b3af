//! The files next to a model's weights: configuration, tokenizer, chat template, licence.
//!
//! Must not depend on: weights.

use std::path::Path;

use serde_json::Value;
use tonfall_blocks::Format;

use crate::description::ModelDescription;
use crate::hf_config::{config_json, generation_json, pretty};
use crate::regular_file::{OpenError, read_text};
use crate::tokenizer_files::{SideFile, TEMPLATE_DIRECTORY, TokenizerFiles, named_template_files};

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

/// Prefixes of the names of licences and terms of use, in lower case. These files are exported with the weights.
const LICENCES: [&str; 10] = [
    "acceptable_use",
    "copying",
    "copyright",
    "licence",
    "license",
    "notice",
    "prohibited_use",
    "terms",
    "usage_policy",
    "use_policy",
];
const TEXT_EXTENSIONS: [&str; 5] = ["html", "md", "pdf", "rst", "txt"];

/// The side files of an export, and notices for the user.
#[derive(Clone, Debug, Default)]
pub struct SideFiles {
    pub files: Vec<SideFile>,
    pub notices: Vec<String>,
}

/// Whether a file is a side file of a model. `name` is relative to the model's directory, with `/`.
#[must_use]
pub fn is_side_file(name: &str) -> bool {
    match name.split_once('/') {
        Some((directory, file)) => {
            directory == TEMPLATE_DIRECTORY && file.ends_with(".jinja") && !file.contains(['/', '\\'])
        }
        None => NAMES.contains(&name) || name.ends_with(".jinja") || is_licence(name),
    }
}

fn is_licence(name: &str) -> bool {
    let name = name.to_lowercase().replace('-', "_");
    let text = name.rsplit_once('.').is_none_or(|(_, extension)| TEXT_EXTENSIONS.contains(&extension));
    text && LICENCES.iter().any(|prefix| name.starts_with(prefix))
}

/// Reads the side files of a directory, sorted by name.
pub(crate) fn read(dir: &Path) -> Result<Vec<SideFile>, OpenError> {
    let io = |source| OpenError::Io { path: dir.to_owned(), source };
    let mut names = named_template_files(dir)?;
    for entry in std::fs::read_dir(dir).map_err(io)? {
        names.extend(entry.map_err(io)?.file_name().into_string());
    }
    names.retain(|name| is_side_file(name) && dir.join(name).is_file());
    names.sort();
    let read = |name: String| Ok(SideFile { bytes: read_text(&dir.join(&name))?, name });
    names.into_iter().map(read).collect()
}

/// Makes the side files of a model from a GGUF file.
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

#[cfg(test)]
mod tests {
    use super::is_side_file;

    #[test]
    fn only_licences_templates_tokenizers_and_configurations_are_side_files() {
        for name in [
            "LICENSE",
            "LICENSE.txt",
            "Licence.md",
            "COPYING",
            "NOTICE",
            "Notice.txt",
            "USE_POLICY.md",
            "use-policy.txt",
            "TERMS_OF_USE.md",
            "config.json",
            "tokenizer.model",
            "chat_template.jinja",
            "additional_chat_templates/tool_use.jinja",
        ] {
            assert!(is_side_file(name), "{name}");
        }
        for name in [
            "README.md",
            "license.py",
            "notice.bin",
            "pytorch_model.bin",
            "model.safetensors",
            "other/config.json",
            "additional_chat_templates/../x.jinja",
            "additional_chat_templates/x.py",
            "modeling_x.py",
        ] {
            assert!(!is_side_file(name), "{name}");
        }
    }
}
