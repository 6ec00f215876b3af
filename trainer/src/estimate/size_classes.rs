//! Models of well-known sizes.
//!
//! Responsible for: the model shapes in the table of `tonfall estimate`.
//! Must not depend on: plans.

use serde::Serialize;
use tonfall_adapters::{Family, ModelDescription, Sizes};

/// The shape of a known model, from its `config.json`.
#[derive(Clone, Copy, Debug)]
pub struct SizeClass {
    pub name: &'static str,
    vocab: usize,
    hidden: usize,
    ff: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    tied: bool,
}

/// The peak of one size class in bytes, without and with recomputation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClassEstimate {
    pub class: &'static str,
    pub parameters: u64,
    /// NF4; `None` in full training.
    pub four_bits: Option<[u64; 2]>,
    /// bf16 as in the model's files; f32 in full training.
    pub dense: [u64; 2],
}

/// From the smallest useful model to the largest that fits one machine.
#[rustfmt::skip]
pub const SIZE_CLASSES: [SizeClass; 7] = [
    SizeClass { name: "SmolLM2-135M", vocab: 49_152, hidden: 576, ff: 1_536, layers: 30, heads: 9, kv_heads: 3, head_dim: 64, tied: true },
    SizeClass { name: "Llama-3.2-1B", vocab: 128_256, hidden: 2_048, ff: 8_192, layers: 16, heads: 32, kv_heads: 8, head_dim: 64, tied: true },
    SizeClass { name: "Llama-3.2-3B", vocab: 128_256, hidden: 3_072, ff: 8_192, layers: 28, heads: 24, kv_heads: 8, head_dim: 128, tied: true },
    SizeClass { name: "Llama-3.1-8B", vocab: 128_256, hidden: 4_096, ff: 14_336, layers: 32, heads: 32, kv_heads: 8, head_dim: 128, tied: false },
    SizeClass { name: "Qwen2.5-14B", vocab: 152_064, hidden: 5_120, ff: 13_824, layers: 48, heads: 40, kv_heads: 8, head_dim: 128, tied: false },
    SizeClass { name: "Qwen2.5-32B", vocab: 152_064, hidden: 5_120, ff: 27_648, layers: 64, heads: 40, kv_heads: 8, head_dim: 128, tied: false },
    SizeClass { name: "Llama-3.1-70B", vocab: 128_256, hidden: 8_192, ff: 28_672, layers: 80, heads: 64, kv_heads: 8, head_dim: 128, tied: false },
];

impl SizeClass {
    /// The description as a Llama model. Some of these models have biases of a few kilobytes, which are left out.
    #[must_use]
    pub fn description(&self) -> ModelDescription {
        let sizes = Sizes {
            vocab_size: self.vocab,
            hidden_size: self.hidden,
            intermediate_size: self.ff,
            num_hidden_layers: self.layers,
            num_attention_heads: self.heads,
            num_key_value_heads: self.kv_heads,
            head_dim: self.head_dim,
        };
        let plain = ModelDescription::plain(Family::Llama, sizes);
        ModelDescription { max_position_embeddings: 131_072, tie_word_embeddings: self.tied, ..plain }
    }

    /// Number of weights.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        let tensors = self.description().tensors().into_iter();
        tensors.map(|(_, shape)| shape.rows_cols()).map(|(rows, cols)| (rows * cols) as u64).sum()
    }
}
