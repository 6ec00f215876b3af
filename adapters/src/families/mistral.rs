//! Mistral: Llama with a sliding window in every layer, unless `sliding_window` is null.

use super::config_keys::{Config, ConfigError};
use super::gguf::GgufSide;
use crate::description::{Family, ModelDescription};

pub(super) fn describe(config: &mut Config<'_>) -> Result<ModelDescription, ConfigError> {
    let rope = config.rope()?;
    let plain = config.decoder(Family::Mistral, rope)?;
    // transformers' default is 4096. A model without a window has null.
    let window = if config.has("sliding_window") { config.optional_usize("sliding_window")? } else { Some(4096) };
    Ok(ModelDescription {
        num_key_value_heads: config.usize_or("num_key_value_heads", 8)?,
        layer_windows: vec![window; plain.num_hidden_layers],
        ..plain
    })
}

/// llama.cpp has no architecture of its own for Mistral. It computes these models without the sliding window.
pub(super) const GGUF: GgufSide = super::llama::GGUF;
