//! The chat settings of an exported model: its chat template, and the tokens at which servers stop.
//!
//! Responsible for: changing the side files of a base so that servers format and end turns in the same way as training.
//! Must not depend on: weights, how a template is rendered.

use serde_json::{Map, Value};

use crate::description::ModelDescription;
use crate::hf_config::{ids, pretty};
use crate::tokenizer_files::{SideFile, TEMPLATE_DIRECTORY};

pub const TEMPLATE_FILE: &str = "chat_template.jinja";
pub const GENERATION_FILE: &str = "generation_config.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

/// The chat settings of a run that differ from its base.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChatSettings {
    /// Jinja source that replaces all chat templates of the base. `None` keeps them.
    pub template: Option<String>,
    /// Tokens that end a turn.
    pub end_tokens: Vec<u32>,
}

impl ChatSettings {
    /// Changes the side files of an exported model. Returns notices for the user.
    ///
    /// A template of the run is written to `chat_template.jinja` and, for older loaders, to `tokenizer_config.json`.
    /// Missing end tokens are added to `eos_token_id` in `generation_config.json`, because servers stop only at these
    /// tokens.
    pub fn apply(&self, files: &mut Vec<SideFile>, model: &ModelDescription) -> Vec<String> {
        if let Some(template) = &self.template {
            let named = format!("{TEMPLATE_DIRECTORY}/");
            files.retain(|file| {
                file.name != TEMPLATE_FILE && file.name != "chat_template.json" && !file.name.starts_with(&named)
            });
            files.push(SideFile { name: TEMPLATE_FILE.to_owned(), bytes: template.clone().into_bytes() });
            if let Some(file) = files.iter_mut().find(|file| file.name == TOKENIZER_CONFIG)
                && let Some(mut config) = object(file)
            {
                config.insert("chat_template".to_owned(), template.as_str().into());
                file.bytes = pretty(&config);
            }
        }
        let existing = files.iter().position(|file| file.name == GENERATION_FILE);
        let Some((config, added)) = self.generation_config(existing.and_then(|at| object(&files[at])), model) else {
            return Vec::new();
        };
        let file = SideFile { name: GENERATION_FILE.to_owned(), bytes: pretty(&config) };
        match existing {
            Some(at) => files[at] = file,
            None => files.push(file),
        }
        let (noun, numbers) = match &added[..] {
            [one] => ("end token", one.to_string()),
            several => ("end tokens", several.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")),
        };
        vec![format!(
            "{GENERATION_FILE}: {noun} {numbers} added to `eos_token_id`: turns end there in the chat template, but the \
             base does not stop there"
        )]
    }

    /// The files that servers need in an adapter's directory, in addition to the adapter: the template of the run, and
    /// a `generation_config.json` if that of the base lacks an end token.
    #[must_use]
    pub fn adapter_files(&self, base_files: &[SideFile], model: &ModelDescription) -> Vec<SideFile> {
        let template = self
            .template
            .as_ref()
            .map(|template| SideFile { name: TEMPLATE_FILE.to_owned(), bytes: template.clone().into_bytes() });
        let existing = base_files.iter().find(|file| file.name == GENERATION_FILE).and_then(object);
        let generation = self
            .generation_config(existing, model)
            .map(|(config, _)| SideFile { name: GENERATION_FILE.to_owned(), bytes: pretty(&config) });
        template.into_iter().chain(generation).collect()
    }

    /// The configuration with the missing end tokens added, and those tokens. `None` if no end token is missing.
    fn generation_config(
        &self,
        existing: Option<Map<String, Value>>,
        model: &ModelDescription,
    ) -> Option<(Map<String, Value>, Vec<u32>)> {
        let mut config = existing.unwrap_or_default();
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let mut all: Vec<u32> = match config.get("eos_token_id") {
            Some(Value::Array(list)) => list.iter().filter_map(id).collect(),
            Some(value) if !value.is_null() => id(value).into_iter().collect(),
            _ => model.eos_token_ids.clone(),
        };
        let missing: Vec<u32> = self.end_tokens.iter().copied().filter(|token| !all.contains(token)).collect();
        if missing.is_empty() {
            return None;
        }
        all.extend(&missing);
        config.insert("eos_token_id".to_owned(), ids(&all));
        if let Some(bos) = model.bos_token_id {
            config.entry("bos_token_id").or_insert_with(|| bos.into());
        }
        Some((config, missing))
    }
}

fn object(file: &SideFile) -> Option<Map<String, Value>> {
    serde_json::from_slice(&file.bytes).ok()
}
