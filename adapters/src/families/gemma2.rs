//! Gemma 2: like Gemma, but with soft caps on attention scores and logits, norms on the outputs of attention and MLP,
//! and a sliding window in every second layer, starting with the first.

use super::config_keys::{Config, ConfigError};
use super::gemma::{
    check_attention_scale, every_generation, every_generation_of_gguf, expected_attention_scalar, without_biases,
};
use super::gguf::GgufSide;
use crate::description::{Family, ModelDescription};
use crate::gguf::MetadataValue;

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
/// llama.cpp's defaults for files without these keys.
const WINDOW: usize = 4096;
const CAPS: (f64, f64) = (50.0, 30.0);

pub(super) const GGUF: GgufSide = GgufSide {
    architecture: "gemma2",
    interleaved: false,
    describe: |keys, plain| {
        let window = keys.optional_size("attention.sliding_window")?.unwrap_or(WINDOW);
        let windows = (0..plain.num_hidden_layers).map(|layer| (layer % 2 == 0).then_some(window)).collect();
        let attention_scalar = expected_attention_scalar(&plain, LAYERS_OF_27B);
        Ok(ModelDescription {
            output_norms: true,
            query_pre_attn_scalar: Some(attention_scalar),
            attn_logit_softcapping: Some(keys.optional_f32("attn_logit_softcapping")?.unwrap_or(CAPS.0)),
            final_logit_softcapping: Some(keys.optional_f32("final_logit_softcapping")?.unwrap_or(CAPS.1)),
            layer_windows: windows,
            ..every_generation_of_gguf(plain)
        })
    },
    metadata: |model, metadata| {
        without_biases(model)?;
        check_attention_scale(model, LAYERS_OF_27B)?;
        let (Some(attention), Some(last)) = (model.attn_logit_softcapping, model.final_logit_softcapping) else {
            return Err("its architecture gemma2 always has both soft caps".to_owned());
        };
        let window = window_in_every(model, 2)?.ok_or("its architecture gemma2 always has sliding windows")?;
        metadata.push(("attn_logit_softcapping".to_owned(), MetadataValue::F32(attention as f32)));
        metadata.push(("final_logit_softcapping".to_owned(), MetadataValue::F32(last as f32)));
        metadata.push(("attention.sliding_window".to_owned(), MetadataValue::U32(window as u32)));
        Ok(())
    },
};

/// The sliding window, if all layers have it except for every `period`-th. `None` if no layer has one.
///
/// # Errors
/// If the layers are divided in another way.
pub(super) fn window_in_every(model: &ModelDescription, period: usize) -> Result<Option<usize>, String> {
    let window = model.layer_windows.iter().flatten().next().copied();
    let expected = (0..model.num_hidden_layers).map(|layer| window.filter(|_| (layer + 1) % period != 0));
    match model.layer_windows.iter().copied().eq(expected) {
        true => Ok(window),
        false => Err(format!("it computes every layer but each {period}th with a sliding window, this model differs")),
    }
}
