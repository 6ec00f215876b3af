//! GGUF tokenizer metadata → `tokenizer.json`.
//!
//! Two models are supported: `gpt2` (byte-level BPE with a list of merges) and `llama` (SentencePiece BPE with scores
//! and byte fallback). Sources: the GGUF specification, llama.cpp's `llama-vocab.cpp`, and transformers' converters for
//! the format of `tokenizer.json`.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json, json};
use thiserror::Error;

use super::file::GgufFile;
use super::piece_scores::LONGEST_PIECE;
use super::pre_tokenizers::{self, PreTokenizer, byte_level};
use super::value::{Array, Value};
use crate::tokenizer_files::{OtherTemplate, SpecialToken, TokenizerFiles};

/// Why the tokenizer of a GGUF file can't be used.
#[derive(Debug, Error)]
pub enum GgufTokenizerError {
    #[error("{}: metadata `{key}`: {reason}; take another conversion of the model", path.display())]
    Metadata { path: PathBuf, key: &'static str, reason: String },

    #[error(
        "{}: the tokenizer model \"{model}\" is not supported; supported are gpt2 and llama. Use the model's Hugging \
         Face directory as the base",
        path.display()
    )]
    Model { path: PathBuf, model: String },

    #[error(
        "{}: the pre-tokenizer \"{pre}\" is not known; known are {known}. A guess would tokenise differently in training \
         and in the server: use the model's Hugging Face directory as the base",
        path.display()
    )]
    PreTokenizer { path: PathBuf, pre: String, known: String },
}

use GgufTokenizerError as Error;

/// Token types in `tokenizer.ggml.token_type`.
pub(super) const NORMAL: u64 = 1;
pub(super) const UNKNOWN: u64 = 2;
pub(super) const CONTROL: u64 = 3;
pub(super) const USER_DEFINED: u64 = 4;
pub(super) const UNUSED: u64 = 5;
pub(super) const BYTE: u64 = 6;

struct Metadata<'a> {
    path: &'a Path,
    /// The bytes of the file, which contain the arrays.
    file: &'a [u8],
    values: &'a BTreeMap<String, Value>,
}

/// Converts the tokenizer of a file.
pub(crate) fn tokenizer_files(gguf: &GgufFile) -> Result<TokenizerFiles, Error> {
    let metadata = Metadata { path: gguf.path(), file: &gguf.parts[0], values: &gguf.metadata };
    let tokens = metadata.strings("tokenizer.ggml.tokens")?;
    let kinds = metadata.kinds(tokens.len())?;
    let vocab = metadata.vocabulary(&tokens)?;
    let special = |key: &'static str| metadata.special(key, &tokens);

    let bos = special("tokenizer.ggml.bos_token_id")?;
    let eos = special("tokenizer.ggml.eos_token_id")?;
    let flag = |key: &str| metadata.values.get(key).and_then(Value::as_bool);
    let (add_bos, add_eos) = (flag("tokenizer.ggml.add_bos_token"), flag("tokenizer.ggml.add_eos_token"));
    let model = metadata.string("tokenizer.ggml.model").unwrap_or_default();
    let (mut tokenizer, default_bos) = match model {
        "gpt2" => byte_level_bpe(&metadata, &vocab)?,
        "llama" => sentence_piece(&metadata, &tokens, &kinds, &vocab)?,
        other => return Err(Error::Model { path: metadata.path.to_owned(), model: other.to_owned() }),
    };
    let add_bos = add_bos.unwrap_or(default_bos);
    tokenizer.insert("added_tokens".to_owned(), added_tokens(&tokens, &kinds));
    let front = bos.as_ref().filter(|_| add_bos);
    let back = eos.as_ref().filter(|_| add_eos == Some(true));
    tokenizer.insert("post_processor".to_owned(), post_processor(front, back));
    Ok(TokenizerFiles {
        tokenizer_json: Json::Object(in_order(tokenizer)).to_string().into_bytes(),
        chat_template: metadata.string("tokenizer.chat_template").map(str::to_owned),
        other_templates: metadata.tool_template().into_iter().collect(),
        bos,
        eos,
        pad: special("tokenizer.ggml.padding_token_id")?,
        unk: special("tokenizer.ggml.unknown_token_id")?,
        eot: special("tokenizer.ggml.eot_token_id")?,
        add_bos: Some(add_bos),
        add_eos,
    })
}

impl<'a> Metadata<'a> {
    fn fault(&self, key: &'static str, reason: impl Into<String>) -> Error {
        Error::Metadata { path: self.path.to_owned(), key, reason: reason.into() }
    }

    fn string(&self, key: &str) -> Option<&'a str> {
        self.values.get(key).and_then(Value::as_str)
    }

    /// The template for conversations with tools. Converters write it for models with several templates.
    fn tool_template(&self) -> Option<OtherTemplate> {
        const KEY: &str = "tokenizer.chat_template.tool_use";
        let source = self.string(KEY)?.to_owned();
        Some(OtherTemplate { place: KEY.to_owned(), source, with_tools: true })
    }

    fn array(&self, key: &'static str) -> Result<Array, Error> {
        self.values.get(key).and_then(Value::as_array).ok_or_else(|| self.fault(key, "a list is missing"))
    }

    fn strings(&self, key: &'static str) -> Result<Vec<&'a str>, Error> {
        self.array(key)?.strings(self.file).ok_or_else(|| self.fault(key, "it must be a list of texts"))
    }

    /// The type of each token. Without the list, every token is a normal one.
    fn kinds(&self, count: usize) -> Result<Vec<u64>, Error> {
        const KEY: &str = "tokenizer.ggml.token_type";
        if !self.values.contains_key(KEY) {
            return Ok(vec![NORMAL; count]);
        }
        let kinds = self.array(KEY)?.numbers(self.file, Value::as_u64);
        kinds
            .filter(|kinds| kinds.len() == count)
            .ok_or_else(|| self.fault(KEY, format!("it must have {count} entries")))
    }

    fn vocabulary(&self, tokens: &[&'a str]) -> Result<HashMap<&'a str, u32>, Error> {
        let mut vocab = HashMap::with_capacity(tokens.len());
        for (id, token) in (0..).zip(tokens) {
            if let Some(first) = vocab.insert(*token, id) {
                let reason = format!("tokens {first} and {id} are both {token:?}");
                return Err(self.fault("tokenizer.ggml.tokens", reason));
            }
        }
        Ok(vocab)
    }

    fn special(&self, key: &'static str, tokens: &[&str]) -> Result<Option<SpecialToken>, Error> {
        let Some(value) = self.values.get(key) else { return Ok(None) };
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
        let token = id.and_then(|id| Some((id, *tokens.get(id as usize)?)));
        let Some((id, content)) = token else { return Err(self.fault(key, "it names no token of the vocabulary")) };
        Ok(Some(SpecialToken { content: content.to_owned(), id }))
    }
}

/// The keys of `tokenizer.json` that depend on the model, and whether texts start with BOS by default.
type Parts = (Map<String, Json>, bool);

fn byte_level_bpe(metadata: &Metadata<'_>, vocab: &HashMap<&str, u32>) -> Result<Parts, Error> {
    let name = metadata.string("tokenizer.ggml.pre").unwrap_or("default");
    let rule: &PreTokenizer = pre_tokenizers::find(name).ok_or_else(|| Error::PreTokenizer {
        path: metadata.path.to_owned(),
        pre: name.to_owned(),
        known: pre_tokenizers::names(),
    })?;
    const MERGES: &str = "tokenizer.ggml.merges";
    let mut merges = Vec::new();
    for (number, merge) in metadata.strings(MERGES)?.into_iter().enumerate() {
        let pair = merge.split_once(' ').filter(|(left, right)| {
            vocab.contains_key(left)
                && vocab.contains_key(right)
                && vocab.contains_key(format!("{left}{right}").as_str())
        });
        let Some((left, right)) = pair else {
            return Err(metadata
                .fault(MERGES, format!("entry {number} ({merge:?}) joins pieces that are not in the vocabulary")));
        };
        merges.push(json!([left, right]));
    }
    let mut parts = Map::new();
    parts.insert("normalizer".to_owned(), if rule.nfc { json!({ "type": "NFC" }) } else { Json::Null });
    parts.insert("pre_tokenizer".to_owned(), rule.to_json());
    parts.insert("decoder".to_owned(), byte_level());
    parts.insert("model".to_owned(), bpe(vocab, merges, None, rule.ignore_merges));
    Ok((parts, rule.add_bos))
}

fn sentence_piece(
    metadata: &Metadata<'_>,
    tokens: &[&str],
    kinds: &[u64],
    vocab: &HashMap<&str, u32>,
) -> Result<Parts, Error> {
    const SCORES: &str = "tokenizer.ggml.scores";
    let scores = metadata.array(SCORES)?.numbers(metadata.file, Value::as_f64);
    let scores = scores.filter(|scores| scores.len() == tokens.len() && !scores.iter().any(|score| score.is_nan()));
    let scores = scores.ok_or_else(|| metadata.fault(SCORES, format!("it must have {} numbers", tokens.len())))?;
    if let Some(id) = tokens.iter().position(|token| token.len() > LONGEST_PIECE) {
        return Err(metadata.fault("tokenizer.ggml.tokens", format!("token {id} is longer than {LONGEST_PIECE} bytes")));
    }
    let unknown = kinds.iter().position(|kind| *kind == UNKNOWN).map(|id| tokens[id]);
    let prefix = metadata.values.get("tokenizer.ggml.add_space_prefix").and_then(Value::as_bool).unwrap_or(true);

    let replace = |from: &str, to: &str| json!({ "type": "Replace", "pattern": { "String": from }, "content": to });
    let mut normalizers = vec![replace(" ", "▁")];
    let mut decoders = vec![replace("▁", " "), json!({ "type": "ByteFallback" }), json!({ "type": "Fuse" })];
    if prefix {
        normalizers.insert(0, json!({ "type": "Prepend", "prepend": "▁" }));
        decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    let mut parts = Map::new();
    parts.insert("normalizer".to_owned(), json!({ "type": "Sequence", "normalizers": normalizers }));
    parts.insert("pre_tokenizer".to_owned(), Json::Null);
    parts.insert("decoder".to_owned(), json!({ "type": "Sequence", "decoders": decoders }));
    let merges = merges_from_scores(tokens, &scores, vocab);
    parts.insert("model".to_owned(), bpe(vocab, merges, unknown, false));
    Ok((parts, true))
}

/// SentencePiece merges the pair whose joined piece has the best score. The list has every split of a piece into two
/// other pieces, sorted by score. Splits of the same piece are sorted by the length of their first part, longest first,
/// as in transformers.
fn merges_from_scores(tokens: &[&str], scores: &[f64], vocab: &HashMap<&str, u32>) -> Vec<Json> {
    let mut merges = Vec::new();
    for (piece, score) in tokens.iter().zip(scores) {
        let mut ways: Vec<(&str, &str)> = piece
            .char_indices()
            .skip(1)
            .map(|(at, _)| piece.split_at(at))
            .filter(|(left, right)| vocab.contains_key(left) && vocab.contains_key(right))
            .collect();
        ways.sort_by_key(|(left, right)| (vocab[left], vocab[right]));
        merges.extend(ways.into_iter().map(|(left, right)| (left, right, *score)));
    }
    let lengths = |(left, right, _): &(&str, &str, f64)| (left.chars().count(), right.chars().count());
    merges.sort_by(|a, b| b.2.total_cmp(&a.2).then_with(|| lengths(b).cmp(&lengths(a))));
    merges.into_iter().map(|(left, right, _)| json!([left, right])).collect()
}

fn bpe(vocab: &HashMap<&str, u32>, merges: Vec<Json>, unknown: Option<&str>, ignore_merges: bool) -> Json {
    let mut entries: Vec<_> = vocab.iter().collect();
    entries.sort_by_key(|(_, id)| **id);
    let vocab: Map<String, Json> = entries.into_iter().map(|(token, id)| ((*token).to_owned(), (*id).into())).collect();
    json!({
        "type": "BPE",
        "dropout": null,
        "unk_token": unknown,
        "continuing_subword_prefix": null,
        "end_of_word_suffix": null,
        "fuse_unk": unknown.is_some(),
        "byte_fallback": unknown.is_some(),
        "ignore_merges": ignore_merges,
        "vocab": vocab,
        "merges": merges,
    })
}

/// Control and user-defined tokens are matched literally. Control tokens are skipped in decoding.
fn added_tokens(tokens: &[&str], kinds: &[u64]) -> Json {
    let added = |(id, (content, kind)): (usize, (&&str, &u64))| {
        matches!(*kind, UNKNOWN | CONTROL | USER_DEFINED).then(|| {
            json!({
                "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": *kind != USER_DEFINED,
            })
        })
    };
    tokens.iter().zip(kinds).enumerate().filter_map(added).collect()
}

/// Adds BOS at the start and EOS at the end, if they are given.
fn post_processor(bos: Option<&SpecialToken>, eos: Option<&SpecialToken>) -> Json {
    if bos.is_none() && eos.is_none() {
        return Json::Null;
    }
    let special =
        |token: &SpecialToken, sequence: usize| json!({ "SpecialToken": { "id": token.content, "type_id": sequence } });
    let sequence = |name: &str, number: usize| {
        let mut steps: Vec<Json> = bos.map(|token| special(token, number)).into_iter().collect();
        steps.push(json!({ "Sequence": { "id": name, "type_id": number } }));
        steps.extend(eos.map(|token| special(token, number)));
        steps
    };
    let entry = |token: &SpecialToken| {
        (token.content.clone(), json!({ "id": token.content, "ids": [token.id], "tokens": [token.content] }))
    };
    let tokens: Map<String, Json> = bos.into_iter().chain(eos).map(entry).collect();
    let single = sequence("A", 0);
    let pair: Vec<Json> = single.iter().cloned().chain(sequence("B", 1)).collect();
    json!({ "type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens })
}

/// Sorts the keys in the order in which the `tokenizers` library writes them.
fn in_order(mut parts: Map<String, Json>) -> Map<String, Json> {
    let mut map = Map::new();
    map.insert("version".to_owned(), "1.0".into());
    map.insert("truncation".to_owned(), Json::Null);
    map.insert("padding".to_owned(), Json::Null);
    for key in ["added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder", "model"] {
        map.insert(key.to_owned(), parts.remove(key).unwrap_or(Json::Null));
    }
    map
}
