//! Llama 2, 3, 3.1, 3.2, SmolLM2 and everything else that says `llama`.

use super::config_keys::{Config, ConfigError};
use crate::description::{Family, ModelDescription};

pub(super) fn describe(config: &mut Config<'_>) -> Result<ModelDescription, ConfigError> {
    let heads = config.usize("num_attention_heads")?;
    let layers = config.layers()?;
    let hidden_size = config.usize("hidden_size")?;
    let bias = config.bool_or("attention_bias", false)?;
    config.full_attention_only(layers)?;
    Ok(ModelDescription {
        family: Family::Llama,
        vocab_size: config.usize("vocab_size")?,
        hidden_size,
        intermediate_size: config.usize("intermediate_size")?,
        num_hidden_layers: layers,
        num_attention_heads: heads,
        num_key_value_heads: config.usize_or("num_key_value_heads", heads)?,
        head_dim: config.usize_or("head_dim", hidden_size / heads)?,
        rms_norm_eps: config.f64_or("rms_norm_eps", 1e-6)?,
        rope: config.rope()?,
        max_position_embeddings: config.usize("max_position_embeddings")?,
        tie_word_embeddings: config.bool_or("tie_word_embeddings", false)?,
        attention_bias: bias,
        output_bias: bias,
        mlp_bias: config.bool_or("mlp_bias", false)?,
        qk_norm: false,
        layer_windows: vec![None; layers],
        bos_token_id: config.token_id("bos_token_id")?,
        eos_token_ids: config.token_ids("eos_token_id")?,
    })
}
