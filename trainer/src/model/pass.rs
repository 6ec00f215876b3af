//! What one forward pass needs besides weights: where tokens stand, which may see which, what is trained.
//!
//! Responsible for: positions, segments, dropout keys and the key/value cache.
//! Must not depend on: layers.

use burn::tensor::Tensor;
use tonfall_kernels::Segment;

use crate::params::Binding;

/// Key of every dropout mask of one micro-batch; the mask itself is a function of this key and the element's index,
/// so that recomputation and resuming see the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DropoutKey {
    pub seed: u64,
    /// Optimizer step, counted from 0.
    pub step: u64,
    /// Micro-batch within the step.
    pub micro_batch: u32,
}

impl DropoutKey {
    /// The stream of one LoRA site: 32 bits of step, 16 of micro-batch, 16 of site.
    pub(crate) fn stream(self, site: u32) -> u64 {
        (self.step << 32) | (u64::from(self.micro_batch & 0xffff) << 16) | u64::from(site & 0xffff)
    }
}

/// Keys and values of one layer for the tokens seen so far, each `[tokens, kv_heads · head_dim]`.
#[derive(Clone, Debug, Default)]
pub(super) struct LayerCache {
    entry: Option<(Tensor<2>, Tensor<2>)>,
}

impl LayerCache {
    /// Appends the new keys and values and returns all of them.
    pub(super) fn extend(&mut self, k: Tensor<2>, v: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        let entry = match self.entry.take() {
            None => (k, v),
            Some((old_k, old_v)) => (Tensor::cat(vec![old_k, k], 0), Tensor::cat(vec![old_v, v], 0)),
        };
        self.entry = Some(entry.clone());
        entry
    }
}

/// One forward pass over `tokens` tokens, laid one after another without padding.
pub(crate) struct Pass<'a> {
    pub binding: &'a Binding<'a>,
    /// Position of each token within its document.
    pub positions: &'a [u32],
    /// Which queries see which keys; one segment a document.
    pub segments: &'a [Segment],
    pub with_adapter: bool,
    /// Outputs of norms and of the gated activation are made again by the backward pass instead of kept for it.
    pub rematerialize: bool,
    pub dropout: Option<DropoutKey>,
}

/// Segments of documents that lie one after another and see only themselves.
pub(crate) fn self_segments(lengths: &[usize]) -> Vec<Segment> {
    let mut start = 0;
    lengths
        .iter()
        .map(|&len| {
            let segment = Segment { q_start: start, q_len: len, k_start: start, k_len: len };
            start += len;
            segment
        })
        .collect()
}
