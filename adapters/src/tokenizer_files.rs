//! The tokenizer of a base model: `tokenizer.json`, the chat templates and the special tokens.
//!
//! Must not depend on: GGUF (its converter returns [`TokenizerFiles`]), the tokenizers crate.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use thiserror::Error;

use crate::gguf::GgufTokenizerError;
use crate::regular_file::{CONFIG_LIMIT, OpenError, read_text, read_up_to};
use crate::token_ids;

/// Why a tokenizer can't be used.
#[derive(Debug, Error)]
pub enum TokenizerError {
    #[error(transparent)]
    File(#[from] OpenError),

    #[error(transparent)]
    Gguf(#[from] GgufTokenizerError),

    #[error(
        "{}: there is no tokenizer.json; a tokenizer.model alone is not supported: in Python, transformers' \
         `AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)` writes one",
        dir.display()
    )]
    NoTokenizer { dir: PathBuf },

    #[error("{}: {reason}", path.display())]
    Json { path: PathBuf, reason: String },

    #[error("{}: the {role} token {content:?} is not in the vocabulary of tokenizer.json", path.display())]
    NotInVocabulary { path: PathBuf, role: &'static str, content: String },
}

/// A special token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecialToken {
    pub content: String,
    pub id: u32,
}

/// A model's tokenizer, chat templates and special tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenizerFiles {
    /// In the format of the `tokenizers` library.
    pub tokenizer_json: Vec<u8>,
    /// Jinja source.
    pub chat_template: Option<String>,
    /// Templates that other software may use instead.
    pub other_templates: Vec<OtherTemplate>,
    pub bos: Option<SpecialToken>,
    pub eos: Option<SpecialToken>,
    pub pad: Option<SpecialToken>,
    pub unk: Option<SpecialToken>,
    /// End-of-turn token, if the GGUF metadata has one.
    pub eot: Option<SpecialToken>,
    /// Whether plain texts start with BOS. `None` if the configuration doesn't state it.
    pub add_bos: Option<bool>,
    pub add_eos: Option<bool>,
}

/// A chat template in addition to the default one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherTemplate {
    /// Its file, and its name in the file.
    pub place: String,
    /// Jinja source.
    pub source: String,
    /// Whether it is only used for conversations with tools.
    pub with_tools: bool,
}

/// A file that belongs next to the weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SideFile {
    /// Path relative to the model's directory, with `/`.
    pub name: String,
    pub bytes: Vec<u8>,
}

/// Reads the tokenizer of a Hugging Face directory.
pub(crate) fn read(dir: &Path) -> Result<TokenizerFiles, TokenizerError> {
    let path = dir.join("tokenizer.json");
    if !path.exists() {
        return Err(TokenizerError::NoTokenizer { dir: dir.to_owned() });
    }
    let tokenizer_json = read_text(&path)?;
    let config = read_object(&dir.join("tokenizer_config.json"))?.unwrap_or_default();
    let map = read_object(&dir.join("special_tokens_map.json"))?.unwrap_or_default();

    let content = |role: &str| {
        let key = format!("{role}_token");
        token_text(config.get(&key)).or_else(|| token_text(map.get(&key)))
    };
    let contents = ["bos", "eos", "pad", "unk"].map(content);
    let wanted: Vec<&str> = contents.iter().flatten().map(String::as_str).collect();
    let ids = token_ids::find(&tokenizer_json, &wanted)
        .map_err(|error| TokenizerError::Json { path: path.clone(), reason: error.to_string() })?;
    let special = |index: usize, role: &'static str| -> Result<Option<SpecialToken>, TokenizerError> {
        let Some(content) = contents[index].clone() else { return Ok(None) };
        match ids.get(content.as_str()) {
            Some(id) => Ok(Some(SpecialToken { content, id: *id })),
            None => Err(TokenizerError::NotInVocabulary { path: path.clone(), role, content }),
        }
    };
    let (chat_template, other_templates) = chat_templates(dir, &config)?;
    Ok(TokenizerFiles {
        chat_template,
        other_templates,
        bos: special(0, "bos")?,
        eos: special(1, "eos")?,
        pad: special(2, "pad")?,
        unk: special(3, "unk")?,
        eot: None,
        add_bos: config.get("add_bos_token").and_then(Value::as_bool),
        add_eos: config.get("add_eos_token").and_then(Value::as_bool),
        tokenizer_json,
    })
}

/// The directory in which transformers stores named templates.
pub(crate) const TEMPLATE_DIRECTORY: &str = "additional_chat_templates";

struct NamedTemplate {
    /// `default` or `tool_use`. transformers uses no other name automatically.
    name: &'static str,
    place: String,
    source: String,
}

/// The default template, and all others. As in transformers, template files take precedence over `chat_template` in
/// `tokenizer_config.json`, which may contain several named templates. `tool_use` is used for conversations with tools.
fn chat_templates(
    dir: &Path,
    config: &Map<String, Value>,
) -> Result<(Option<String>, Vec<OtherTemplate>), TokenizerError> {
    let mut found = Vec::new();
    let mut add = |name, path: PathBuf, place: String| -> Result<(), TokenizerError> {
        if path.exists() {
            let source = String::from_utf8(read_text(&path)?)
                .map_err(|error| TokenizerError::Json { path: path.clone(), reason: error.to_string() })?;
            found.push(NamedTemplate { name, place, source });
        }
        Ok(())
    };
    add("default", dir.join("chat_template.jinja"), "chat_template.jinja".to_owned())?;
    for name in ["default", "tool_use"] {
        let place = format!("{TEMPLATE_DIRECTORY}/{name}.jinja");
        add(name, dir.join(&place), place)?;
    }
    let mut add = |name: &str, source: &Value| {
        let known = ["default", "tool_use"].into_iter().find(|known| *known == name);
        if let (Some(name), Some(source)) = (known, source.as_str()) {
            let place = format!("tokenizer_config.json, \"{name}\"");
            found.push(NamedTemplate { name, place, source: source.to_owned() });
        }
    };
    match config.get("chat_template") {
        Some(Value::Array(list)) => {
            list.iter().for_each(|entry| add(entry["name"].as_str().unwrap_or_default(), &entry["template"]));
        }
        Some(template) => add("default", template),
        None => {}
    }
    let default = found.iter().position(|template| template.name == "default").map(|at| found.remove(at).source);
    let mut others: Vec<OtherTemplate> = Vec::new();
    for NamedTemplate { name, place, source } in found {
        if default.as_ref() != Some(&source) && !others.iter().any(|other| other.source == source) {
            others.push(OtherTemplate { place, source, with_tools: name == "tool_use" });
        }
    }
    Ok((default, others))
}

/// The files in [`TEMPLATE_DIRECTORY`], relative to the model's directory, sorted.
pub(crate) fn named_template_files(dir: &Path) -> Result<Vec<String>, OpenError> {
    let directory = dir.join(TEMPLATE_DIRECTORY);
    if !directory.is_dir() {
        return Ok(Vec::new());
    }
    let io = |source| OpenError::Io { path: directory.clone(), source };
    let mut names = Vec::new();
    for entry in fs::read_dir(&directory).map_err(io)? {
        if let Ok(name) = entry.map_err(io)?.file_name().into_string() {
            names.push(format!("{TEMPLATE_DIRECTORY}/{name}"));
        }
    }
    names.sort();
    Ok(names)
}

/// The text of a token. A token is stored as a text, or as an object with a text.
fn token_text(value: Option<&Value>) -> Option<String> {
    let text = match value? {
        Value::Object(object) => object.get("content")?,
        other => other,
    };
    text.as_str().map(str::to_owned)
}

/// Reads the JSON object of a configuration. `None` if the file doesn't exist.
pub(crate) fn read_object(path: &Path) -> Result<Option<Map<String, Value>>, TokenizerError> {
    match path.exists() {
        true => Ok(Some(parse(path, &read_up_to(path, CONFIG_LIMIT)?)?)),
        false => Ok(None),
    }
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Map<String, Value>, TokenizerError> {
    let json = |reason: String| TokenizerError::Json { path: path.to_owned(), reason };
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(json("it must hold a JSON object".to_owned())),
        Err(error) => Err(json(error.to_string())),
    }
}

impl TokenizerFiles {
    /// `tokenizer_config.json` in the format of transformers, for a tokenizer that was converted from a GGUF file.
    pub(crate) fn config_json(&self, max_length: usize) -> Map<String, Value> {
        let text =
            |token: &Option<SpecialToken>| token.as_ref().map_or(Value::Null, |token| token.content.clone().into());
        let mut map = Map::new();
        let mut put = |key: &str, value: Value| map.insert(key.to_owned(), value);
        put("tokenizer_class", "PreTrainedTokenizerFast".into());
        put("bos_token", text(&self.bos));
        put("eos_token", text(&self.eos));
        put("pad_token", text(&self.pad));
        put("unk_token", text(&self.unk));
        put("add_bos_token", self.add_bos.unwrap_or(false).into());
        put("add_eos_token", self.add_eos.unwrap_or(false).into());
        put("clean_up_tokenization_spaces", false.into());
        put("model_max_length", max_length.into());
        if let Some(template) = &self.chat_template {
            put("chat_template", template.clone().into());
        }
        map
    }
}
