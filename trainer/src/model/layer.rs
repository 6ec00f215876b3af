//! One decoder block: attention and gated MLP, each behind an RMSNorm and a residual.
//!
//! Responsible for: the flow inside a block of the Llama kind (llama, mistral, qwen2, qwen3).
//! Must not depend on: families, files, quantisation. What changes this flow is a new block file, not a flag here.

use burn::tensor::Tensor;
use tonfall_kernels::{AttentionLayout, RopeTable};

use super::linear::{Linear, Vector};
use super::pass::{LayerCache, Pass};

/// Root-mean-square norm (Zhang & Sennrich 2019) with a weight.
#[derive(Clone, Debug)]
pub(super) struct Norm {
    pub weight: Vector,
    pub epsilon: f64,
}

impl Norm {
    /// `[tokens, n]` → `[tokens, n]`.
    pub(super) fn forward(&self, x: Tensor<2>, pass: &Pass<'_>) -> Tensor<2> {
        tonfall_kernels::rms_norm(x, self.weight.get(pass.binding), self.epsilon)
    }

    /// The norm over each head of `[tokens, heads · head_dim]`.
    fn per_head(&self, x: Tensor<2>, pass: &Pass<'_>) -> Tensor<2> {
        tonfall_kernels::rms_norm_heads(x, self.weight.get(pass.binding), self.epsilon)
    }
}

/// Shape of a block's attention.
#[derive(Clone, Debug)]
pub(super) struct AttentionShape {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Sliding window in tokens, `None` for full causal attention.
    pub window: Option<usize>,
}

/// One decoder block.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    pub shape: AttentionShape,
    pub input_norm: Norm,
    pub q: Linear,
    pub k: Linear,
    pub v: Linear,
    pub o: Linear,
    /// Norms of each head's queries and keys (qwen3).
    pub qk_norm: Option<(Norm, Norm)>,
    pub post_attention_norm: Norm,
    pub gate: Linear,
    pub up: Linear,
    pub down: Linear,
}

impl Layer {
    /// `[tokens, hidden]` → `[tokens, hidden]`. With a cache, keys and values of earlier tokens are seen too.
    pub(super) fn forward(
        &self,
        x: Tensor<2>,
        rope: &RopeTable,
        pass: &Pass<'_>,
        cache: Option<&mut LayerCache>,
    ) -> Tensor<2> {
        let x = self.attend(x, rope, pass, cache);
        x.clone() + self.down.forward(self.gated(x, pass), pass)
    }

    /// A zero from which `backward()` starts with `gradient` as the gradient of the block's output. The output itself is
    /// not computed, which saves its last product.
    pub(super) fn seed(&self, x: Tensor<2>, gradient: Tensor<2>, rope: &RopeTable, pass: &Pass<'_>) -> Tensor<1> {
        let x = self.attend(x, rope, pass, None);
        tonfall_kernels::seed(x.clone(), gradient.clone()) + self.down.seed(self.gated(x, pass), gradient, pass)
    }

    /// The block's first half.
    fn attend(&self, x: Tensor<2>, rope: &RopeTable, pass: &Pass<'_>, cache: Option<&mut LayerCache>) -> Tensor<2> {
        x.clone() + self.attention(self.input_norm.forward(x, pass), rope, pass, cache)
    }

    fn attention(&self, x: Tensor<2>, rope: &RopeTable, pass: &Pass<'_>, cache: Option<&mut LayerCache>) -> Tensor<2> {
        let (mut q, mut k) = (self.q.forward(x.clone(), pass), self.k.forward(x.clone(), pass));
        let v = self.v.forward(x, pass);
        if let Some((q_norm, k_norm)) = &self.qk_norm {
            (q, k) = (q_norm.per_head(q, pass), k_norm.per_head(k, pass));
        }
        let q = tonfall_kernels::rope(q, rope, pass.positions);
        let k = tonfall_kernels::rope(k, rope, pass.positions);
        let (k, v) = match cache {
            Some(cache) => cache.extend(k, v),
            None => (k, v),
        };
        let layout = AttentionLayout {
            heads: self.shape.heads,
            kv_heads: self.shape.kv_heads,
            head_dim: self.shape.head_dim,
            scale: (self.shape.head_dim as f32).sqrt().recip(),
            window: self.shape.window,
            segments: pass.segments.to_vec(),
        };
        self.o.forward(tonfall_kernels::attention(q, k, v, &layout), pass)
    }

    /// What the second half's last product takes.
    fn gated(&self, x: Tensor<2>, pass: &Pass<'_>) -> Tensor<2> {
        let x = self.post_attention_norm.forward(x, pass);
        let (gate, up) = (self.gate.forward(x.clone(), pass), self.up.forward(x, pass));
        tonfall_kernels::swiglu(gate, up)
    }
}
