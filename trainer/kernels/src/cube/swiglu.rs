//! SwiGLU, element by element.

use burn::backend::tensor::FloatTensor;
use burn_cubecl::CubeBackend;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::launch::{UNITS, units, vector_size};
use super::tensors::{contiguous, dims, empty, float, len};
use crate::swiglu::SwigluOps;

#[cube]
fn sigmoid<N: Size>(x: Vector<f32, N>) -> Vector<f32, N> {
    let one = Vector::<f32, N>::one();
    one / (one + Vector::exp(-x))
}

#[cube(launch)]
fn forward<F: Float, N: Size>(
    gate: &[Vector<F, N>],
    up: &[Vector<F, N>],
    y: &mut [Vector<F, N>],
    vectors: u32,
    #[define(F)] _type: ElemType,
) {
    let i = ABSOLUTE_POS;
    if (i as u32) < vectors {
        let g = Vector::<f32, N>::cast_from(gate[i]);
        y[i] = Vector::cast_from(g * sigmoid::<N>(g) * Vector::<f32, N>::cast_from(up[i]));
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
    #[define(F)] _type: ElemType,
) {
    let i = ABSOLUTE_POS;
    if (i as u32) < vectors {
        let (dy, g) = (Vector::<f32, N>::cast_from(dy[i]), Vector::<f32, N>::cast_from(gate[i]));
        let one = Vector::<f32, N>::one();
        let sigma = sigmoid::<N>(g);
        dup[i] = Vector::cast_from(dy * g * sigma);
        let slope = sigma * (one + g * (one - sigma));
        dgate[i] = Vector::cast_from(dy * Vector::<f32, N>::cast_from(up[i]) * slope);
    }
}

impl SwigluOps for CubeBackend {
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
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
            gate.into_buffer_arg(),
            up.into_buffer_arg(),
            y.clone().into_buffer_arg(),
            vectors as u32,
            kind,
        );
        y
    }

    fn swiglu_backward(
        dy: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
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
            dy.into_buffer_arg(),
            gate.into_buffer_arg(),
            up.into_buffer_arg(),
            dgate.clone().into_buffer_arg(),
            dup.clone().into_buffer_arg(),
            vectors as u32,
            kind,
        );
        (dgate, dup)
    }
}
