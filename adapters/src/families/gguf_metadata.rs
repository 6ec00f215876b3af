//! [`ModelDescription`] → GGUF metadata, the reverse of `gguf.rs`.
//!
//! Responsible for: what all families have in common. The rest is in each family's file. Must not depend on: weights,
//! tokenizers.

use super::Row;
use crate::description::{ModelDescription, RopeScaling};
use crate::gguf::{Metadata, MetadataValue};

/// The keys of the architecture.
///
/// # Errors
/// If llama.cpp can't compute such a model; the text is the reason.
pub(crate) fn metadata(model: &ModelDescription) -> Result<Metadata, String> {
    let gguf = Row::of(model.family).gguf;
    let mut keys: Metadata = Vec::new();
    let mut size = |key: &str, value: usize| keys.push((key.to_owned(), MetadataValue::U32(value as u32)));
    size("context_length", model.max_position_embeddings);
    size("embedding_length", model.hidden_size);
    size("block_count", model.num_hidden_layers);
    size("feed_forward_length", model.intermediate_size);
    size("attention.head_count", model.num_attention_heads);
    size("attention.head_count_kv", model.num_key_value_heads);
    size("attention.key_length", model.head_dim);
    size("attention.value_length", model.head_dim);
    size("rope.dimension_count", model.head_dim);
    size("vocab_size", model.vocab_size);
    // llama.cpp needs only the divisors. With this key, readers can tell the parameters.
    if let RopeScaling::Llama3 { original_max_position_embeddings, .. } = model.rope.scaling {
        size("rope.scaling.original_context_length", original_max_position_embeddings);
    }
    let mut number = |key: &str, value: f64| keys.push((key.to_owned(), MetadataValue::F32(value as f32)));
    number("attention.layer_norm_rms_epsilon", model.rms_norm_eps);
    number("rope.freq_base", model.rope.theta);
    if let RopeScaling::Linear { factor } = model.rope.scaling {
        number("rope.scaling.factor", factor);
        keys.push(("rope.scaling.type".to_owned(), MetadataValue::String("linear".to_owned())));
    }
    (gguf.metadata)(model, &mut keys)?;
    Ok(keys.into_iter().map(|(key, value)| (format!("{}.{key}", gguf.architecture), value)).collect())
}

/// The divisors of the rotary frequencies, `[head_dim / 2]`, which GGUF stores as the tensor `rope_freqs.weight`. `None`
/// without Llama 3's scaling.
pub(crate) fn rope_divisors(model: &ModelDescription) -> Option<Vec<f32>> {
    let RopeScaling::Llama3 { .. } = model.rope.scaling else { return None };
    let frequency = |i: usize| model.rope.theta.powf(-((2 * i) as f64) / model.head_dim as f64) as f32;
    Some((0..model.head_dim / 2).map(|i| frequency(i) / model.rope.scaling.apply(frequency(i))).collect())
}
