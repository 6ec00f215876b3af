//! The GGUF side of the families: metadata → [`ModelDescription`].
//!
//! Responsible for: what all families have in common, and refusing unknown keys. The rest is in each family's file
//! ([`GgufSide`]). Must not depend on: weights.
//!
//! Sources: the GGUF specification, llama.cpp's converters (`conversion/`) and loaders (`src/models/`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::{FAMILIES, Row};
use crate::description::{MAX_LAYERS, ModelDescription, Rope, RopeScaling, Sizes};
use crate::gguf::{GgufError, GgufFile, Metadata, Value};

/// What a family's models have in GGUF files, beyond what all families have in common.
pub(crate) struct GgufSide {
    /// `general.architecture`.
    pub architecture: &'static str,
    /// Whether the rows of q and k are interleaved for llama.cpp's rotary embedding.
    pub interleaved: bool,
    /// Completes the description with the family's own keys.
    pub(super) describe: fn(&mut Keys<'_>, ModelDescription) -> Result<ModelDescription, GgufError>,
    /// Adds the family's own keys, without the prefix of the architecture.
    ///
    /// # Errors
    /// If llama.cpp can't compute such a model; the text is the reason.
    pub(super) metadata: fn(&ModelDescription, &mut Metadata) -> Result<(), String>,
}

/// Keys with the architecture's prefix that may be present if their value is 0.
const ONLY_ZERO: [&str; 2] = ["expert_count", "expert_used_count"];

/// The family of the architecture in the metadata. In GGUF, Mistral models also have the architecture `llama`. llama.cpp
/// computes them without a sliding window, and so does this crate.
///
/// # Errors
/// If the architecture is unknown, or if the file is not a model.
pub(crate) fn of_metadata(path: &Path, metadata: &BTreeMap<String, Value>) -> Result<&'static Row, GgufError> {
    let general = |key: &str| metadata.get(key).and_then(Value::as_str);
    let refuse = |key: &str, reason: String| GgufError::Metadata { path: path.to_owned(), key: key.to_owned(), reason };
    if let Some(kind) = general("general.type").filter(|kind| *kind != "model") {
        return Err(refuse("general.type", format!("the file is of type \"{kind}\", not a model")));
    }
    let name = general("general.architecture").unwrap_or_default();
    FAMILIES.iter().find(|row| row.gguf.architecture == name).ok_or_else(|| {
        let mut known: Vec<&str> = FAMILIES.iter().map(|row| row.gguf.architecture).collect();
        known.dedup();
        refuse("general.architecture", format!("\"{name}\" is not supported; the known ones are {}", known.join(", ")))
    })
}

/// The description of the model, and whether the rows of q and k are interleaved.
pub(crate) fn describe(gguf: &GgufFile) -> Result<(ModelDescription, bool), GgufError> {
    let (path, metadata) = (gguf.path(), &gguf.metadata);
    let row = of_metadata(path, metadata)?;
    let mut keys = Keys { path, metadata, prefix: row.gguf.architecture, read: BTreeSet::new() };
    let has = |tensor: &str| gguf.tensors.contains_key(tensor);
    let rows = |tensor: &str| gguf.tensors.get(tensor).and_then(|tensor| tensor.shape.first().copied());

    let heads = keys.size("attention.head_count")?;
    let hidden_size = keys.size("embedding_length")?;
    let layers = keys.size("block_count")?;
    if layers > MAX_LAYERS {
        return Err(keys.refuse("block_count", format!("{layers} is more than {MAX_LAYERS}")));
    }
    let head_dim = keys.optional_size("attention.key_length")?.unwrap_or(hidden_size / heads);
    for (key, expected) in [("attention.value_length", head_dim), ("rope.dimension_count", head_dim)] {
        if let Some(found) = keys.optional_size(key)?.filter(|found| *found != expected) {
            return Err(keys.refuse(key, format!("{found} is not supported; it must be the head's size {expected}")));
        }
    }
    let vocab_size = rows("token_embd.weight").unwrap_or(0);
    if let Some(claimed) = keys.optional_size("vocab_size")?.filter(|claimed| *claimed != vocab_size) {
        return Err(keys.refuse("vocab_size", format!("{claimed}, but token_embd.weight has {vocab_size} rows")));
    }
    let max_position_embeddings = keys.size("context_length")?;
    let rope = rope(&mut keys, gguf, head_dim)?;
    let sizes = Sizes {
        vocab_size,
        hidden_size,
        intermediate_size: keys.size("feed_forward_length")?,
        num_hidden_layers: layers,
        num_attention_heads: heads,
        num_key_value_heads: keys.optional_size("attention.head_count_kv")?.unwrap_or(heads),
        head_dim,
    };
    let plain = ModelDescription {
        rms_norm_eps: keys.f32("attention.layer_norm_rms_epsilon")?,
        rope,
        max_position_embeddings,
        tie_word_embeddings: !has("output.weight"),
        // As in Hugging Face configurations: one switch for all four projections.
        attention_bias: has("blk.0.attn_q.bias"),
        output_bias: has("blk.0.attn_q.bias"),
        mlp_bias: has("blk.0.ffn_gate.bias"),
        bos_token_id: token_id(metadata.get("tokenizer.ggml.bos_token_id")),
        eos_token_ids: ["eos", "eot"]
            .iter()
            .filter_map(|kind| token_id(metadata.get(&format!("tokenizer.ggml.{kind}_token_id"))))
            .fold(Vec::new(), |mut ids, id| {
                if !ids.contains(&id) {
                    ids.push(id);
                }
                ids
            }),
        ..ModelDescription::plain(row.family, sizes)
    };
    let description = (row.gguf.describe)(&mut keys, plain)?;
    keys.finish()?;
    if !heads.is_multiple_of(description.num_key_value_heads) {
        return Err(keys.refuse("attention.head_count_kv", format!("{heads} heads can't be shared out evenly")));
    }
    if !head_dim.is_multiple_of(2) || head_dim == 0 {
        return Err(keys.refuse("attention.key_length", format!("{head_dim} is not a positive even number")));
    }
    Ok((description, row.gguf.interleaved))
}

fn token_id(value: Option<&Value>) -> Option<u32> {
    value.and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok())
}

fn rope(keys: &mut Keys<'_>, gguf: &GgufFile, head_dim: usize) -> Result<Rope, GgufError> {
    let theta = keys.optional_f32("rope.freq_base")?.unwrap_or(10_000.0);
    let kind = keys.optional_string("rope.scaling.type")?.unwrap_or("none");
    let factor = keys.optional_f32("rope.scaling.factor")?;
    let original = keys.optional_size("rope.scaling.original_context_length")?;
    keys.read.insert("rope.scaling.finetuned".to_owned());
    let scaling = match (kind, factor) {
        ("none", _) => RopeScaling::None,
        ("linear", Some(factor)) => RopeScaling::Linear { factor },
        (other, _) => {
            return Err(keys.refuse("rope.scaling.type", format!("\"{other}\" is not supported; supported is linear")));
        }
    };
    let Some(factors) = gguf.tensors.get("rope_freqs.weight") else { return Ok(Rope { theta, scaling }) };
    let bytes = gguf.bytes(factors);
    let factors: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    let llama3 = llama3_scaling(theta, head_dim, &factors, original);
    match (scaling, llama3) {
        (RopeScaling::None, Some(scaling)) => Ok(Rope { theta, scaling }),
        _ => Err(GgufError::Tensor {
            path: gguf.path().to_owned(),
            name: "rope_freqs.weight".to_owned(),
            reason: "its factors are not those of Llama 3's scaling, the only ones that are supported".to_owned(),
        }),
    }
}

/// Converters store Llama 3's rope scaling as one divisor per frequency. All releases have the parameters 1, 4 and
/// 8192, and the largest divisor is the factor. The divisors are recomputed from these values and compared.
fn llama3_scaling(theta: f64, head_dim: usize, factors: &[f32], original: Option<usize>) -> Option<RopeScaling> {
    let largest = factors.iter().copied().fold(1.0, f32::max);
    let scaling = RopeScaling::Llama3 {
        factor: f64::from(largest),
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: original.unwrap_or(8192),
    };
    let fits = factors.len() == head_dim / 2
        && factors.iter().enumerate().all(|(i, factor)| {
            let plain = theta.powf(-((2 * i) as f64) / head_dim as f64) as f32;
            let expected = plain / scaling.apply(plain);
            (factor - expected).abs() <= 1e-3 * expected
        });
    fits.then_some(scaling)
}

/// The metadata keys with the architecture's prefix.
pub(super) struct Keys<'a> {
    path: &'a Path,
    metadata: &'a BTreeMap<String, Value>,
    prefix: &'a str,
    read: BTreeSet<String>,
}

impl<'a> Keys<'a> {
    fn get(&mut self, key: &str) -> Option<&'a Value> {
        self.read.insert(key.to_owned());
        self.metadata.get(&format!("{}.{key}", self.prefix))
    }

    pub(super) fn refuse(&self, key: &str, reason: String) -> GgufError {
        GgufError::Metadata { path: self.path.to_owned(), key: format!("{}.{key}", self.prefix), reason }
    }

    fn typed<T>(
        &mut self,
        key: &str,
        what: &str,
        convert: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        convert(value).map(Some).ok_or_else(|| self.refuse(key, format!("it must be {what}")))
    }

    pub(super) fn optional_size(&mut self, key: &str) -> Result<Option<usize>, GgufError> {
        let convert = |value: &Value| value.as_u64().filter(|size| (1..=1 << 28).contains(size));
        Ok(self.typed(key, "a positive integer", convert)?.map(|size| size as usize))
    }

    pub(super) fn size(&mut self, key: &str) -> Result<usize, GgufError> {
        let value = self.optional_size(key)?;
        value.ok_or_else(|| self.refuse(key, "it is missing".to_owned()))
    }

    /// Reads a number, which is stored as f32. Returns the shortest decimal that rounds to it, as the author wrote it.
    pub(super) fn optional_f32(&mut self, key: &str) -> Result<Option<f64>, GgufError> {
        let positive = |value: &Value| value.as_f64().filter(|number| number.is_finite() && *number > 0.0);
        let number = self.typed(key, "a positive number", positive)?;
        Ok(number.map(|number| (number as f32).to_string().parse().unwrap_or(number)))
    }

    pub(super) fn f32(&mut self, key: &str) -> Result<f64, GgufError> {
        let value = self.optional_f32(key)?;
        value.ok_or_else(|| self.refuse(key, "it is missing".to_owned()))
    }

    pub(super) fn optional_string(&mut self, key: &str) -> Result<Option<&'a str>, GgufError> {
        self.typed(key, "a text", Value::as_str)
    }

    fn finish(&self) -> Result<(), GgufError> {
        let below = format!("{}.", self.prefix);
        for (key, value) in self.metadata {
            let Some(short) = key.strip_prefix(&below) else { continue };
            let harmless = ONLY_ZERO.contains(&short) && value.as_u64() == Some(0);
            if !harmless && !self.read.contains(short) {
                return Err(GgufError::UnknownKey { path: self.path.to_owned(), key: key.clone() });
            }
        }
        Ok(())
    }
}
