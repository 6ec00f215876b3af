//! Causal grouped-query attention over packed sequences.
//!
//! Responsible for: which keys a query attends to, and the operation with its backward pass. The loops are in `forward` and
//! `backward`. Memory is linear in the number of tokens: scores exist for one block of queries at a time, and only the
//! log-sum-exp (LSE) of each row of scores is saved for the backward pass (Dao et al. 2022).
//! Must not depend on: position embeddings, caches.

mod backward;
pub(crate) mod forward;

use std::sync::Arc;

use burn::tensor::Tensor;

use crate::flex::{constant, contiguous, dims, floats, matrix};
use crate::op::{
    Autodiff, Backend, Backward, CheckpointStrategy, Checkpointer, Dispatch, Flex, FloatTensor, Gradients, Ops,
    OpsKind, backend_extension,
};

/// One sequence: rows `q_start .. q_start + q_len` of the queries, rows `k_start .. k_start + k_len` of keys and values. The
/// last query has the position of the last key, so `q_len < k_len` continues a sequence whose earlier keys are cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub q_start: usize,
    pub q_len: usize,
    pub k_start: usize,
    pub k_len: usize,
}

/// Head dimensions with fused attention kernels on CUDA (bf16). Other sizes use blocks of matrix products.
pub const FUSED_HEAD_DIMS: [usize; 3] = [64, 96, 128];

/// Heads, masking and sequences of an attention.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionLayout {
    /// Query heads, a multiple of `kv_heads`. Head `h` attends to key/value head `h / (heads / kv_heads)`.
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Factor on `q·k`, usually `1 / √head_dim`.
    pub scale: f32,
    /// The value at which scaled scores are [soft-capped](crate::soft_cap()).
    pub soft_cap: Option<f32>,
    /// Query `i` attends to key `j` if `i - window < j <= i`; without a window if `j <= i`.
    pub window: Option<usize>,
    /// Rows outside every segment have zero output and no gradient. No query row is in two segments.
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

    /// The keys of `segment` that its query `i` attends to.
    pub(crate) fn visible(&self, segment: &Segment, i: usize) -> std::ops::Range<usize> {
        let end = segment.k_len - segment.q_len + i + 1;
        end.saturating_sub(self.window.unwrap_or(end))..end
    }

    fn check(&self, queries: usize, keys: usize) {
        assert!(self.kv_heads > 0 && self.head_dim > 0, "attention without heads");
        assert!(
            self.heads.is_multiple_of(self.kv_heads),
            "{} heads can't share {} key heads",
            self.heads,
            self.kv_heads
        );
        assert!(self.window != Some(0), "a sliding window of 0 keys");
        assert!(self.soft_cap.is_none_or(|cap| cap > 0.0), "a soft cap of {:?}, which is not positive", self.soft_cap);
        let mut end = 0;
        let mut sorted = self.segments.clone();
        sorted.sort_by_key(|segment| segment.q_start);
        for segment in sorted {
            let Segment { q_start, q_len, k_start, k_len } = segment;
            assert!(q_len <= k_len, "{segment:?} has more queries than keys");
            assert!(q_start + q_len <= queries && k_start + k_len <= keys, "{segment:?} exceeds {queries} x {keys}");
            assert!(q_start >= end || q_len == 0, "{segment:?} shares queries with another segment");
            end = end.max(q_start + q_len);
        }
    }
}

/// Attention and its gradients as operations of a backend.
#[backend_extension(Flex, Autodiff, Cube: cfg(feature = "cube"))]
pub(crate) trait AttentionOps: Backend {
    /// `q[Tq, heads · head_dim]`, `k` and `v` `[Tk, kv_heads · head_dim]` → the output, shaped like `q`, and the log-sum-exp of
    /// the scores, `[Tq, heads]`.
    fn segment_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        layout: Arc<AttentionLayout>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// The gradients of `q`, `k` and `v`. Not differentiable itself.
    fn segment_attention_backward(
        gradient: FloatTensor<Self>,
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        output: FloatTensor<Self>,
        lse: FloatTensor<Self>,
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
        let (output, lse) = forward::attention(floats(&q), floats(&k), floats(&v), queries, &layout);
        (matrix(output, queries, columns), matrix(lse, queries, layout.heads))
    }

    fn segment_attention_backward(
        gradient: FloatTensor<Self>,
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        output: FloatTensor<Self>,
        lse: FloatTensor<Self>,
        layout: Arc<AttentionLayout>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let [gradient, q, k, v, output, lse] = [gradient, q, k, v, output, lse].map(contiguous);
        let ((queries, q_columns), (keys, k_columns)) = (dims(&q), dims(&k));
        let saved =
            backward::Saved { q: floats(&q), k: floats(&k), v: floats(&v), output: floats(&output), lse: floats(&lse) };
        let [dq, dk, dv] = backward::gradients(floats(&gradient), &saved, keys, &layout);
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
                let ([q, k, v, output, lse], layout) = ops.state;
                let gradient = grads.consume::<B>(&ops.node);
                let (dq, dk, dv) = B::segment_attention_backward(gradient, q, k, v, output, lse, layout);
                for (parent, gradient) in ops.parents.into_iter().zip([dq, dk, dv]) {
                    if let Some(parent) = parent {
                        grads.register::<B>(parent.id, gradient);
                    }
                }
            }
        }
        let ((q, q_node), (k, k_node), (v, v_node)) = (q.into_parts(), k.into_parts(), v.into_parts());
        let (output, lse) = B::segment_attention(q.clone(), k.clone(), v.clone(), layout.clone());
        let output = match Step.prepare::<C>([q_node, k_node, v_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(([q, k, v, output.clone(), lse.clone()], layout), output),
            OpsKind::UnTracked(prep) => prep.finish(output),
        };
        (output, constant::<B, C>(lse))
    }

    fn segment_attention_backward(
        gradient: FloatTensor<Self>,
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        output: FloatTensor<Self>,
        lse: FloatTensor<Self>,
        layout: Arc<AttentionLayout>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let [gradient, q, k, v, output, lse] = [gradient, q, k, v, output, lse].map(|tensor| tensor.into_primitive());
        let (dq, dk, dv) = B::segment_attention_backward(gradient, q, k, v, output, lse, layout);
        (constant::<B, C>(dq), constant::<B, C>(dk), constant::<B, C>(dv))
    }
}

/// `softmax(cap(scale · q·kᵀ))·v` for every head and segment, `[Tq, heads · head_dim]`. `q` is `[Tq, heads · head_dim]`, `k` and
/// `v` are `[Tk, kv_heads · head_dim]`. Differentiable in all three.
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
