//! Gemma 2: like Gemma, but with soft caps on attention scores and logits, norms on the outputs of attention and MLP,
//! and a sliding window in every second layer, starting with the first.

use super::config_keys::{Config, ConfigError};
use super::gemma::{
    check_attention_scale, every_generation, every_generation_of_gguf, expected_attention_scalar, without_biases,
};
use super::gguf::GgufSide;
use crate::description::{Family, ModelDescription};
use crate::gguf::{Metadata, MetadataValue};

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

/// Number of layers of the 27B model.
const LAYERS_OF_27B: usize = 46;
/// Each second layer has full attention.
const PERIOD: usize = 2;
/// llama.cpp's defaults for files without these keys.
const WINDOW: usize = 4096;
const CAPS: (f64, f64) = (50.0, 30.0);

pub(super) const GGUF: GgufSide = GgufSide {
    architecture: "gemma2",
    interleaved: false,
    describe: |keys, plain| {
        let window = keys.optional_size("attention.sliding_window")?.unwrap_or(WINDOW);
        let period = keys.optional_size(PERIOD_KEY)?.unwrap_or(PERIOD);
        let attention_scalar = expected_attention_scalar(&plain, LAYERS_OF_27B);
        Ok(ModelDescription {
            output_norms: true,
            query_pre_attn_scalar: Some(attention_scalar),
            attn_logit_softcapping: Some(keys.optional_f32("attn_logit_softcapping")?.unwrap_or(CAPS.0)),
            final_logit_softcapping: Some(keys.optional_f32("final_logit_softcapping")?.unwrap_or(CAPS.1)),
            layer_windows: windows(Some(window), period, plain.num_hidden_layers),
            ..every_generation_of_gguf(plain)
        })
    },
    metadata: |model, metadata| {
        without_biases(model)?;
        check_attention_scale(model, LAYERS_OF_27B)?;
        let (Some(attention), Some(last)) = (model.attn_logit_softcapping, model.final_logit_softcapping) else {
            return Err("its architecture gemma2 always has both soft caps".to_owned());
        };
        if model.layer_windows.iter().all(Option::is_none) {
            return Err("its architecture gemma2 always has sliding windows".to_owned());
        }
        window_keys(model, PERIOD, metadata)?;
        metadata.push(("attn_logit_softcapping".to_owned(), MetadataValue::F32(attention as f32)));
        metadata.push(("final_logit_softcapping".to_owned(), MetadataValue::F32(last as f32)));
        Ok(())
    },
};

/// llama.cpp reads this key since 2026. Before, the period was fixed for each architecture.
pub(crate) const PERIOD_KEY: &str = "attention.sliding_window_pattern";

/// The sliding window of each layer: all have it but every `period`-th.
pub(super) fn windows(window: Option<usize>, period: usize, layers: usize) -> Vec<Option<usize>> {
    (1..=layers).map(|layer| window.filter(|_| !layer.is_multiple_of(period))).collect()
}

/// Adds the keys of the sliding windows. `usual` is the period of the architecture, which needs no key.
///
/// # Errors
/// If the layers with full attention are not every n-th layer.
pub(super) fn window_keys(model: &ModelDescription, usual: usize, metadata: &mut Metadata) -> Result<(), String> {
    let Some(window) = model.layer_windows.iter().flatten().next().copied() else { return Ok(()) };
    let layers = model.num_hidden_layers;
    let fits = |period: &usize| windows(Some(window), *period, layers) == model.layer_windows;
    let Some(period) = [usual].into_iter().chain(2..=layers + 1).find(fits) else {
        return Err("it has full attention in every n-th layer, this model in others".to_owned());
    };
    metadata.push(("attention.sliding_window".to_owned(), MetadataValue::U32(window as u32)));
    if period != usual {
        metadata.push((PERIOD_KEY.to_owned(), MetadataValue::U32(period as u32)));
    }
    Ok(())
}
