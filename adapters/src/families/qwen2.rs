//! Qwen 2 and 2.5: Llama with biases on q, k and v, and an optional window in the upper layers.

use super::config_keys::{Config, ConfigError};
use super::gguf::GgufSide;
use crate::description::{Family, ModelDescription};

pub(super) fn describe(config: &mut Config<'_>) -> Result<ModelDescription, ConfigError> {
    let rope = config.rope()?;
    let plain = config.decoder(Family::Qwen2, rope)?;
    let layer_windows = config.upper_layer_windows(plain.num_hidden_layers)?;
    Ok(ModelDescription { attention_bias: true, layer_windows, ..plain })
}

pub(super) const GGUF: GgufSide = GgufSide {
    architecture: "qwen2",
    interleaved: false,
    describe: |_, plain| Ok(ModelDescription { attention_bias: true, output_bias: false, ..plain }),
    metadata: |_, _| Ok(()),
};
