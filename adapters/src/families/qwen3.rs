//! Qwen 3, dense: like Qwen 2, but with a norm over each head of q and k instead of the biases. `head_dim` is
//! independent of the hidden size.

use super::config_keys::{Config, ConfigError};
use super::gguf::GgufSide;
use crate::description::{Family, ModelDescription};

pub(super) fn describe(config: &mut Config<'_>) -> Result<ModelDescription, ConfigError> {
    let rope = config.rope()?;
    let plain = config.decoder(Family::Qwen3, rope)?;
    let bias = config.bool_or("attention_bias", false)?;
    Ok(ModelDescription {
        head_dim: config.usize_or("head_dim", 128)?,
        attention_bias: bias,
        output_bias: bias,
        qk_norm: true,
        layer_windows: config.upper_layer_windows(plain.num_hidden_layers)?,
        ..plain
    })
}

pub(super) const GGUF: GgufSide = GgufSide {
    architecture: "qwen3",
    interleaved: false,
    describe: |_, plain| Ok(ModelDescription { qk_norm: true, ..plain }),
    metadata: |model, _| match model.attention_bias {
        true => Err("its architecture qwen3 has no biases in the attention".to_owned()),
        false => Ok(()),
    },
};
