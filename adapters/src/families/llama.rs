//! Llama 2, 3, 3.1, 3.2, SmolLM2 and all other models of type `llama`.

use super::config_keys::{Config, ConfigError};
use super::gguf::GgufSide;
use crate::description::{Family, ModelDescription};

pub(super) fn describe(config: &mut Config<'_>) -> Result<ModelDescription, ConfigError> {
    let rope = config.rope()?;
    let plain = config.decoder(Family::Llama, rope)?;
    let bias = config.bool_or("attention_bias", false)?;
    config.full_attention_only(plain.num_hidden_layers)?;
    let mlp_bias = config.bool_or("mlp_bias", false)?;
    Ok(ModelDescription { attention_bias: bias, output_bias: bias, mlp_bias, ..plain })
}

pub(super) const GGUF: GgufSide =
    GgufSide { architecture: "llama", interleaved: true, describe: |_, plain| Ok(plain), metadata: |_, _| Ok(()) };
