//! The tokenizer of a base model: `tokenizer.json`, the chat template and the special tokens, from wherever they lie.
//!
//! Must not depend on: GGUF (its conversion ends in [`TokenizerFiles`]), the tokenizers crate.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use thiserror::Error;

use crate::checkpoint::{CheckpointError, read_bounded};
use crate::gguf::GgufTokenizerError;

/// Why a tokenizer can't be used.
#[derive(Debug, Error)]
pub enum TokenizerError {
    #[error(transparent)]
    File(#[from] CheckpointError),

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

/// All that is known about a model's tokenizer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenizerFiles {
    /// In the format of the `tokenizers` library.
    pub tokenizer_json: Vec<u8>,
    /// Jinja source.
    pub chat_template: Option<String>,
    /// What other software may take instead.
    pub other_templates: Vec<OtherTemplate>,
    pub bos: Option<SpecialToken>,
    pub eos: Option<SpecialToken>,
    pub pad: Option<SpecialToken>,
    pub unk: Option<SpecialToken>,
    /// End of a turn, where GGUF metadata name one.
    pub eot: Option<SpecialToken>,
    /// Whether the configuration asks for a BOS in front of plain text; `None` where it says nothing.
    pub add_bos: Option<bool>,
    pub add_eos: Option<bool>,
}

/// A chat template besides the one that is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherTemplate {
    /// Where it stands.
    pub place: String,
    /// Jinja source.
    pub source: String,
    /// Whether it is meant for conversations with tools only.
    pub with_tools: bool,
}

/// A file that travels with the weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SideFile {
    pub name: String,
    pub bytes: Vec<u8>,
}

/// Reads the tokenizer of a Hugging Face directory.
pub(crate) fn read(dir: &Path) -> Result<TokenizerFiles, TokenizerError> {
    let path = dir.join("tokenizer.json");
    if !path.exists() {
        return Err(TokenizerError::NoTokenizer { dir: dir.to_owned() });
    }
    let tokenizer_json = read_bounded(&path)?;
    let tokenizer = parse(&path, &tokenizer_json)?;
    let config = read_object(&dir.join("tokenizer_config.json"))?.unwrap_or_default();
    let map = read_object(&dir.join("special_tokens_map.json"))?.unwrap_or_default();

    let special = |role: &'static str| -> Result<Option<SpecialToken>, TokenizerError> {
        let key = format!("{role}_token");
        let Some(content) = token_text(config.get(&key)).or_else(|| token_text(map.get(&key))) else { return Ok(None) };
        match token_id(&tokenizer, &content) {
            Some(id) => Ok(Some(SpecialToken { content, id })),
            None => Err(TokenizerError::NotInVocabulary { path: path.clone(), role, content }),
        }
    };
    let (chat_template, other_templates) = chat_templates(dir, &config)?;
    Ok(TokenizerFiles {
        chat_template,
        other_templates,
        bos: special("bos")?,
        eos: special("eos")?,
        pad: special("pad")?,
        unk: special("unk")?,
        eot: None,
        add_bos: config.get("add_bos_token").and_then(Value::as_bool),
        add_eos: config.get("add_eos_token").and_then(Value::as_bool),
        tokenizer_json,
    })
}

/// `chat_template.jinja` wins over the key in `tokenizer_config.json`, which may hold several by name. Transformers takes the
/// one that is called `tool_use` where there are tools.
fn chat_templates(
    dir: &Path,
    config: &Map<String, Value>,
) -> Result<(Option<String>, Vec<OtherTemplate>), TokenizerError> {
    let text = |value: &Value, key: &str| Some(value.get(key)?.as_str()?.to_owned());
    let mut found: Vec<(String, String)> = match config.get("chat_template") {
        Some(Value::String(template)) => vec![("default".to_owned(), template.clone())],
        Some(Value::Array(list)) => {
            list.iter().filter_map(|entry| Some((text(entry, "name")?, text(entry, "template")?))).collect()
        }
        _ => Vec::new(),
    };
    found.retain(|(name, _)| name == "default" || name == "tool_use");
    let path = dir.join("chat_template.jinja");
    let file = path.exists().then(|| {
        String::from_utf8(read_bounded(&path)?)
            .map_err(|error| TokenizerError::Json { path: path.clone(), reason: error.to_string() })
    });
    let chosen = match file.transpose()? {
        Some(file) => Some(file),
        None => found.iter().position(|(name, _)| name == "default").map(|index| found.remove(index).1),
    };
    found.retain(|(_, source)| Some(source) != chosen.as_ref());
    let others = found.into_iter().map(|(name, source)| OtherTemplate {
        place: format!("tokenizer_config.json, \"{name}\""),
        source,
        with_tools: name == "tool_use",
    });
    Ok((chosen, others.collect()))
}

/// A token is written as its text or as an object around it.
fn token_text(value: Option<&Value>) -> Option<String> {
    let text = match value? {
        Value::Object(object) => object.get("content")?,
        other => other,
    };
    text.as_str().map(str::to_owned)
}

fn token_id(tokenizer: &Map<String, Value>, content: &str) -> Option<u32> {
    let added = tokenizer.get("added_tokens").and_then(Value::as_array).into_iter().flatten();
    let mut added = added.filter(|token| token.get("content").and_then(Value::as_str) == Some(content));
    let vocabulary = || tokenizer.get("model")?.get("vocab")?.get(content);
    let id = added.next().and_then(|token| token.get("id")).or_else(vocabulary)?;
    u32::try_from(id.as_u64()?).ok()
}

/// A JSON object, or nothing where the file is not there.
pub(crate) fn read_object(path: &Path) -> Result<Option<Map<String, Value>>, TokenizerError> {
    match path.exists() {
        true => Ok(Some(parse(path, &read_bounded(path)?)?)),
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
    /// `tokenizer_config.json` as transformers reads it, for models whose tokenizer came out of a GGUF file.
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
