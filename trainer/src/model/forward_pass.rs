//! The inputs of a forward pass, except token ids and weights.
//!
//! Responsible for: positions, segments, dropout keys, the key/value cache, and the observer of linear layers.
//! Must not depend on: layers.

use burn::tensor::Tensor;
use tonfall_kernels::{Rematerialized, Segment};

use crate::params::Binding;

/// Key of the dropout masks of one micro-batch. A mask depends only on this key and the element's index. So
/// recomputation and resumed runs get the same mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DropoutKey {
    pub seed: u64,
    /// Optimizer step, counted from 0.
    pub step: u64,
    /// Micro-batch within the step.
    pub micro_batch: u32,
}

impl DropoutKey {
    /// Philox's seed and stream for one LoRA site. The stream has 32 bits of the step, 16 of the micro-batch and 16 of
    /// the site. If one of these has more bits, the seed is changed too.
    pub(crate) fn seed_and_stream(self, site: u32) -> (u64, u64) {
        let stream = (self.step << 32) | (u64::from(self.micro_batch & 0xffff) << 16) | u64::from(site & 0xffff);
        let beyond = [self.step >> 32, u64::from(self.micro_batch >> 16), u64::from(site >> 16)];
        let seed = match beyond {
            [0, 0, 0] => self.seed,
            beyond => beyond.into_iter().fold(self.seed, |seed, bits| mixed(seed ^ mixed(bits))),
        };
        (seed, stream)
    }
}

/// The finalizer of SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014).
pub(crate) fn mixed(state: u64) -> u64 {
    let state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let state = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let state = (state ^ (state >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    state ^ (state >> 31)
}

/// Keys and values of one layer, each `[positions, kv_heads · head_dim]`.
#[derive(Clone, Debug)]
pub(super) struct LayerCache {
    pub k: Tensor<2>,
    pub v: Tensor<2>,
}

/// Writes rows of keys and values to a layer's cache.
pub(super) struct CacheWrite<'a> {
    pub cache: &'a mut LayerCache,
    /// First positions of the written rows: `chunk` consecutive rows each.
    pub writes: &'a [usize],
    pub chunk: usize,
}

impl CacheWrite<'_> {
    /// Writes new rows and returns the whole cache.
    pub(super) fn extend(self, k: Tensor<2>, v: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        let Self { cache, writes, chunk } = self;
        let into = |all: &mut Tensor<2>, new: Tensor<2>| {
            let columns = new.dims()[1];
            // The only owner of a tensor changes it in place.
            let mut whole = std::mem::replace(all, Tensor::empty([0, 0], &new.device()));
            for (index, at) in writes.iter().enumerate() {
                let rows = new.clone().narrow(0, index * chunk, chunk);
                whole = whole.slice_assign([*at..at + chunk, 0..columns], rows);
            }
            *all = whole;
        };
        into(&mut cache.k, k);
        into(&mut cache.v, v);
        (cache.k.clone(), cache.v.clone())
    }
}

/// An input of the linear layers of a block. Layers that multiply the same input share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LinearInput {
    /// Of q, k and v, `[tokens, hidden]`.
    Attention,
    /// Of o, `[tokens, heads · head_dim]`.
    AttentionOutput,
    /// Of gate and up, `[tokens, hidden]`.
    Mlp,
    /// Of down, `[tokens, intermediate]`.
    MlpOutput,
}

impl LinearInput {
    /// The modules that multiply this input.
    pub(crate) fn modules(self) -> &'static [&'static str] {
        match self {
            Self::Attention => &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
            Self::AttentionOutput => &["self_attn.o_proj"],
            Self::Mlp => &["mlp.gate_proj", "mlp.up_proj"],
            Self::MlpOutput => &["mlp.down_proj"],
        }
    }
}

/// Receives each input of a block's linear layers, in the dtype of the activations.
pub(crate) type Observer<'a> = &'a dyn Fn(LinearInput, Tensor<2>);

/// One forward pass over concatenated documents, without padding.
pub(crate) struct ForwardPass<'a> {
    pub binding: &'a Binding<'a>,
    /// Position of each token within its document.
    pub positions: &'a [u32],
    /// The keys that each query attends to; one segment per document.
    pub segments: &'a [Segment],
    pub with_adapter: bool,
    /// Whether norm and gated-activation outputs are recomputed in the backward pass instead of saved.
    pub rematerialize: bool,
    pub dropout: Option<DropoutKey>,
    pub observer: Option<Observer<'a>>,
}

impl ForwardPass<'_> {
    /// Passes an input of linear layers to the observer, if there is one.
    pub(super) fn observe(&self, input: LinearInput, x: &Rematerialized) {
        if let Some(observer) = self.observer {
            observer(input, x.clone().value());
        }
    }
}

/// Segments of concatenated documents; each document attends only to itself.
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_site_and_micro_batch_has_its_own_mask() {
        let around = [0, 1, 0xffff, 0x1_0000, 0x1_0001, 0x2_0000];
        let mut keys = BTreeSet::new();
        for micro_batch in around {
            for site in around {
                for step in [0, 1, 0xffff_ffff] {
                    keys.insert(DropoutKey { seed: 7, step, micro_batch }.seed_and_stream(site));
                }
            }
        }
        assert_eq!(keys.len(), around.len() * around.len() * 3);
    }

    /// Masks of earlier builds. Resumed runs and parity results depend on them.
    #[test]
    fn keys_below_16_bits_are_those_of_earlier_builds() {
        let key = DropoutKey { seed: 7, step: 3, micro_batch: 0xffff };
        assert_eq!(key.seed_and_stream(0xfffe), (7, 0x0000_0003_ffff_fffe));
    }
}
