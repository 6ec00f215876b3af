//! SwiGLU and GeGLU.

use burn::backend::tensor::FloatTensor;
use burn_cubecl::CubeBackend;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::launch::{UNITS, units, vector_size};
use super::tensors::{contiguous, dims, empty, float, len, vector_argument};
use crate::glu::{Activation, CUBIC, GluOps, LINEAR, SATURATED};
use crate::index32::index;

/// `σ(z(x))`.
#[cube]
fn sigma<N: Size>(x: Vector<f32, N>, #[comptime] activation: Activation) -> Vector<f32, N> {
    let one = Vector::<f32, N>::one();
    match comptime!(activation) {
        Activation::Silu => one / (one + Vector::exp(-x)),
        Activation::GeluTanh => {
            let z = x * (x * x * Vector::new(CUBIC) + Vector::new(LINEAR));
            one / (one + Vector::exp(-z))
        }
    }
}

/// `z'(x)`.
#[cube]
fn slope<N: Size>(x: Vector<f32, N>, #[comptime] activation: Activation) -> Vector<f32, N> {
    match comptime!(activation) {
        Activation::Silu => Vector::<f32, N>::one(),
        Activation::GeluTanh => {
            let x = clamp(x, Vector::new(-SATURATED), Vector::new(SATURATED));
            x * x * Vector::new(comptime!(3.0 * CUBIC)) + Vector::new(LINEAR)
        }
    }
}

#[cube(launch)]
fn forward<F: Float, N: Size>(
    gate: &[Vector<F, N>],
    up: &[Vector<F, N>],
    y: &mut [Vector<F, N>],
    vectors: u32,
    #[comptime] activation: Activation,
    #[define(F)] _type: ElemType,
) {
    let i = ABSOLUTE_POS;
    if (i as u32) < vectors {
        let g = Vector::<f32, N>::cast_from(gate[i]);
        y[i] = Vector::cast_from(g * sigma::<N>(g, activation) * Vector::<f32, N>::cast_from(up[i]));
    }
}

#[cube(launch)]
fn backward<F: Float, N: Size>(
    dy: &[Vector<F, N>],
    gate: &[Vector<F, N>],
    up: &[Vector<F, N>],
    dgate: &mut [Vector<F, N>],
    dup: &mut [Vector<F, N>],
    vectors: u32,
    #[comptime] activation: Activation,
    #[define(F)] _type: ElemType,
) {
    let i = ABSOLUTE_POS;
    if (i as u32) < vectors {
        let (dy, g) = (Vector::<f32, N>::cast_from(dy[i]), Vector::<f32, N>::cast_from(gate[i]));
        let one = Vector::<f32, N>::one();
        let sigma = sigma::<N>(g, activation);
        dup[i] = Vector::cast_from(dy * g * sigma);
        let slope = sigma * (one + g * slope::<N>(g, activation) * (one - sigma));
        dgate[i] = Vector::cast_from(dy * Vector::<f32, N>::cast_from(up[i]) * slope);
    }
}

impl GluOps for CubeBackend {
    fn glu(gate: FloatTensor<Self>, up: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        let (gate, up) = (contiguous(gate), contiguous(up));
        let (rows, columns) = dims(&gate);
        let y = empty(&gate, [rows, columns], gate.dtype);
        let (size, kind) = (vector_size(gate.dtype, len(&gate)), float(&gate));
        let vectors = len(&gate) / size;
        forward::launch(
            &y.client.clone(),
            units(vectors),
            CubeDim::new_1d(UNITS),
            size,
            vector_argument(gate, size),
            vector_argument(up, size),
            vector_argument(y.clone(), size),
            index(vectors),
            activation,
            kind,
        );
        y
    }

    fn glu_backward(
        dy: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        activation: Activation,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let [dy, gate, up] = [dy, gate, up].map(contiguous);
        let (rows, columns) = dims(&gate);
        let [dgate, dup] = [(); 2].map(|()| empty(&gate, [rows, columns], gate.dtype));
        let (size, kind) = (vector_size(gate.dtype, len(&gate)), float(&gate));
        let vectors = len(&gate) / size;
        backward::launch(
            &dgate.client.clone(),
            units(vectors),
            CubeDim::new_1d(UNITS),
            size,
            vector_argument(dy, size),
            vector_argument(gate, size),
            vector_argument(up, size),
            vector_argument(dgate.clone(), size),
            vector_argument(dup.clone(), size),
            index(vectors),
            activation,
            kind,
        );
        (dgate, dup)
    }
}
