//! Gemma 2: like Gemma, but with soft caps on attention scores and logits, norms on the outputs of attention and MLP,
//! and a sliding window in every second layer, starting with the first.

use super::config_keys::{Config, ConfigError};
use super::gemma::every_generation;
use crate::description::{Family, ModelDescription};

pub(super) fn describe(config: &mut Config<'_>) -> Result<ModelDescription, ConfigError> {
    let rope = config.rope()?;
    let gemma = every_generation(config, Family::Gemma2, rope)?;
    Ok(ModelDescription {
        num_key_value_heads: config.usize_or("num_key_value_heads", 4)?,
        output_norms: true,
        query_pre_attn_scalar: Some(config.f64_or("query_pre_attn_scalar", 256.0)?),
        attn_logit_softcapping: config.soft_cap("attn_logit_softcapping", Some(50.0))?,
        final_logit_softcapping: config.soft_cap("final_logit_softcapping", Some(30.0))?,
        layer_windows: config.windows_by_type(gemma.num_hidden_layers, |layer| layer % 2 == 0)?,
        ..gemma
    })
}
