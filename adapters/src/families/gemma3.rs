//! The text models of Gemma 3: like Gemma 2, but with a norm over each head of q and k instead of the soft caps. Five
//! of six layers have a sliding window and their own rotary settings.

use super::config_keys::{Config, ConfigError};
use super::gemma::{
    check_attention_scale, every_generation, every_generation_of_gguf, expected_attention_scalar, without_biases,
};
use super::gemma2::{PERIOD_KEY, window_keys, windows};
use super::gguf::GgufSide;
use super::rope::RopesByType;
use crate::description::{Family, ModelDescription, Rope, RopeScaling};
use crate::gguf::MetadataValue;

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

/// Number of layers of the 27B model.
const LAYERS_OF_27B: usize = 62;
/// Each sixth layer has full attention.
const PERIOD: usize = 6;

pub(super) const GGUF: GgufSide = GgufSide {
    architecture: "gemma3",
    interleaved: false,
    describe: |keys, plain| {
        let window = keys.optional_size("attention.sliding_window")?;
        let period = keys.optional_size(PERIOD_KEY)?.unwrap_or(PERIOD);
        // llama.cpp reads this key since 2026. Before, the value was fixed.
        let local_theta = keys.optional_f32(LOCAL_THETA)?.unwrap_or(10_000.0);
        let attention_scalar = expected_attention_scalar(&plain, LAYERS_OF_27B);
        Ok(ModelDescription {
            local_rope: Some(Rope { theta: local_theta, scaling: RopeScaling::None }),
            qk_norm: true,
            output_norms: true,
            query_pre_attn_scalar: Some(attention_scalar),
            final_logit_softcapping: keys.optional_f32("final_logit_softcapping")?,
            layer_windows: windows(window, period, plain.num_hidden_layers),
            ..every_generation_of_gguf(plain)
        })
    },
    metadata: |model, metadata| {
        without_biases(model)?;
        check_attention_scale(model, LAYERS_OF_27B)?;
        if model.attn_logit_softcapping.is_some() {
            return Err("its architecture gemma3 has no soft cap of attention scores".to_owned());
        }
        window_keys(model, PERIOD, metadata)?;
        if let Some(cap) = model.final_logit_softcapping {
            metadata.push(("final_logit_softcapping".to_owned(), MetadataValue::F32(cap as f32)));
        }
        if let Some(local) = &model.local_rope {
            if local.scaling != RopeScaling::None {
                return Err("its architecture gemma3 has no scaling of the local rotary frequencies".to_owned());
            }
            metadata.push((LOCAL_THETA.to_owned(), MetadataValue::F32(local.theta as f32)));
        }
        Ok(())
    },
};

const LOCAL_THETA: &str = "rope.freq_base_swa";
