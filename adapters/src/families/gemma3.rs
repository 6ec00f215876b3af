//! The text models of Gemma 3: like Gemma 2, but with a norm over each head of q and k instead of the soft caps. Five
//! of six layers have a sliding window and their own rotary settings.

use super::config_keys::{Config, ConfigError};
use super::gemma::every_generation;
use super::rope::RopesByType;
use crate::description::{Family, ModelDescription};

pub(super) fn describe(config: &mut Config<'_>) -> Result<ModelDescription, ConfigError> {
    let RopesByType { full, sliding } = config.ropes_by_type()?;
    let gemma = every_generation(config, Family::Gemma3, full)?;
    let pattern = config.usize_or("sliding_window_pattern", 6)?;
    let pattern = config.usize_or("_sliding_window_pattern", pattern)?;
    Ok(ModelDescription {
        num_key_value_heads: config.usize_or("num_key_value_heads", 4)?,
        local_rope: Some(sliding),
        qk_norm: true,
        output_norms: true,
        query_pre_attn_scalar: Some(config.f64_or("query_pre_attn_scalar", 256.0)?),
        final_logit_softcapping: config.soft_cap("final_logit_softcapping", None)?,
        layer_windows: config.windows_by_type(gemma.num_hidden_layers, |layer| (layer + 1) % pattern != 0)?,
        ..gemma
    })
}
