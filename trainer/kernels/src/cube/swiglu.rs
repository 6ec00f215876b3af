//! SwiGLU, element by element.

use burn::backend::tensor::FloatTensor;
use burn_cubecl::CubeBackend;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::launch::{UNITS, units};
use super::tensors::{contiguous, dims, empty, float, len};
use crate::swiglu::SwigluOps;

#[cube]
fn sigmoid(x: f32) -> f32 {
    1.0f32 / (1.0f32 + f32::exp(-x))
}

#[cube(launch)]
fn forward<F: Float>(gate: &[F], up: &[F], y: &mut [F], len: u32, #[define(F)] _type: ElemType) {
    let i = ABSOLUTE_POS;
    if (i as u32) < len {
        let g = f32::cast_from(gate[i]);
        y[i] = F::cast_from(g * sigmoid(g) * f32::cast_from(up[i]));
    }
}

#[cube(launch)]
fn backward<F: Float>(
    dy: &[F],
    gate: &[F],
    up: &[F],
    dgate: &mut [F],
    dup: &mut [F],
    len: u32,
    #[define(F)] _type: ElemType,
) {
    let i = ABSOLUTE_POS;
    if (i as u32) < len {
        let (dy, g) = (f32::cast_from(dy[i]), f32::cast_from(gate[i]));
        let sigma = sigmoid(g);
        dup[i] = F::cast_from(dy * g * sigma);
        dgate[i] = F::cast_from(dy * f32::cast_from(up[i]) * sigma * (1.0f32 + g * (1.0f32 - sigma)));
    }
}

impl SwigluOps for CubeBackend {
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        let (gate, up) = (contiguous(gate), contiguous(up));
        let (rows, columns) = dims(&gate);
        let y = empty(&gate, [rows, columns], gate.dtype);
        let (count, kind) = (len(&gate), float(&gate));
        forward::launch(
            &y.client.clone(),
            units(count),
            CubeDim::new_1d(UNITS),
            gate.into_buffer_arg(),
            up.into_buffer_arg(),
            y.clone().into_buffer_arg(),
            count as u32,
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
        let (count, kind) = (len(&gate), float(&gate));
        backward::launch(
            &dgate.client.clone(),
            units(count),
            CubeDim::new_1d(UNITS),
            dy.into_buffer_arg(),
            gate.into_buffer_arg(),
            up.into_buffer_arg(),
            dgate.clone().into_buffer_arg(),
            dup.clone().into_buffer_arg(),
            count as u32,
            kind,
        );
        (dgate, dup)
    }
}
