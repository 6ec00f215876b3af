//! Forward and backward passes as separate functions, outside of autodiff.
//!
//! Responsible for: letting `benches/decoder_block.rs` write the backward pass of a block by hand. Nothing else uses it.

use std::sync::Arc;

use burn::tensor::Tensor;

use crate::attention::{AttentionLayout, AttentionOps};
use crate::frozen::FrozenMatrix;
use crate::glu::{Activation, GluOps};
use crate::lora::{Adapter, LoraBackward, LoraOps};
use crate::op::Dispatch;
use crate::rematerialize::Operand;
use crate::rms_norm::RmsNormOps;
use crate::rope::{RopeOps, RopeTable};

/// `x[T, in]` → `(y[T, out], u[T, r])`: the output of [`lora_linear`](crate::lora_linear()), and what its backward pass saves.
#[must_use]
pub fn lora_linear(x: Tensor<2>, weight: &FrozenMatrix, adapter: Adapter) -> (Tensor<2>, Tensor<2>) {
    let settings = adapter.settings(weight);
    let [x, a, b] = [x, adapter.a, adapter.b].map(Tensor::into_dispatch);
    let weight = weight.data().clone().into_dispatch();
    let (y, u) = <Dispatch as LoraOps>::lora(Operand::Plain { value: x }, weight, a, b, settings);
    (Tensor::from_dispatch(y), Tensor::from_dispatch(u))
}

/// `dy[T, out]` → the gradients of `x`, and of `a` and `b`.
#[must_use]
pub fn lora_linear_backward(
    dy: Tensor<2>,
    x: Tensor<2>,
    u: Tensor<2>,
    weight: &FrozenMatrix,
    adapter: Adapter,
) -> (Tensor<2>, [Tensor<2>; 2]) {
    let how = LoraBackward { settings: adapter.settings(weight), input_gradient: true };
    let [dy, x, u, a, b] = [dy, x, u, adapter.a, adapter.b].map(Tensor::into_dispatch);
    let weight = weight.data().clone().into_dispatch();
    let (dx, da, db) = <Dispatch as LoraOps>::lora_backward(dy, x, u, weight, a, b, how);
    (Tensor::from_dispatch(dx), [da, db].map(Tensor::from_dispatch))
}

/// The output of [`attention`](crate::attention()), and the log-sum-exp of its scores, `[queries, heads]`.
#[must_use]
pub fn attention(q: Tensor<2>, k: Tensor<2>, v: Tensor<2>, layout: &AttentionLayout) -> (Tensor<2>, Tensor<2>) {
    let [q, k, v] = [q, k, v].map(Tensor::into_dispatch);
    let (output, lse) = <Dispatch as AttentionOps>::segment_attention(q, k, v, Arc::new(layout.clone()));
    (Tensor::from_dispatch(output), Tensor::from_dispatch(lse))
}

/// The gradients of `q`, `k` and `v`.
#[must_use]
pub fn attention_backward(
    dy: Tensor<2>,
    [q, k, v]: [Tensor<2>; 3],
    (output, lse): (Tensor<2>, Tensor<2>),
    layout: &AttentionLayout,
) -> [Tensor<2>; 3] {
    let [dy, q, k, v, output, lse] = [dy, q, k, v, output, lse].map(Tensor::into_dispatch);
    let layout = Arc::new(layout.clone());
    let (dq, dk, dv) = <Dispatch as AttentionOps>::segment_attention_backward(dy, q, k, v, output, lse, layout);
    [dq, dk, dv].map(Tensor::from_dispatch)
}

/// The gradient of the input of [`rms_norm`](crate::rms_norm()).
#[must_use]
pub fn rms_norm_backward(dy: Tensor<2>, x: Tensor<2>, gamma: Tensor<1>, epsilon: f64) -> Tensor<2> {
    let ([dy, x], gamma) = ([dy, x].map(Tensor::into_dispatch), gamma.into_dispatch());
    Tensor::from_dispatch(<Dispatch as RmsNormOps>::rms_norm_input_gradient(dy, x, gamma, epsilon))
}

/// The gradients of `gate` and `up` of [`glu`](crate::glu()).
#[must_use]
pub fn glu_backward(dy: Tensor<2>, gate: Tensor<2>, up: Tensor<2>, activation: Activation) -> [Tensor<2>; 2] {
    let [dy, gate, up] = [dy, gate, up].map(Tensor::into_dispatch);
    let (dgate, dup) = <Dispatch as GluOps>::glu_backward(dy, gate, up, activation);
    [dgate, dup].map(Tensor::from_dispatch)
}

/// The gradient of the input of [`rope`](crate::rope()): `dy` rotated back.
///
/// # Panics
/// As [`rope`](crate::rope()).
#[must_use]
pub fn rope_backward(dy: Tensor<2>, table: &RopeTable, positions: &[u32]) -> Tensor<2> {
    let angles = table.up_to(positions.iter().max().map_or(0, |highest| *highest as usize + 1));
    Tensor::from_dispatch(<Dispatch as RopeOps>::rotate(dy.into_dispatch(), angles, positions.into(), true))
}
