//! Gemma: Llama with a GeGLU MLP, scaled embeddings, and norms that store their weight minus 1.

use super::config_keys::{Config, ConfigError};
use crate::description::{Activation, Family, ModelDescription, Rope};

pub(super) fn describe(config: &mut Config<'_>) -> Result<ModelDescription, ConfigError> {
    let rope = config.rope()?;
    let num_key_value_heads = config.usize_or("num_key_value_heads", 16)?;
    Ok(ModelDescription { num_key_value_heads, ..every_generation(config, Family::Gemma, rope)? })
}

/// The settings that all Gemma generations share.
pub(super) fn every_generation(
    config: &mut Config<'_>,
    family: Family,
    rope: Rope,
) -> Result<ModelDescription, ConfigError> {
    let plain = config.decoder(family, rope)?;
    let bias = config.bool_or("attention_bias", false)?;
    // Configurations of the first generation have "gelu" but mean the tanh approximation. transformers does the same.
    config.one_of("hidden_act", &["gelu_pytorch_tanh", "gelu"])?;
    config.one_of("hidden_activation", &["gelu_pytorch_tanh"])?;
    Ok(ModelDescription {
        head_dim: config.usize_or("head_dim", 256)?,
        tie_word_embeddings: config.bool_or("tie_word_embeddings", true)?,
        attention_bias: bias,
        output_bias: bias,
        unit_offset: true,
        activation: Activation::GeluTanh,
        embedding_scale: Some((plain.hidden_size as f64).sqrt()),
        ..plain
    })
}
