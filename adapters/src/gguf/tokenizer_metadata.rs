//! `tokenizer.json` → GGUF tokenizer metadata.
//!
//! The reverse of `tokenizer.rs`, for the same two models: `gpt2` (byte-level BPE) and `llama` (SentencePiece BPE with byte
//! fallback). Everything that changes the tokens of a text is expressed in the metadata or refused. Exceptions, in which
//! llama.cpp can't do what the `tokenizers` library does:
//! - NFC normalization (Qwen): llama.cpp doesn't normalize texts.
//! - Combining marks, also those in emojis, in the rule `tekken`: llama.cpp doesn't count them among the letters of a word.
//! - The character `▁` in a text, next to spaces (Gemma): runs of spaces are tokens of their own in llama.cpp.
//! - `Metaspace` steps: `always` adds no space before a text that has one, llama.cpp does; `first` is explained at
//!   [`SpacePrefix::First`].
//!
//! `tests/reference/gguf_tokenizers.py` compares both programs on real tokenizers.
//!
//! Sources: the GGUF specification, llama.cpp's `llama-vocab.cpp` and its converters.

use std::collections::HashSet;

use serde_json::Value;
use thiserror::Error;

use super::file::GgufFile;
use super::piece_scores;
use super::pre_tokenizers;
use super::tokenizer::{BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED};
use super::tokenizer_json::{AddedToken, Bpe, Merge, TokenizerJson, model_type, steps};
use super::writer::{Metadata, MetadataValue};
use crate::tokenizer_files::{SpecialToken, TokenizerFiles};

/// Why a tokenizer can't be written to a GGUF file.
#[derive(Debug, Error)]
pub enum TokenizerMetadataError {
    #[error("tokenizer.json: {reason}; fetch the model again")]
    Damaged { reason: String },

    #[error(
        "tokenizer.json: {part}: {reason}. In a GGUF file, the tokens would differ from those of training: export the model \
         as safetensors instead"
    )]
    Unsupported { part: &'static str, reason: String },

    #[error(
        "tokenizer.json: the pre-tokenizer {found} is none of the rules that are known from llama.cpp ({known}). A guess \
         would tokenise differently in training and in the server: export the model as safetensors instead"
    )]
    PreTokenizer { found: String, known: String },

    #[error(
        "tokenizer.json: the token {token:?} has the id {id}, but the model's embedding has only {rows} rows; use the \
         tokenizer that belongs to the model"
    )]
    NoRow { token: String, id: u32, rows: usize },

    #[error(
        "the tokenizer has no end token, and llama.cpp would stop at another one; set `eos_token` in tokenizer_config.json"
    )]
    NoEnd,
}

use TokenizerMetadataError as Error;

/// End-of-turn tokens that llama.cpp also recognises without metadata, for families whose end token is another one.
const END_OF_TURN: [&str; 3] = ["<|eot_id|>", "<|im_end|>", "<end_of_turn>"];

const TEMPLATE: &str = "tokenizer.chat_template";

/// The metadata of a tokenizer. `rows` is the number of rows of the model's embedding. Rows without a token get unused
/// tokens. Added tokens without a row are left out, because the model can neither read nor write them (Gemma 3 without
/// vision has one).
///
/// # Errors
/// If the tokenizer is damaged, or does something that llama.cpp can't do.
pub(crate) fn tokenizer_metadata(files: &TokenizerFiles, rows: usize) -> Result<Metadata, Error> {
    let damaged = |error: serde_json::Error| Error::Damaged { reason: error.to_string() };
    if let Some(other) = model_type(&files.tokenizer_json).map_err(damaged)?.filter(|kind| kind != "BPE") {
        return Err(unsupported("model", format!("the type {other} is not supported, only BPE is")));
    }
    let mut json: TokenizerJson = serde_json::from_slice(&files.tokenizer_json).map_err(damaged)?;
    json.added_tokens.retain(|token| (token.id as usize) < rows || json.model.vocab.contains_key(&token.content));
    check_unused_settings(&json)?;

    let sentence_piece = json.model.byte_fallback;
    let tokens = Tokens::new(&json, rows)?;
    let mut out: Metadata = Vec::new();
    let mut put = |key: &str, value: MetadataValue| out.push((format!("tokenizer.ggml.{key}"), value));
    let text = |text: &str| MetadataValue::String(text.to_owned());
    if sentence_piece {
        let prefix = space_prefix(&json)?.in_every_fragment(files.chat_template.is_some());
        let scores = tokens.scores(&json)?;
        put("model", text("llama"));
        put("pre", text("default"));
        put("scores", MetadataValue::F32s(scores));
        put("add_space_prefix", MetadataValue::Bool(prefix));
    } else {
        let rule = byte_level_rule(&json)?;
        put("model", text("gpt2"));
        put("pre", text(rule));
        put("merges", MetadataValue::Strings(merges(&json.model)?));
    }
    put("tokens", MetadataValue::Strings(tokens.texts));
    put("token_type", MetadataValue::I32s(tokens.kinds.iter().map(|kind| *kind as i32).collect()));

    let eos = files.eos.as_ref().ok_or(Error::NoEnd)?;
    let eot = files.eot.clone().or_else(|| end_of_turn(&json.added_tokens, eos));
    let special = [
        ("bos", files.bos.as_ref()),
        ("eos", Some(eos)),
        ("eot", eot.as_ref()),
        ("padding", files.pad.as_ref()),
        ("unknown", files.unk.as_ref()),
    ];
    for (role, token) in special {
        let Some(SpecialToken { content, id }) = token else { continue };
        if *id as usize >= rows {
            return Err(Error::NoRow { token: content.clone(), id: *id, rows });
        }
        put(&format!("{role}_token_id"), MetadataValue::U32(*id));
    }
    let (front, back) = added_by_default(&json.post_processor, files)?;
    put("add_bos_token", MetadataValue::Bool(files.bos.is_some() && files.add_bos.unwrap_or(front)));
    put("add_eos_token", MetadataValue::Bool(files.add_eos.unwrap_or(back)));
    if let Some(template) = &files.chat_template {
        out.push((TEMPLATE.to_owned(), text(template)));
    }
    if let Some(other) = files.other_templates.iter().find(|other| other.with_tools) {
        out.push((format!("{TEMPLATE}.tool_use"), text(&other.source)));
    }
    Ok(out)
}

/// The tokenizer metadata of a GGUF base, unchanged. `template` replaces all chat templates.
pub(crate) fn carried_tokenizer(gguf: &GgufFile, template: Option<&str>) -> Metadata {
    let mut stored = gguf.stored_metadata("tokenizer.");
    if let Some(template) = template {
        stored.retain(|(key, _)| !key.starts_with(TEMPLATE));
        stored.push((TEMPLATE.to_owned(), MetadataValue::String(template.to_owned())));
    }
    stored
}

fn unsupported(part: &'static str, reason: impl Into<String>) -> Error {
    Error::Unsupported { part, reason: reason.into() }
}

/// Refuses settings for which GGUF has no key.
fn check_unused_settings(json: &TokenizerJson) -> Result<(), Error> {
    let affixes = [
        ("continuing_subword_prefix", &json.model.continuing_subword_prefix),
        ("end_of_word_suffix", &json.model.end_of_word_suffix),
    ];
    if let Some((key, Some(affix))) =
        affixes.into_iter().find(|(_, affix)| affix.as_ref().is_some_and(|it| !it.is_empty()))
    {
        return Err(unsupported("model", format!("`{key}` {affix:?} is not supported")));
    }
    for token in &json.added_tokens {
        let settings = [("lstrip", token.lstrip), ("rstrip", token.rstrip), ("single_word", token.single_word)];
        if let Some((key, _)) = settings.into_iter().find(|(_, set)| *set) {
            return Err(unsupported("added_tokens", format!("`{key}` of {:?} is not supported", token.content)));
        }
    }
    Ok(())
}

/// The tokens of a model, by id.
struct Tokens {
    texts: Vec<String>,
    kinds: Vec<u64>,
}

impl Tokens {
    fn new(json: &TokenizerJson, rows: usize) -> Result<Self, Error> {
        let sentence_piece = json.model.byte_fallback;
        let mut slots: Vec<Option<(&str, u64)>> = vec![None; rows];
        for (token, id) in &json.model.vocab {
            let slot = slots.get_mut(*id as usize);
            let slot = slot.ok_or_else(|| Error::NoRow { token: token.clone(), id: *id, rows })?;
            if let Some((other, _)) = slot.replace((token, if sentence_piece { kind_of_piece(token) } else { NORMAL }))
            {
                return Err(Error::Damaged { reason: format!("the tokens {other:?} and {token:?} have the id {id}") });
            }
        }
        for AddedToken { id, content, special, .. } in &json.added_tokens {
            let slot = slots.get_mut(*id as usize);
            let slot = slot.ok_or_else(|| Error::NoRow { token: content.clone(), id: *id, rows })?;
            if let Some((other, _)) = slot.filter(|(other, _)| other != content) {
                return Err(Error::Damaged {
                    reason: format!("the tokens {other:?} and {content:?} have the id {id}"),
                });
            }
            *slot = Some((content, if *special { CONTROL } else { USER_DEFINED }));
        }
        if let Some(unknown) = json.model.unk_token.as_ref().filter(|_| sentence_piece) {
            let id = json.model.vocab.get(unknown).ok_or_else(|| Error::Damaged {
                reason: format!("the unknown token {unknown:?} is not in the vocabulary"),
            })?;
            slots[*id as usize] = Some((unknown, UNKNOWN));
        }
        let (mut texts, mut kinds) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
        for (id, slot) in slots.into_iter().enumerate() {
            let (text, kind) = slot.map_or((format!("[PAD{id}]"), UNUSED), |(text, kind)| {
                // llama.cpp cuts these tokens out of the text before it replaces spaces, and writes them unchanged.
                let spaces = sentence_piece && kind == USER_DEFINED;
                (if spaces { text.replace('▁', " ") } else { text.to_owned() }, kind)
            });
            texts.push(text);
            kinds.push(kind);
        }
        // llama.cpp stops with a failed assertion if two tokens are equal.
        let mut seen = HashSet::with_capacity(rows);
        if let Some(twice) = texts.iter().find(|text| !seen.insert(text.as_str())) {
            return Err(unsupported("model", format!("two tokens are {twice:?}")));
        }
        Ok(Self { texts, kinds })
    }

    /// The scores of a SentencePiece vocabulary. Tokens that don't come from merges get the values of llama.cpp's
    /// converters, which have no effect.
    fn scores(&self, json: &TokenizerJson) -> Result<Vec<f32>, Error> {
        let vocab = &json.model.vocab;
        if let Some(byte) = (0..=255u8).map(byte_token).find(|byte| !vocab.contains_key(byte)) {
            return Err(unsupported("model", format!("`byte_fallback` is set, but the token {byte:?} is missing")));
        }
        let added = json.added_tokens.iter().map(|token| &*token.content).collect();
        let scores = piece_scores::scores(vocab, &added, &json.model.merges);
        let scores = scores.map_err(|reason| unsupported("model", reason))?;
        let score = |(text, kind): (&String, &u64)| match *kind {
            NORMAL => scores.get(text.as_str()).copied().unwrap_or(0.0),
            UNUSED => -10_000.0,
            BYTE | UNKNOWN => 0.0,
            _ => -1000.0,
        };
        Ok(self.texts.iter().zip(&self.kinds).map(score).collect())
    }
}

fn kind_of_piece(piece: &str) -> u64 {
    let byte = piece.strip_prefix("<0x").and_then(|rest| u8::from_str_radix(rest.strip_suffix('>')?, 16).ok());
    if byte.is_some_and(|byte| piece == byte_token(byte)) { BYTE } else { NORMAL }
}

fn byte_token(byte: u8) -> String {
    format!("<0x{byte:02X}>")
}

/// The name of the pre-tokenization rule of a byte-level tokenizer.
fn byte_level_rule(json: &TokenizerJson) -> Result<&'static str, Error> {
    let rule = pre_tokenizers::find_by_json(&json.pre_tokenizer)
        .ok_or_else(|| Error::PreTokenizer { found: json.pre_tokenizer.to_string(), known: pre_tokenizers::names() })?;
    let name = rule.names[0];
    if rule.ignore_merges != json.model.ignore_merges {
        let (here, there) = (json.model.ignore_merges, rule.ignore_merges);
        return Err(unsupported(
            "model",
            format!("`ignore_merges` is {here}, but {there} in llama.cpp's rule \"{name}\""),
        ));
    }
    let normal = json.normalizer.is_null() || rule.nfc && json.normalizer["type"] == "NFC";
    if !normal {
        return Err(unsupported(
            "normalizer",
            format!("{} is not supported with the rule \"{name}\"", json.normalizer),
        ));
    }
    Ok(name)
}

/// The merges as texts: the two pieces and a space between them.
fn merges(model: &Bpe) -> Result<Vec<String>, Error> {
    let known = |piece: &str| model.vocab.contains_key(piece);
    let text = |Merge(left, right): &Merge| match [left, right].iter().any(|piece| piece.contains(' ')) {
        true => Err(unsupported("model", format!("the merge of {left:?} and {right:?} has a space"))),
        false if known(left) && known(right) && known(&format!("{left}{right}")) => Ok(format!("{left} {right}")),
        false => {
            Err(Error::Damaged { reason: format!("the merge of {left:?} and {right:?} is not in the vocabulary") })
        }
    };
    model.merges.iter().map(text).collect()
}

/// Where a SentencePiece tokenizer adds a space. A fragment is a text between two added tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SpacePrefix {
    /// At the start of each fragment.
    Always,
    /// At the start of a text that doesn't begin with an added token. llama.cpp only has the other two ways. Conversations
    /// begin with an added token in all templates of such models, so no space is right for them. Without a template, texts
    /// are plain ones, mostly of a single fragment.
    First,
    Never,
}

impl SpacePrefix {
    fn in_every_fragment(self, has_template: bool) -> bool {
        self == Self::Always || self == Self::First && !has_template
    }
}

/// The way in which spaces are replaced by `▁`: normalizers (Llama 2, Gemma), or a `Metaspace` step (newer Mistral).
fn space_prefix(json: &TokenizerJson) -> Result<SpacePrefix, Error> {
    let (mut prepends, mut replaces) = (0, 0);
    for step in steps(&json.normalizer, "normalizers") {
        match step["type"].as_str() {
            Some("Prepend") if step["prepend"] == "▁" => prepends += 1,
            Some("Replace") if step["pattern"]["String"] == " " && step["content"] == "▁" => replaces += 1,
            _ => return Err(unsupported("normalizer", format!("{step} is not supported"))),
        }
    }
    let refuse = || Err(unsupported("pre_tokenizer", format!("{} is not supported here", json.pre_tokenizer)));
    let step = match steps(&json.pre_tokenizer, "pretokenizers")[..] {
        [] => &Value::Null,
        [step] => step,
        _ => return refuse(),
    };
    // Gemma splits at spaces, of which the normalizer leaves none.
    let without_effect = step.is_null() || step["type"] == "Split" && step["pattern"]["String"] == " ";
    match (prepends, replaces, step["type"].as_str()) {
        (0, 1, _) if without_effect => Ok(SpacePrefix::Never),
        (1, 1, _) if without_effect => Ok(SpacePrefix::Always),
        (0, 0, Some("Metaspace")) if step["replacement"] == "▁" => {
            let inside = |piece: &String| piece.char_indices().skip(1).any(|(_, letter)| letter == '▁');
            if step["split"] != false && json.model.vocab.keys().any(inside) {
                return Err(unsupported("pre_tokenizer", "`split` is not supported, because some tokens span words"));
            }
            match (step["prepend_scheme"].as_str(), &step["add_prefix_space"]) {
                (Some("always"), _) | (None, Value::Null | Value::Bool(true)) => Ok(SpacePrefix::Always),
                (Some("first"), _) => Ok(SpacePrefix::First),
                (Some("never"), _) | (None, Value::Bool(false)) => Ok(SpacePrefix::Never),
                _ => refuse(),
            }
        }
        _ => refuse(),
    }
}

fn end_of_turn(added: &[AddedToken], eos: &SpecialToken) -> Option<SpecialToken> {
    let token = added.iter().find(|token| token.special && END_OF_TURN.contains(&&*token.content))?;
    (token.id != eos.id).then(|| SpecialToken { content: token.content.clone(), id: token.id })
}

/// Whether the post-processor adds BOS at the start and EOS at the end of a text.
fn added_by_default(post_processor: &Value, files: &TokenizerFiles) -> Result<(bool, bool), Error> {
    let mut found = (false, false);
    for step in steps(post_processor, "processors") {
        match step["type"].as_str() {
            Some("ByteLevel") => {}
            Some("TemplateProcessing") => {
                let adds = |step: Option<&Value>, token: &Option<SpecialToken>| {
                    let id = step.and_then(|step| step["SpecialToken"]["id"].as_str());
                    id.is_some() && id == token.as_ref().map(|token| &*token.content)
                };
                let single = step["single"].as_array().map(Vec::as_slice).unwrap_or_default();
                found = (adds(single.first(), &files.bos), adds(single.last(), &files.eos));
                if single.len() != 1 + usize::from(found.0) + usize::from(found.1) {
                    return Err(unsupported("post_processor", "it adds other tokens than BOS and EOS"));
                }
            }
            _ => return Err(unsupported("post_processor", format!("{step} is not supported"))),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
