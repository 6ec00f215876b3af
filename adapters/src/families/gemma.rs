//! Gemma: Llama with a GeGLU MLP, scaled embeddings, and norms that store their weight minus 1.

use super::config_keys::{Config, ConfigError};
use super::gguf::GgufSide;
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

pub(super) const GGUF: GgufSide = GgufSide {
    architecture: "gemma",
    interleaved: false,
    describe: |_, plain| Ok(every_generation_of_gguf(plain)),
    metadata: |model, _| without_biases(model),
};

/// The settings that all Gemma generations share. They are not in the metadata.
pub(super) fn every_generation_of_gguf(plain: ModelDescription) -> ModelDescription {
    ModelDescription {
        unit_offset: true,
        activation: Activation::GeluTanh,
        embedding_scale: Some((plain.hidden_size as f64).sqrt()),
        ..plain
    }
}

/// # Errors
/// If the model has weights for which llama.cpp's architecture has no place.
pub(super) fn without_biases(model: &ModelDescription) -> Result<(), String> {
    match (model.attention_bias, model.tie_word_embeddings) {
        (true, _) => Err("its architectures for Gemma have no biases in the attention".to_owned()),
        (_, false) => Err("its architectures for Gemma have no output head of their own".to_owned()),
        _ => Ok(()),
    }
}

/// llama.cpp derives the scale of attention scores from the number of layers: that of the 27B models is its own.
///
/// # Errors
/// If the model has another scale.
pub(super) fn check_attention_scale(model: &ModelDescription, layers_of_27b: usize) -> Result<(), String> {
    let computed = expected_attention_scalar(model, layers_of_27b);
    let own = model.query_pre_attn_scalar.unwrap_or(model.head_dim as f64);
    match own == computed {
        true => Ok(()),
        false => Err(format!("it computes a model of this size with query_pre_attn_scalar = {computed}, not {own}")),
    }
}

/// The `query_pre_attn_scalar` with which llama.cpp computes a model.
pub(super) fn expected_attention_scalar(model: &ModelDescription, layers_of_27b: usize) -> f64 {
    match model.num_hidden_layers == layers_of_27b {
        true => (model.hidden_size / model.num_attention_heads) as f64,
        false => model.head_dim as f64,
    }
}
