//! Limits for the normalizers and decoders of a tokenizer.
//!
//! Responsible for: refusing a `tokenizer.json` that makes texts grow without bounds, such as forty replacements of `e`
//! by `ee`, and one on which the crate `tokenizers` panics. Must not depend on: chat templates, how tokens are made.
//!
//! There are two limits. A single step writes at most [`STEP`] bytes for each match. After each step, a text has at
//! most [`GROWTH`] times its original bytes. Together they limit the memory of a text to a multiple of its size.

use std::cell::RefCell;

use base64::Engine as _;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use tokenizers::decoders::DecoderWrapper;
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::{
    Decoder, ModelWrapper, NormalizedString, Normalizer, PostProcessorWrapper, PreTokenizerWrapper, TokenizerImpl,
};

use crate::foreign_panics::caught;

/// The tokenizer of the crate `tokenizers`, with steps that have limits.
pub(crate) type Tokenizer =
    TokenizerImpl<ModelWrapper, LimitedNormalizer, PreTokenizerWrapper, PostProcessorWrapper, LimitedDecoder>;

/// Maximum number of bytes that a step may write for a match. The steps of known models write at most 33 (NFKC).
const STEP: usize = 64;
/// Maximum growth of a text, as a factor.
const GROWTH: usize = 16;
/// Bytes that a text may have in addition to the factor.
const FREE: usize = 64 << 10;

/// The normalizer of a `tokenizer.json`, step by step.
#[derive(Clone, Debug)]
pub(crate) struct LimitedNormalizer(Vec<NormalizerWrapper>);

/// The decoder of a `tokenizer.json`, step by step.
#[derive(Clone, Debug)]
pub(crate) struct LimitedDecoder(Vec<DecoderWrapper>);

impl<'de> Deserialize<'de> for LimitedNormalizer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (mut steps, mut pending) = (Vec::new(), vec![part::<NormalizerWrapper, D>(deserializer)?]);
        while let Some(step) = pending.pop() {
            match step {
                NormalizerWrapper::Sequence(sequence) => pending.extend(sequence.as_ref().iter().rev().cloned()),
                step => {
                    let written = match &step {
                        NormalizerWrapper::Replace(replace) => replace.content.len(),
                        NormalizerWrapper::Prepend(prepend) => prepend.prepend.len(),
                        NormalizerWrapper::Precompiled(table) => {
                            let step = serde_json::to_value(table).unwrap_or_default();
                            longest_entry(step[TABLE].as_str().unwrap_or_default())
                        }
                        _ => 0,
                    };
                    check_step(written).map_err(D::Error::custom)?;
                    steps.push(step);
                }
            }
        }
        Ok(Self(steps))
    }
}

impl<'de> Deserialize<'de> for LimitedDecoder {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (mut steps, mut pending) = (Vec::new(), vec![part::<DecoderWrapper, D>(deserializer)?]);
        while let Some(step) = pending.pop() {
            match step {
                DecoderWrapper::Sequence(sequence) => pending.extend(sequence.get_decoders().iter().rev().cloned()),
                step => {
                    if let DecoderWrapper::Replace(replace) = &step {
                        check_step(replace.content.len()).map_err(D::Error::custom)?;
                    }
                    steps.push(step);
                }
            }
        }
        Ok(Self(steps))
    }
}

thread_local! {
    /// The last error of the normalizer on this thread.
    static FAILED: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs `encode`, and returns errors of the normalizer. The crate `tokenizers` ignores them.
pub(crate) fn with_errors<T>(encode: impl FnOnce() -> tokenizers::Result<T>) -> tokenizers::Result<T> {
    FAILED.take();
    let encoded = encode()?;
    FAILED.take().map_or(Ok(encoded), |why| Err(why.into()))
}

impl LimitedNormalizer {
    fn run(&self, text: &mut NormalizedString) -> tokenizers::Result<()> {
        let limit = limit(text.get().len());
        for step in &self.0 {
            step.normalize(text)?;
            check_growth("normalizer", text.get().len(), limit)?;
        }
        Ok(())
    }
}

impl Normalizer for LimitedNormalizer {
    fn normalize(&self, text: &mut NormalizedString) -> tokenizers::Result<()> {
        self.run(text).inspect_err(|error| FAILED.set(Some(error.to_string())))
    }
}

impl Decoder for LimitedDecoder {
    fn decode_chain(&self, mut tokens: Vec<String>) -> tokenizers::Result<Vec<String>> {
        let bytes = |tokens: &[String]| tokens.iter().map(String::len).sum::<usize>();
        let limit = limit(bytes(&tokens));
        for step in &self.0 {
            tokens = step.decode_chain(tokens)?;
            check_growth("decoder", bytes(&tokens), limit)?;
        }
        Ok(tokens)
    }
}

fn limit(bytes: usize) -> usize {
    FREE.saturating_add(bytes.saturating_mul(GROWTH))
}

fn check_growth(part: &str, bytes: usize, limit: usize) -> Result<(), String> {
    match bytes <= limit {
        true => Ok(()),
        false => Err(format!("its {part} makes a text more than {GROWTH} times longer")),
    }
}

fn check_step(written: usize) -> Result<(), String> {
    match written <= STEP {
        true => Ok(()),
        false => Err(format!("a step writes {written} bytes in the place of a match, and at most {STEP} are allowed")),
    }
}

/// The normalizer or the decoder. The crate panics on damaged JSON and on damaged tables, and allocates as many bytes as a
/// table states.
fn part<'de, T: serde::de::DeserializeOwned, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    let value = Value::deserialize(deserializer)?;
    check_tables(&value).map_err(D::Error::custom)?;
    let part =
        caught(|| T::deserialize(value)).ok_or_else(|| D::Error::custom("a normalizer or a decoder is damaged"))?;
    part.map_err(D::Error::custom)
}

/// The key of the table of a `Precompiled` step.
const TABLE: &str = "precompiled_charsmap";

/// Refuses a table whose index is longer than the table, at any depth.
fn check_tables(value: &Value) -> Result<(), &'static str> {
    match value {
        Value::Array(items) => items.iter().try_for_each(check_tables),
        Value::Object(object) => {
            object.values().try_for_each(check_tables)?;
            match object.get(TABLE).map(|table| texts_of(table.as_str().unwrap_or_default())) {
                Some(None) => Err("the table of a Precompiled step is cut off"),
                _ => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

/// Bytes of the longest text in the table of a `Precompiled` step.
fn longest_entry(table: &str) -> usize {
    let texts = texts_of(table).unwrap_or_default();
    texts.split(|byte| *byte == 0).map(<[u8]>::len).max().unwrap_or(0)
}

/// The texts in the table of a `Precompiled` step. The table has four bytes with the length of an index, the index, then texts that end
/// with a zero (SentencePiece, `normalizer.cc`). `None` if it is not in base64 or ends before its index does.
fn texts_of(table: &str) -> Option<Vec<u8>> {
    let mut table = base64::engine::general_purpose::STANDARD.decode(table).ok()?;
    let length = u32::from_le_bytes(*table.first_chunk::<4>()?) as usize;
    let end = length.checked_add(4).filter(|end| *end <= table.len())?;
    Some(table.split_off(end))
}
