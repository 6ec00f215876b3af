//! Loss and gradients of one micro-batch.
//!
//! Responsible for: the forward and backward pass, plain or with recomputation layer by layer.
//! Must not depend on: the optimizer, the loop, files.
//!
//! With recomputation, the forward pass saves only the input of each block. The backward pass runs each block again
//! with tracking, from the last block to the first (Chen et al. 2016, <https://arxiv.org/abs/1604.06174>). It does not
//! need the output of a recomputed block, so it skips the block's last matrix product. For long contexts, block inputs
//! can be stored in host memory. All modes compute the same operations in the same order: losses and gradients are
//! bit-identical.

use burn::tensor::Tensor;
use serde::Serialize;
use tonfall_datasets::{Batch, IGNORED};
use tonfall_kernels::{HostStack, linear_cross_entropy, with_cotangent};

use crate::model::{Decoder, Documents, DropoutKey, ForwardPass, Hidden, self_segments};
use crate::params::{Binding, GradientSums, ParamStore};

/// The target of each position: the next token of the same document, `IGNORED` at the end of a document.
pub(crate) fn targets(batch: &Batch) -> Vec<i32> {
    let mut targets = Vec::with_capacity(batch.labels.len());
    let mut start = 0;
    for &len in &batch.segment_lengths {
        let labels = &batch.labels[start..start + len];
        targets.extend_from_slice(labels.get(1..).unwrap_or_default());
        targets.extend((len > 0).then_some(IGNORED));
        start += len;
    }
    targets
}

/// Sum of the token losses (natural logarithm) of a micro-batch, without gradients.
pub(crate) fn loss(model: &Decoder, batch: &Batch, with_adapter: bool) -> f64 {
    let binding = Binding::untracked(&model.params);
    let segments = self_segments(&batch.segment_lengths);
    let documents = Documents { positions: &batch.position_ids, segments: &segments, dropout: None };
    let pass = ForwardPass { with_adapter, ..documents.pass(&binding) };
    let hidden = model.hidden(&batch.input_ids, &pass);
    scalar(&linear_cross_entropy(hidden, model.head(&binding), &targets(batch)))
}

/// The activations that the forward pass saves for the backward pass, in decreasing order of device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Activations {
    /// All activations, except LoRA inputs that are cheap to recompute (see `tonfall_kernels::Rematerialized`).
    Kept,
    /// The input of each block; the other activations are recomputed.
    Recomputed,
    /// Like `Recomputed`, with block inputs stored in host memory.
    Offloaded,
}

impl Activations {
    /// Whether activations are recomputed.
    #[must_use]
    pub fn again(self) -> bool {
        self > Self::Kept
    }
}

/// How to run a micro-batch in training.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TrainingPass {
    /// Factor on the loss before the backward pass: 1 / tokens with loss of the optimizer step.
    pub scale: f32,
    pub activations: Activations,
    pub dropout: DropoutKey,
}

/// Adds the gradients of `scale · loss` to `sums` and returns the unscaled sum of the token losses, `[1]`. Does not
/// wait for the device.
pub(crate) fn accumulate(model: &Decoder, batch: &Batch, training: TrainingPass, sums: &mut GradientSums) -> Tensor<1> {
    let segments = self_segments(&batch.segment_lengths);
    let documents = Documents { positions: &batch.position_ids, segments: &segments, dropout: Some(training.dropout) };
    let targets = targets(batch);
    match training.activations.again() {
        false => plain(model, batch, &documents, &targets, training.scale, sums),
        true => recomputed(model, batch, &documents, &targets, training, sums),
    }
}

fn plain(
    model: &Decoder,
    batch: &Batch,
    documents: &Documents<'_>,
    targets: &[i32],
    scale: f32,
    sums: &mut GradientSums,
) -> Tensor<1> {
    let binding = Binding::tracked(&model.params);
    let pass = ForwardPass { rematerialize: true, ..documents.pass(&binding) };
    let hidden = model.hidden(&batch.input_ids, &pass);
    let loss = linear_cross_entropy(hidden, model.head(&binding), targets);
    let value = loss.clone().inner();
    let mut gradients = loss.mul_scalar(scale).backward();
    binding.collect(&mut gradients, sums);
    value
}

fn recomputed(
    model: &Decoder,
    batch: &Batch,
    documents: &Documents<'_>,
    targets: &[i32],
    training: TrainingPass,
    sums: &mut GradientSums,
) -> Tensor<1> {
    let untracked = Binding::untracked(&model.params);
    let mut x = model.embed(&batch.input_ids, &untracked);
    let mut inputs = HostStack::new(training.activations == Activations::Offloaded);
    for layer in 0..model.num_layers() {
        inputs.push(x.clone());
        x = model.layer(layer, x, &documents.pass(&untracked));
    }

    let (mut upstream, value) = backward(x, &model.params, sums, |x, binding| {
        let hidden = model.finish(x, &documents.pass(binding));
        let loss = linear_cross_entropy(hidden, model.head(binding), targets);
        let value = loss.clone().inner();
        (loss.mul_scalar(training.scale), value)
    });
    for layer in (0..model.num_layers()).rev() {
        let Some(input) = inputs.pop() else { unreachable!("every layer left its input") };
        (upstream, ()) = backward(input, &model.params, sums, |x, binding| {
            (model.seed_layer(layer, x, upstream.clone(), &documents.pass(binding)), ())
        });
    }

    if model.trains_embeddings() {
        let binding = Binding::tracked(&model.params);
        let mut gradients = with_cotangent(model.embed(&batch.input_ids, &binding), upstream).backward();
        binding.collect(&mut gradients, sums);
    }
    value
}

/// Runs a part of the model with tracking, then the backward pass from the scalar that `forward` returns. Returns the
/// gradient of the input, and the second value of `forward`.
fn backward<'a, T>(
    x: Hidden,
    params: &'a ParamStore,
    sums: &mut GradientSums,
    forward: impl FnOnce(Hidden, &Binding<'a>) -> (Tensor<1>, T),
) -> (Hidden, T) {
    let binding = Binding::tracked(params);
    let input = x.detach().autodiff().require_grad();
    let (scalar, given) = forward(input.clone(), &binding);
    let mut gradients = scalar.backward();
    let gradient = input.grad_remove(&mut gradients).unwrap_or_else(|| input.inner().zeros_like());
    binding.collect(&mut gradients, sums);
    (gradient, given)
}

/// The value of a tensor with one element.
pub(crate) fn scalar(tensor: &Tensor<1>) -> f64 {
    f64::from(tensor.clone().into_scalar::<f32>())
}
