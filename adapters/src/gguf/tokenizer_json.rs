//! The parts of a `tokenizer.json` that decide which tokens a text has.
//!
//! Source: the serialization of the `tokenizers` library.
//! Must not depend on: GGUF metadata.

use std::collections::HashMap;
use std::fmt;

use serde::de::{Error as _, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// A tokenizer with a BPE model.
#[derive(Deserialize)]
pub(super) struct TokenizerJson {
    #[serde(default)]
    pub added_tokens: Vec<AddedToken>,
    #[serde(default)]
    pub normalizer: Value,
    #[serde(default)]
    pub pre_tokenizer: Value,
    #[serde(default)]
    pub post_processor: Value,
    pub model: Bpe,
}

/// A token that is matched in the text before the model is applied.
#[derive(Deserialize)]
pub(super) struct AddedToken {
    pub id: u32,
    pub content: String,
    #[serde(default)]
    pub special: bool,
    #[serde(default)]
    pub lstrip: bool,
    #[serde(default)]
    pub rstrip: bool,
    #[serde(default)]
    pub single_word: bool,
}

#[derive(Deserialize)]
pub(super) struct Bpe {
    pub vocab: HashMap<String, u32>,
    pub merges: Vec<Merge>,
    pub unk_token: Option<String>,
    pub continuing_subword_prefix: Option<String>,
    pub end_of_word_suffix: Option<String>,
    #[serde(default)]
    pub byte_fallback: bool,
    #[serde(default)]
    pub ignore_merges: bool,
}

/// Two pieces that may be joined. Stored as a list of two texts or, by older versions, as a text with a space.
pub(super) struct Merge(pub String, pub String);

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pair;
        impl<'de> Visitor<'de> for Pair {
            type Value = Merge;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a merge of two pieces")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Merge, E> {
                let pair = text.split_once(' ').filter(|(_, right)| !right.contains(' '));
                let (left, right) = pair.ok_or_else(|| E::custom(format!("the merge {text:?} is not two pieces")))?;
                Ok(Merge(left.to_owned(), right.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Merge, A::Error> {
                let (left, right) = (list.next_element()?, list.next_element()?);
                match (left, right, list.next_element::<IgnoredAny>()?) {
                    (Some(left), Some(right), None) => Ok(Merge(left, right)),
                    _ => Err(A::Error::custom("a merge is not two pieces")),
                }
            }
        }
        deserializer.deserialize_any(Pair)
    }
}

/// The type of the tokenizer's model. Old files don't have it; they are BPE models if they have merges.
pub(super) fn model_type(json: &[u8]) -> Result<Option<String>, serde_json::Error> {
    #[derive(Deserialize)]
    struct File {
        model: Model,
    }
    #[derive(Deserialize)]
    struct Model {
        r#type: Option<String>,
    }
    Ok(serde_json::from_slice::<File>(json)?.model.r#type)
}

/// The steps of a normalizer, pre-tokenizer or post-processor. `list` is the key of the steps in a sequence.
pub(super) fn steps<'a>(part: &'a Value, list: &str) -> Vec<&'a Value> {
    match (part, part[list].as_array()) {
        (Value::Null, _) => Vec::new(),
        (part, Some(list_of_steps)) if part["type"] == "Sequence" => {
            list_of_steps.iter().flat_map(|step| steps(step, list)).collect()
        }
        (part, _) => vec![part],
    }
}
