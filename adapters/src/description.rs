//! A decoder model as plain data: the sizes and switches of every family.
//!
//! Responsible for: [`ModelDescription`], the tensors that it implies, and the rotary frequencies.
//! Must not depend on: the source of the numbers (`families`, `gguf`), the bytes of tensors.

use serde::{Deserialize, Serialize};

/// Maximum number of layers, far above every known model.
pub(crate) const MAX_LAYERS: usize = 10_000;

/// The supported model families.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
    Gemma,
    Gemma2,
    /// The text models of Gemma 3.
    Gemma3,
}

/// The activation of the gated MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    Silu,
    /// GELU with the tanh approximation.
    GeluTanh,
}

/// Rotary position embedding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rope {
    pub theta: f64,
    pub scaling: RopeScaling,
}

/// Scaling of the rotary frequencies for longer contexts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "rope_type", rename_all = "snake_case")]
pub enum RopeScaling {
    None,
    Linear { factor: f64 },
    Llama3 { factor: f64, low_freq_factor: f64, high_freq_factor: f64, original_max_position_embeddings: usize },
}

/// A decoder-only transformer: RMSNorm before attention and before a gated MLP, rotary positions, grouped queries.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelDescription {
    pub family: Family,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub head_dim: usize,
    pub rms_norm_eps: f64,
    pub rope: Rope,
    /// For layers with a sliding window, if they have their own settings.
    pub local_rope: Option<Rope>,
    pub max_position_embeddings: usize,
    /// Whether the head (`lm_head`) shares the weight of the embedding.
    pub tie_word_embeddings: bool,
    /// Whether q, k and v have biases.
    pub attention_bias: bool,
    /// Whether o has a bias.
    pub output_bias: bool,
    /// Whether gate, up and down have biases.
    pub mlp_bias: bool,
    /// Whether RMSNorm is applied to each head of q and k.
    pub qk_norm: bool,
    /// Whether RMSNorm is applied to the outputs of attention and MLP, before the residual addition.
    pub output_norms: bool,
    /// Whether norms multiply by weight + 1.
    pub unit_offset: bool,
    pub activation: Activation,
    /// Factor on token embeddings.
    pub embedding_scale: Option<f64>,
    /// Attention scores are divided by the square root of this. `None`: of `head_dim`.
    pub query_pre_attn_scalar: Option<f64>,
    /// Soft cap of attention scores: `cap · tanh(score / cap)`.
    pub attn_logit_softcapping: Option<f64>,
    /// Soft cap of the logits.
    pub final_logit_softcapping: Option<f64>,
    /// For each layer: the number of latest positions that a token attends to, including itself. `None`: all.
    pub layer_windows: Vec<Option<usize>>,
    pub bos_token_id: Option<u32>,
    /// All tokens that end a generation.
    pub eos_token_ids: Vec<u32>,
}

/// The sizes of a decoder.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub head_dim: usize,
}

/// Shape of a tensor: a vector, or a matrix `[out_features, in_features]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Vector(usize),
    Matrix(usize, usize),
}

impl Shape {
    /// Rows and columns. A vector is one row.
    #[must_use]
    pub fn rows_cols(self) -> (usize, usize) {
        match self {
            Self::Vector(len) => (1, len),
            Self::Matrix(rows, cols) => (rows, cols),
        }
    }

    #[must_use]
    pub fn dims(self) -> Vec<usize> {
        match self {
            Self::Vector(len) => vec![len],
            Self::Matrix(rows, cols) => vec![rows, cols],
        }
    }
}

impl ModelDescription {
    /// A decoder of these sizes with the features of Llama 2 and an untied head.
    #[must_use]
    pub fn plain(family: Family, sizes: Sizes) -> Self {
        Self {
            family,
            vocab_size: sizes.vocab_size,
            hidden_size: sizes.hidden_size,
            intermediate_size: sizes.intermediate_size,
            num_hidden_layers: sizes.num_hidden_layers,
            num_attention_heads: sizes.num_attention_heads,
            num_key_value_heads: sizes.num_key_value_heads,
            head_dim: sizes.head_dim,
            rms_norm_eps: 1e-6,
            rope: Rope { theta: 10_000.0, scaling: RopeScaling::None },
            local_rope: None,
            max_position_embeddings: 4096,
            tie_word_embeddings: false,
            attention_bias: false,
            output_bias: false,
            mlp_bias: false,
            qk_norm: false,
            output_norms: false,
            unit_offset: false,
            activation: Activation::Silu,
            embedding_scale: None,
            query_pre_attn_scalar: None,
            attn_logit_softcapping: None,
            final_logit_softcapping: None,
            layer_windows: vec![None; sizes.num_hidden_layers],
            bos_token_id: None,
            eos_token_ids: Vec::new(),
        }
    }

    /// Hugging Face names and shapes of all tensors of the model, in the order of the forward pass.
    #[must_use]
    pub fn tensors(&self) -> Vec<(String, Shape)> {
        use Shape::{Matrix, Vector};
        let (hidden, ff) = (self.hidden_size, self.intermediate_size);
        let q = self.num_attention_heads * self.head_dim;
        let kv = self.num_key_value_heads * self.head_dim;
        let layer = [
            ("input_layernorm.weight", Vector(hidden), true),
            ("self_attn.q_proj.weight", Matrix(q, hidden), true),
            ("self_attn.q_proj.bias", Vector(q), self.attention_bias),
            ("self_attn.k_proj.weight", Matrix(kv, hidden), true),
            ("self_attn.k_proj.bias", Vector(kv), self.attention_bias),
            ("self_attn.v_proj.weight", Matrix(kv, hidden), true),
            ("self_attn.v_proj.bias", Vector(kv), self.attention_bias),
            ("self_attn.o_proj.weight", Matrix(hidden, q), true),
            ("self_attn.o_proj.bias", Vector(hidden), self.output_bias),
            ("self_attn.q_norm.weight", Vector(self.head_dim), self.qk_norm),
            ("self_attn.k_norm.weight", Vector(self.head_dim), self.qk_norm),
            ("post_attention_layernorm.weight", Vector(hidden), true),
            ("pre_feedforward_layernorm.weight", Vector(hidden), self.output_norms),
            ("post_feedforward_layernorm.weight", Vector(hidden), self.output_norms),
            ("mlp.gate_proj.weight", Matrix(ff, hidden), true),
            ("mlp.gate_proj.bias", Vector(ff), self.mlp_bias),
            ("mlp.up_proj.weight", Matrix(ff, hidden), true),
            ("mlp.up_proj.bias", Vector(ff), self.mlp_bias),
            ("mlp.down_proj.weight", Matrix(hidden, ff), true),
            ("mlp.down_proj.bias", Vector(hidden), self.mlp_bias),
        ];
        let table = Matrix(self.vocab_size, hidden);
        let mut tensors = vec![("model.embed_tokens.weight".to_owned(), table)];
        for index in 0..self.num_hidden_layers {
            let present = layer.iter().filter(|(.., present)| *present);
            tensors.extend(present.map(|(name, shape, _)| (format!("model.layers.{index}.{name}"), *shape)));
        }
        tensors.push(("model.norm.weight".to_owned(), Vector(hidden)));
        if !self.tie_word_embeddings {
            tensors.push(("lm_head.weight".to_owned(), table));
        }
        tensors
    }

    /// Rotary frequencies in radians per position, `[head_dim / 2]`. Computed like in transformers
    /// (`modeling_rope_utils.py`): f32 operations on f32 powers.
    #[must_use]
    pub fn inv_freq(&self, rope: &Rope) -> Vec<f32> {
        let half = self.head_dim / 2;
        (0..half)
            .map(|i| {
                let exponent = (2 * i) as f32 / self.head_dim as f32;
                let plain = 1.0 / (rope.theta.powf(f64::from(exponent)) as f32);
                rope.scaling.apply(plain)
            })
            .collect()
    }

    /// The factor on attention scores (q·k).
    #[must_use]
    pub fn attention_scale(&self) -> f64 {
        self.query_pre_attn_scalar.unwrap_or(self.head_dim as f64).sqrt().recip()
    }

    /// The factor on sine and cosine. It is 1 for every supported scaling.
    #[must_use]
    pub fn attention_factor(&self) -> f32 {
        1.0
    }
}

impl RopeScaling {
    /// The scaled frequency.
    pub(crate) fn apply(self, frequency: f32) -> f32 {
        match self {
            Self::None => frequency,
            Self::Linear { factor } => frequency / factor as f32,
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                let context = original_max_position_embeddings as f64;
                let wavelength = (2.0 * std::f64::consts::PI) as f32 / frequency;
                if wavelength < (context / high_freq_factor) as f32 {
                    return frequency;
                }
                if wavelength > (context / low_freq_factor) as f32 {
                    return frequency / factor as f32;
                }
                let smooth = (context as f32 / wavelength - low_freq_factor as f32)
                    / (high_freq_factor - low_freq_factor) as f32;
                (1.0 - smooth) * frequency / factor as f32 + smooth * frequency
            }
        }
    }
}
