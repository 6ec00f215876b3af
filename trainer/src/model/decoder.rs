//! The whole decoder: embedding, blocks, final norm, head.
//!
//! Responsible for: the parts of the forward pass, which training, evaluation and generation combine.
//! Must not depend on: files, optimization.

use burn::tensor::{DType, Tensor};
use tonfall_adapters::ModelDescription;
use tonfall_kernels::{Head, Segment};

use super::embedding::Embedding;
use super::forward_pass::{CacheWrite, DropoutKey, ForwardPass, LayerCache, self_segments};
use super::layer::{Layer, Norm};
use super::linear::{Linear, Matrix};
use crate::params::{Binding, ParamStore};

/// Activations between blocks, `[tokens, hidden_size]`.
pub(crate) type Hidden = Tensor<2>;

/// A decoder-only language model on a device, with or without adapter.
#[derive(Debug)]
pub(crate) struct Decoder {
    pub description: ModelDescription,
    /// Every trainable tensor: the adapter's, or all weights in full training.
    pub params: ParamStore,
    pub(super) embedding: Embedding,
    pub(super) layers: Vec<Layer>,
    pub(super) norm: Norm,
    pub(super) head: Matrix,
    /// Dtype of the activations.
    pub dtype: DType,
}

/// Keys and values of every layer, for sequences in slots: ranges of positions.
#[derive(Debug)]
pub(crate) struct SlotCache {
    layers: Vec<LayerCache>,
    positions: usize,
}

impl SlotCache {
    /// Positions of all slots together.
    pub(crate) fn positions(&self) -> usize {
        self.positions
    }
}

/// The place of a pass's tokens in a cache.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placement<'a> {
    /// Position of each token within its sequence.
    pub positions: &'a [u32],
    /// The cached keys that each query attends to, including its own.
    pub segments: &'a [Segment],
    /// First cache positions of the tokens: `chunk` consecutive tokens each. Keys and values of tokens beyond them are not
    /// written.
    pub writes: &'a [usize],
    pub chunk: usize,
}

impl Decoder {
    pub(crate) fn num_layers(&self) -> usize {
        self.layers.len()
    }

    /// Token embeddings: `[tokens]` → `[tokens, hidden]`.
    pub(crate) fn embed(&self, ids: &[u32], binding: &Binding<'_>) -> Hidden {
        let rows = self.embedding.rows(ids, self.dtype, binding);
        match self.description.embedding_scale {
            Some(scale) => rows.mul_scalar(scale),
            None => rows,
        }
    }

    /// Prepares the embeddings of the next pass, if there is one, while the device computes the current pass.
    pub(crate) fn look_ahead(&self, ids: impl FnOnce() -> Option<Vec<u32>>) {
        self.embedding.look_ahead(ids, self.dtype);
    }

    /// Whether the embeddings are trained.
    pub(crate) fn trains_embeddings(&self) -> bool {
        self.embedding.is_trained()
    }

    /// Runs one block.
    pub(crate) fn layer(&self, index: usize, x: Hidden, pass: &ForwardPass<'_>) -> Hidden {
        self.layers[index].forward(x, pass, None)
    }

    /// A zero. Its `backward()` starts with `gradient` as the gradient of the block's output.
    pub(crate) fn seed_layer(&self, index: usize, x: Hidden, gradient: Hidden, pass: &ForwardPass<'_>) -> Tensor<1> {
        self.layers[index].with_cotangent(x, gradient, pass)
    }

    /// Applies the final norm.
    pub(crate) fn finish(&self, x: Hidden, pass: &ForwardPass<'_>) -> Hidden {
        self.norm.forward(x, pass)
    }

    /// The output head, `[vocab_size, hidden]`.
    pub(crate) fn head(&self, binding: &Binding<'_>) -> Head {
        let soft_cap = self.description.final_logit_softcapping.map(|cap| cap as f32);
        Head { weight: self.head.head(binding), soft_cap }
    }

    /// Final hidden states of concatenated documents, `[tokens, hidden]`.
    pub(crate) fn hidden(&self, ids: &[u32], pass: &ForwardPass<'_>) -> Hidden {
        let x = self.embed(ids, pass.binding);
        let x = (0..self.layers.len()).fold(x, |x, layer| self.layer(layer, x, pass));
        self.finish(x, pass)
    }

    /// Logits of every position of one document, `[tokens, vocab_size]`.
    pub(crate) fn logits(&self, ids: &[u32], with_adapter: bool) -> Tensor<2> {
        let binding = Binding::untracked(&self.params);
        let positions: Vec<u32> = (0..ids.len()).map(|position| position as u32).collect();
        let segments = self_segments(&[ids.len()]);
        let pass = inference(&binding, &positions, &segments, with_adapter);
        self.project(self.hidden(ids, &pass))
    }

    /// A cache with `positions` positions, all zeros.
    pub(crate) fn slot_cache(&self, positions: usize) -> SlotCache {
        let columns = self.description.num_key_value_heads * self.description.head_dim;
        let device = self.norm.device(&Binding::untracked(&self.params));
        let layer = |_: &Layer| {
            let zeros = || Tensor::zeros([positions, columns], (&device, self.dtype));
            LayerCache { k: zeros(), v: zeros() }
        };
        SlotCache { layers: self.layers.iter().map(layer).collect(), positions }
    }

    /// Puts `ids` into the cache and returns their final hidden states, `[ids.len(), hidden]`.
    pub(crate) fn advance_slots(
        &self,
        ids: &[u32],
        place: &Placement<'_>,
        cache: &mut SlotCache,
        with_adapter: bool,
    ) -> Hidden {
        let binding = Binding::untracked(&self.params);
        let pass = inference(&binding, place.positions, place.segments, with_adapter);
        let layers = self.layers.iter().zip(&mut cache.layers);
        let x = layers.fold(self.embed(ids, &binding), |x, (layer, cache)| {
            layer.forward(x, &pass, Some(CacheWrite { cache, writes: place.writes, chunk: place.chunk }))
        });
        self.finish(x, &pass)
    }

    /// Applies the output head to hidden states: `[tokens, hidden]` → `[tokens, vocab_size]`.
    pub(crate) fn project(&self, hidden: Hidden) -> Tensor<2> {
        tonfall_kernels::logits(hidden, &self.head(&Binding::untracked(&self.params)))
    }

    /// The linear layers of the blocks and their module names, in a fixed order.
    pub(crate) fn linears_mut(&mut self) -> impl Iterator<Item = (String, &mut Linear)> {
        self.layers.iter_mut().enumerate().flat_map(|(index, layer)| {
            [
                ("self_attn.q_proj", &mut layer.q),
                ("self_attn.k_proj", &mut layer.k),
                ("self_attn.v_proj", &mut layer.v),
                ("self_attn.o_proj", &mut layer.o),
                ("mlp.gate_proj", &mut layer.gate),
                ("mlp.up_proj", &mut layer.up),
                ("mlp.down_proj", &mut layer.down),
            ]
            .map(|(module, linear)| (format!("model.layers.{index}.{module}"), linear))
        })
    }
}

/// A pass without gradients.
fn inference<'a>(
    binding: &'a Binding<'a>,
    positions: &'a [u32],
    segments: &'a [Segment],
    with_adapter: bool,
) -> ForwardPass<'a> {
    ForwardPass { binding, positions, segments, with_adapter, rematerialize: false, dropout: None, observer: None }
}

/// The inputs of a pass over training documents, without adapter and parameters.
pub(crate) struct Documents<'a> {
    pub positions: &'a [u32],
    pub segments: &'a [Segment],
    pub dropout: Option<DropoutKey>,
}

impl<'a> Documents<'a> {
    /// The pass with the adapter and the parameters of `binding`.
    pub(crate) fn pass(&self, binding: &'a Binding<'a>) -> ForwardPass<'a> {
        let Self { positions, segments, dropout } = *self;
        ForwardPass { binding, positions, segments, with_adapter: true, rematerialize: false, dropout, observer: None }
    }
}
