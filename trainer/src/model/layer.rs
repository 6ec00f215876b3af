//! One decoder block: attention and gated MLP, each with an RMSNorm before it and a residual connection.
//!
//! Responsible for: the computation of a Llama block, and of a Gemma block, which has additional norms after both
//! halves.
//! Must not depend on: families, files, quantization. A block with another computation is a new file, not a flag here.

use burn::tensor::{Device, Tensor};
use tonfall_kernels::{Activation, AttentionLayout, Rematerialized, RopeTable};

use super::forward_pass::{CacheWrite, ForwardPass, LinearInput};
use super::linear::{Linear, Vector};
use crate::params::Binding;

/// RMSNorm (Zhang & Sennrich 2019) with a weight.
#[derive(Clone, Debug)]
pub(super) struct Norm {
    pub weight: Vector,
    /// Added to a trained weight before use. A frozen weight already includes it.
    pub offset: f32,
    pub epsilon: f64,
}

impl Norm {
    /// `[tokens, n]` → `[tokens, n]`.
    pub(super) fn forward(&self, x: Tensor<2>, pass: &ForwardPass<'_>) -> Tensor<2> {
        tonfall_kernels::rms_norm(x, self.gamma(pass), self.epsilon)
    }

    /// The norm as an input of adapters, `[tokens, n]`: recomputed in the backward pass if the pass demands it.
    fn rematerialized(&self, x: Tensor<2>, pass: &ForwardPass<'_>) -> Rematerialized {
        match pass.rematerialize {
            true => Rematerialized::rms_norm(x, self.gamma(pass), self.epsilon),
            false => self.forward(x, pass).into(),
        }
    }

    /// The norm over each head of `[tokens, heads · head_dim]`.
    fn per_head(&self, x: Tensor<2>, pass: &ForwardPass<'_>) -> Tensor<2> {
        tonfall_kernels::rms_norm_heads(x, self.gamma(pass), self.epsilon)
    }

    pub(super) fn device(&self, binding: &Binding<'_>) -> Device {
        self.weight.get(binding).device()
    }

    fn gamma(&self, pass: &ForwardPass<'_>) -> Tensor<1> {
        let weight = self.weight.get(pass.binding);
        match self.weight {
            Vector::Trainable(_) if self.offset != 0.0 => weight.add_scalar(self.offset),
            _ => weight,
        }
    }
}

/// Shape of a block's attention.
#[derive(Clone, Debug)]
pub(crate) struct AttentionShape {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub scale: f32,
    pub soft_cap: Option<f32>,
    /// Sliding window in tokens, `None` for full causal attention.
    pub window: Option<usize>,
}

/// One decoder block.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    pub shape: AttentionShape,
    /// Clones share the angles.
    pub rope: RopeTable,
    pub input_norm: Norm,
    pub q: Linear,
    pub k: Linear,
    pub v: Linear,
    pub o: Linear,
    /// Norms of each head's queries and keys (qwen3, gemma3).
    pub qk_norm: Option<(Norm, Norm)>,
    pub mlp_norm: Norm,
    /// Norms of the outputs of attention and MLP (gemma2, gemma3).
    pub output_norms: Option<(Norm, Norm)>,
    pub activation: Activation,
    pub gate: Linear,
    pub up: Linear,
    pub down: Linear,
}

impl Layer {
    /// `[tokens, hidden]` → `[tokens, hidden]`. With a cache, the segments of the pass are those of its positions.
    pub(super) fn forward(&self, x: Tensor<2>, pass: &ForwardPass<'_>, cache: Option<CacheWrite<'_>>) -> Tensor<2> {
        let x = self.attend(x, pass, cache);
        let gated = self.gated(x.clone(), pass);
        pass.observe(LinearInput::MlpOutput, &gated);
        let y = self.down.forward(gated, pass);
        x + match &self.output_norms {
            Some((_, norm)) => norm.forward(y, pass),
            None => y,
        }
    }

    /// A zero. Its `backward()` starts with `gradient` as the gradient of the block's output. The output itself is not
    /// computed. This saves the block's last matrix product unless a norm needs it.
    pub(super) fn with_cotangent(&self, x: Tensor<2>, gradient: Tensor<2>, pass: &ForwardPass<'_>) -> Tensor<1> {
        let x = self.attend(x, pass, None);
        let gated = self.gated(x.clone(), pass);
        let mlp = match &self.output_norms {
            Some((_, norm)) => {
                let y = norm.forward(self.down.forward(gated, pass), pass);
                tonfall_kernels::with_cotangent(y, gradient.clone())
            }
            None => self.down.with_cotangent(gated, gradient.clone(), pass),
        };
        tonfall_kernels::with_cotangent(x, gradient) + mlp
    }

    /// The attention half of the block.
    fn attend(&self, x: Tensor<2>, pass: &ForwardPass<'_>, cache: Option<CacheWrite<'_>>) -> Tensor<2> {
        let y = self.attention(self.input_norm.rematerialized(x.clone(), pass), pass, cache);
        x + match &self.output_norms {
            Some((norm, _)) => norm.forward(y, pass),
            None => y,
        }
    }

    fn attention(&self, x: Rematerialized, pass: &ForwardPass<'_>, cache: Option<CacheWrite<'_>>) -> Tensor<2> {
        pass.observe(LinearInput::Attention, &x);
        let (mut q, mut k) = (self.q.forward(x.clone(), pass), self.k.forward(x.clone(), pass));
        let v = self.v.forward(x, pass);
        if let Some((q_norm, k_norm)) = &self.qk_norm {
            (q, k) = (q_norm.per_head(q, pass), k_norm.per_head(k, pass));
        }
        let q = tonfall_kernels::rope(q, &self.rope, pass.positions);
        let k = tonfall_kernels::rope(k, &self.rope, pass.positions);
        let (k, v) = match cache {
            Some(cache) => cache.extend(k, v),
            None => (k, v),
        };
        let layout = AttentionLayout {
            heads: self.shape.heads,
            kv_heads: self.shape.kv_heads,
            head_dim: self.shape.head_dim,
            scale: self.shape.scale,
            soft_cap: self.shape.soft_cap,
            window: self.shape.window,
            segments: pass.segments.to_vec(),
        };
        let attended = tonfall_kernels::attention(q, k, v, &layout).into();
        pass.observe(LinearInput::AttentionOutput, &attended);
        self.o.forward(attended, pass)
    }

    /// The input of the MLP's down projection, `[tokens, intermediate]`.
    fn gated(&self, x: Tensor<2>, pass: &ForwardPass<'_>) -> Rematerialized {
        let x = self.mlp_norm.rematerialized(x, pass);
        pass.observe(LinearInput::Mlp, &x);
        let (gate, up) = (self.gate.forward(x.clone(), pass), self.up.forward(x, pass));
        match pass.rematerialize {
            true => Rematerialized::glu(gate, up, self.activation),
            false => tonfall_kernels::glu(gate, up, self.activation).into(),
        }
    }
}
