//! Causal attention with grouped queries over documents that lie one after another.
//!
//! Responsible for: who sees whom, and the operation with its backward pass. The loops are in `forward` and `backward`.
//! Memory is linear in the number of tokens: a block of queries meets its visible keys at a time, and of the
//! probabilities only the logarithm of their normaliser is kept (Dao et al. 2022).
//! Must not depend on: position embeddings, caches.

mod backward;
mod forward;

use std::sync::Arc;

use burn::tensor::Tensor;

use crate::flex::{constant, contiguous, dims, floats, matrix};
use crate::op::{
    Autodiff, Backend, Backward, CheckpointStrategy, Checkpointer, Dispatch, Flex, FloatTensor, Gradients, Ops,
    OpsKind, backend_extension,
};

/// Queries and the keys that they may see: rows `q_start ..` of the queries, rows `k_start ..` of keys and values. The
/// last query stands at the last key, so fewer queries than keys are those of a continued document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub q_start: usize,
    pub q_len: usize,
    pub k_start: usize,
    pub k_len: usize,
}

/// Head sizes for which CUDA has attention as one kernel a pass (in bf16); others go by blocks of products.
pub const FUSED_HEAD_DIMS: [usize; 3] = [64, 96, 128];

/// Shape of an attention.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionLayout {
    /// Query heads; a multiple of `kv_heads`. Head `h` attends to key/value head `h / (heads / kv_heads)`.
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Factor on the products of queries and keys.
    pub scale: f32,
    /// Scaled scores are [soft-capped](crate::soft_cap) at this.
    pub soft_cap: Option<f32>,
    /// Key `j` is visible to query `i` if `i - window < j <= i`; without a window if `j <= i`.
    pub window: Option<usize>,
    /// Rows in no segment get zeros and no gradient. No query row is in two segments.
    pub segments: Vec<Segment>,
}

impl AttentionLayout {
    /// Row length of the queries.
    fn q_columns(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Row length of keys and values.
    fn kv_columns(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Query heads that share a key/value head.
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// The keys of its segment that query `i` of `segment` sees.
    pub(crate) fn visible(&self, segment: &Segment, i: usize) -> std::ops::Range<usize> {
        let end = segment.k_len - segment.q_len + i + 1;
        end.saturating_sub(self.window.unwrap_or(end))..end
    }

    fn check(&self, queries: usize, keys: usize) {
        assert!(self.kv_heads > 0 && self.head_dim > 0, "an attention without heads");
        assert!(self.heads.is_multiple_of(self.kv_heads), "{} heads share {} key heads", self.heads, self.kv_heads);
        assert!(self.window != Some(0), "a window of no keys");
        assert!(self.soft_cap.is_none_or(|cap| cap > 0.0), "scores are capped at {:?}", self.soft_cap);
        let mut end = 0;
        let mut sorted = self.segments.clone();
        sorted.sort_by_key(|segment| segment.q_start);
        for segment in sorted {
            let Segment { q_start, q_len, k_start, k_len } = segment;
            assert!(q_len <= k_len, "{q_len} queries at the end of {k_len} keys");
            assert!(q_start + q_len <= queries && k_start + k_len <= keys, "{segment:?} leaves {queries} x {keys}");
            assert!(q_start >= end || q_len == 0, "{segment:?} shares queries with another one");
            end = end.max(q_start + q_len);
        }
    }
}

/// Attention and its gradients.
#[backend_extension(Flex, Autodiff, Cube: cfg(feature = "cube"))]
pub(crate) trait AttentionOps: Backend {
    /// `q[Tq, heads · head_dim]`, `k` and `v` `[Tk, kv_heads · head_dim]` → the output, shaped like `q`, and the
    /// logarithms of the normalisers, `[Tq, heads]`.
    fn segment_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        layout: Arc<AttentionLayout>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// The gradients of `q`, `k` and `v`. Have no gradients of their own.
    fn segment_attention_backward(
        gradient: FloatTensor<Self>,
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        output: FloatTensor<Self>,
        normalisers: FloatTensor<Self>,
        layout: Arc<AttentionLayout>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

impl AttentionOps for Flex {
    fn segment_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        layout: Arc<AttentionLayout>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let [q, k, v] = [q, k, v].map(contiguous);
        let (queries, columns) = dims(&q);
        let (output, normalisers) = forward::attention(floats(&q), floats(&k), floats(&v), queries, &layout);
        (matrix(output, queries, columns), matrix(normalisers, queries, layout.heads))
    }

    fn segment_attention_backward(
        gradient: FloatTensor<Self>,
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        output: FloatTensor<Self>,
        normalisers: FloatTensor<Self>,
        layout: Arc<AttentionLayout>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let [gradient, q, k, v, output, normalisers] = [gradient, q, k, v, output, normalisers].map(contiguous);
        let ((queries, q_columns), (keys, k_columns)) = (dims(&q), dims(&k));
        let kept = backward::Kept {
            q: floats(&q),
            k: floats(&k),
            v: floats(&v),
            output: floats(&output),
            normalisers: floats(&normalisers),
        };
        let [dq, dk, dv] = backward::gradients(floats(&gradient), &kept, keys, &layout);
        (matrix(dq, queries, q_columns), matrix(dk, keys, k_columns), matrix(dv, keys, k_columns))
    }
}

impl<B: AttentionOps, C: CheckpointStrategy> AttentionOps for Autodiff<B, C> {
    fn segment_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        layout: Arc<AttentionLayout>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        #[derive(Debug)]
        struct Step;
        impl<B: AttentionOps> Backward<B, 3> for Step {
            type State = ([FloatTensor<B>; 5], Arc<AttentionLayout>);
            fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
                let ([q, k, v, output, normalisers], layout) = ops.state;
                let gradient = grads.consume::<B>(&ops.node);
                let (dq, dk, dv) = B::segment_attention_backward(gradient, q, k, v, output, normalisers, layout);
                for (parent, gradient) in ops.parents.into_iter().zip([dq, dk, dv]) {
                    if let Some(parent) = parent {
                        grads.register::<B>(parent.id, gradient);
                    }
                }
            }
        }
        let ((q, q_node), (k, k_node), (v, v_node)) = (q.into_parts(), k.into_parts(), v.into_parts());
        let (output, normalisers) = B::segment_attention(q.clone(), k.clone(), v.clone(), layout.clone());
        let output = match Step.prepare::<C>([q_node, k_node, v_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(([q, k, v, output.clone(), normalisers.clone()], layout), output),
            OpsKind::UnTracked(prep) => prep.finish(output),
        };
        (output, constant::<B, C>(normalisers))
    }

    fn segment_attention_backward(
        gradient: FloatTensor<Self>,
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        output: FloatTensor<Self>,
        normalisers: FloatTensor<Self>,
        layout: Arc<AttentionLayout>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let [gradient, q, k, v, output, normalisers] =
            [gradient, q, k, v, output, normalisers].map(|tensor| tensor.into_primitive());
        let (dq, dk, dv) = B::segment_attention_backward(gradient, q, k, v, output, normalisers, layout);
        (constant::<B, C>(dq), constant::<B, C>(dk), constant::<B, C>(dv))
    }
}

/// `softmax(cap(scale · q·kᵀ))·v` for every head and segment, `[Tq, heads · head_dim]`. `q` is `[Tq, heads · head_dim]`, `k` and
/// `v` are `[Tk, kv_heads · head_dim]`. Gradients for all three.
///
/// # Panics
/// When shapes and layout don't fit.
#[must_use]
pub fn attention(q: Tensor<2>, k: Tensor<2>, v: Tensor<2>, layout: &AttentionLayout) -> Tensor<2> {
    let ([queries, q_columns], [keys, k_columns]) = (q.dims(), k.dims());
    assert_eq!(q_columns, layout.q_columns(), "elements of a query row");
    assert_eq!(k_columns, layout.kv_columns(), "elements of a key row");
    assert_eq!(v.dims(), k.dims(), "keys and values have one shape");
    layout.check(queries, keys);
    let layout = Arc::new(layout.clone());
    let (output, _) =
        <Dispatch as AttentionOps>::segment_attention(q.into_dispatch(), k.into_dispatch(), v.into_dispatch(), layout);
    Tensor::from_dispatch(output)
}

#[cfg(test)]
mod tests;
