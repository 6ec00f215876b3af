//! Rotary embeddings: a unit for each pair of elements. The angles are those of the CPU, uploaded once a table.

use std::sync::Arc;

use burn::backend::tensor::FloatTensor;
use burn_cubecl::CubeBackend;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::launch::{UNITS, units};
use super::tensors::{contiguous, dims, empty, float, upload};
use crate::rope::{Angles, RopeOps};

#[cube(launch)]
fn rotate<F: Float>(
    x: &[F],
    cos: &[u32],
    sin: &[u32],
    positions: &[u32],
    y: &mut [F],
    tokens: u32,
    columns: u32,
    half: u32,
    sign: f32,
    #[define(F)] _type: ElemType,
) {
    let pairs = columns / 2;
    let pair = ABSOLUTE_POS as u32;
    if pair < tokens * pairs {
        let token = pair / pairs;
        let head = pair % pairs / half;
        let i = pair % half;
        let angle = (positions[token as usize] * half + i) as usize;
        let (cos, sin) = (f32::reinterpret(cos[angle]), f32::reinterpret(sin[angle]) * sign);
        let at = (token * columns + head * 2 * half + i) as usize;
        let (a, b) = (f32::cast_from(x[at]), f32::cast_from(x[at + half as usize]));
        y[at] = F::cast_from(a * cos - b * sin);
        y[at + half as usize] = F::cast_from(b * cos + a * sin);
    }
}

impl RopeOps for CubeBackend {
    fn rotate(x: FloatTensor<Self>, angles: Arc<Angles>, positions: Arc<[u32]>, back: bool) -> FloatTensor<Self> {
        let x = contiguous(x);
        let (tokens, columns) = dims(&x);
        let (cos, sin) = angles.on_device(&x);
        let positions = upload(&x, &positions);
        let y = empty(&x, [tokens, columns], x.dtype);
        let kind = float(&x);
        rotate::launch(
            &y.client.clone(),
            units(tokens * columns / 2),
            CubeDim::new_1d(UNITS),
            x.into_buffer_arg(),
            cos.into_buffer_arg(),
            sin.into_buffer_arg(),
            positions.into_buffer_arg(),
            y.clone().into_buffer_arg(),
            tokens as u32,
            columns as u32,
            angles.half() as u32,
            if back { -1.0f32 } else { 1.0 },
            kind,
        );
        y
    }
}
