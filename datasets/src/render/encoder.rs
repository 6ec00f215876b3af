//! A fast encoder for byte-level BPE: text → token ids and byte ranges.
//!
//! Responsible for: detecting every `tokenizer.json` that this encoder encodes *exactly* like the crate `tokenizers`,
//! and encoding with it. That crate remains the reference: it encodes for all other files, and tests compare both.
//! Must not depend on: chat templates, datasets.
//!
//! Steps: first, added tokens are split off (those that match the raw text before the others). Then the steps of the
//! pre-tokenizer split the rest into pieces. Finally, each piece is merged by BPE, or its tokens are taken from a
//! cache. No text is copied or aligned: with ByteLevel, a token is a byte range of the text.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use aho_corasick::{AhoCorasick, MatchKind};
use serde::Deserialize;
use serde_json::Value;
use tokenizers::AddedToken;
use unicode_normalization_alignments::{IsNormalized, is_nfc_quick};

mod bpe;
mod pattern;

use bpe::{Bpe, BpeFile, Words};
use pattern::{GPT2, Splitter};

/// Token ids, and the byte range of each token. A token for a part of a character has the range of the whole character.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Encoded {
    pub(crate) ids: Vec<u32>,
    pub(crate) ranges: Vec<Range<usize>>,
}

/// The encoder of a tokenizer whose steps are all supported.
#[derive(Debug)]
pub(crate) struct Encoder {
    /// Whether texts must be normalized to NFC.
    nfc: bool,
    /// Added tokens that match the raw text, and added tokens that match the normalized text.
    added: [Option<Added>; 2],
    splitters: Vec<Splitter>,
    bpe: Bpe,
    /// One cache for each thread.
    words: Vec<Mutex<Words>>,
}

#[derive(Debug)]
struct Added {
    automaton: AhoCorasick,
    /// The id, and whether the token includes the white space before (`lstrip`) and after (`rstrip`) it.
    tokens: Vec<(u32, bool, bool)>,
}

#[derive(Deserialize)]
struct File<'a> {
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    #[serde(borrow)]
    model: BpeFile<'a>,
}

impl Encoder {
    /// The encoder of a `tokenizer.json`. `added` are the tokens added to its vocabulary.
    ///
    /// # Errors
    /// If a part of the file isn't supported. The text names the part.
    pub(crate) fn new<'a>(json: &[u8], added: impl Iterator<Item = (u32, &'a AddedToken)>) -> Result<Self, String> {
        let file: File<'_> =
            serde_json::from_slice(json).map_err(|error| format!("a model that isn't BPE ({error})"))?;
        let nfc = match &file.normalizer {
            None => false,
            Some(normalizer) if kind(normalizer) == "NFC" => true,
            Some(other) => return Err(format!("the normalizer {}", kind(other))),
        };
        let splitters = splitters(file.pre_tokenizer.as_ref())?;
        let (normalized, raw): (Vec<_>, Vec<_>) = added.partition(|(_, token)| token.normalized);
        if let Some((_, token)) = normalized.iter().find(|(_, token)| nfc && !is_nfc(&token.content)) {
            return Err(format!("the added token {:?}, which is normalized", token.content));
        }
        Ok(Self {
            nfc,
            added: [Added::new(raw)?, Added::new(normalized)?],
            words: (0..rayon::current_num_threads().max(1)).map(|_| Mutex::default()).collect(),
            splitters,
            bpe: Bpe::new(&file.model)?,
        })
    }

    /// Encodes a text. `None` if it is not in NFC or has bytes without a token. The reference encodes such texts.
    pub(crate) fn encode(&self, text: &str) -> Option<Encoded> {
        if self.nfc && !is_nfc(text) || !self.bpe.knows(text) {
            return None;
        }
        let likely = text.len() / 3;
        let mut encoded = Encoded { ids: Vec::with_capacity(likely), ranges: Vec::with_capacity(likely) };
        let thread = rayon::current_thread_index().unwrap_or(0) % self.words.len();
        let words = &mut *self.words[thread].lock().unwrap_or_else(PoisonError::into_inner);
        self.extract(&self.added, text, 0, words, &mut encoded);
        Some(encoded)
    }

    /// Splits off the added tokens of each set, and encodes the rest. `start` is the offset of `text` in the whole
    /// text.
    fn extract(&self, sets: &[Option<Added>], text: &str, start: usize, words: &mut Words, encoded: &mut Encoded) {
        let Some((set, rest)) = sets.split_first() else {
            return pattern::split(&self.splitters, text, start, &mut |piece, start| {
                self.bpe.encode(piece, start, words, encoded);
            });
        };
        let mut at = 0;
        for (id, taken, token) in set.iter().flat_map(|set| set.matches(text)) {
            if at < taken.start {
                self.extract(rest, &text[at..taken.start], start + at, words, encoded);
            }
            at = taken.end;
            encoded.ids.push(id);
            encoded.ranges.push(start + token.start..start + token.end);
        }
        if at < text.len() {
            self.extract(rest, &text[at..], start + at, words, encoded);
        }
    }
}

impl Added {
    fn new(mut tokens: Vec<(u32, &AddedToken)>) -> Result<Option<Self>, String> {
        if tokens.is_empty() {
            return Ok(None);
        }
        tokens.sort_unstable_by_key(|(id, _)| *id);
        let blank = |token: &AddedToken| token.content.trim() != token.content;
        let strips = tokens.iter().any(|(_, token)| token.lstrip || token.rstrip);
        if let Some((_, token)) = tokens.iter().find(|(_, token)| token.single_word || strips && blank(token)) {
            return Err(format!("the added token {:?}", token.content));
        }
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(tokens.iter().map(|(_, token)| &token.content))
            .map_err(|error| format!("the added tokens ({error})"))?;
        let tokens = tokens.into_iter().map(|(id, token)| (id, token.lstrip, token.rstrip)).collect();
        Ok(Some(Self { automaton, tokens }))
    }

    /// The added tokens in a text: id, the range to split off, and the range of the token itself.
    fn matches<'a>(&'a self, text: &'a str) -> impl Iterator<Item = (u32, Range<usize>, Range<usize>)> + 'a {
        let mut previous = 0;
        self.automaton.find_iter(text).map(move |hit| {
            let (id, left, right) = self.tokens[hit.pattern().as_usize()];
            let (mut start, mut end) = (hit.start(), hit.end());
            if left {
                start = text[..start].trim_end().len().max(previous);
            }
            if right {
                end = text.len() - text[end..].trim_start().len();
            }
            previous = end;
            (id, start..end, hit.range())
        })
    }
}

/// The steps of a pre-tokenizer. The last step must be ByteLevel, so that pieces consist of bytes.
fn splitters(pre_tokenizer: Option<&Value>) -> Result<Vec<Splitter>, String> {
    let mut steps = match pre_tokenizer {
        Some(sequence) if kind(sequence) == "Sequence" => {
            sequence["pretokenizers"].as_array().map(|steps| steps.iter().collect()).unwrap_or_default()
        }
        other => Vec::from_iter(other),
    };
    let last = steps.pop().filter(|step| kind(step) == "ByteLevel").ok_or("a pre-tokenizer without ByteLevel")?;
    if last["add_prefix_space"] != false {
        return Err("ByteLevel with add_prefix_space".to_owned());
    }
    let words = (last["use_regex"] != false).then(|| Splitter::pattern(GPT2));
    let step = |step: &Value| match (kind(step), &step["behavior"], &step["invert"]) {
        ("Digits", ..) => match &step["individual_digits"] {
            Value::Bool(each) => Some(Splitter::Numbers { each: *each }),
            _ => None,
        },
        ("Split", Value::String(behavior), Value::Bool(false)) if behavior == "Isolated" => {
            Splitter::pattern(step["pattern"]["Regex"].as_str()?)
        }
        _ => None,
    };
    let named = |value: &&Value| step(value).ok_or_else(|| format!("the pre-tokenizer {value}"));
    let splitters = steps.iter().map(named).chain(words.map(|words| words.ok_or_else(|| GPT2.to_owned())));
    splitters.collect()
}

fn kind(value: &Value) -> &str {
    value["type"].as_str().unwrap_or("without a type")
}

/// Whether a text is certainly in NFC, by the tables of `tokenizers`. Newer tables have more characters.
fn is_nfc(text: &str) -> bool {
    // Characters before the combining marks are never changed.
    text.chars().all(|c| c < '\u{300}') || is_nfc_quick(text.chars()) == IsNormalized::Yes
}
