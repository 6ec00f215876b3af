//! Rotary position embedding, one unit per pair of vectors. The CPU computes the cosines and sines, which are uploaded once.

use std::sync::Arc;

use burn::backend::tensor::FloatTensor;
use burn_cubecl::CubeBackend;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::launch::{UNITS, units, vector_size};
use super::tensors::{argument, contiguous, dims, empty, float, upload_shared, vector_argument};
use crate::index32::index;
use crate::rope::{Angles, RopeOps};

/// Lengths are in vectors; `N` divides `half`.
#[cube(launch)]
fn rotate<F: Float, N: Size>(
    x: &[Vector<F, N>],
    cos: &[Vector<f32, N>],
    sin: &[Vector<f32, N>],
    positions: &[u32],
    y: &mut [Vector<F, N>],
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
        let (cos, sin) = (cos[angle], sin[angle] * Vector::<f32, N>::new(sign));
        let at = (token * columns + head * 2 * half + i) as usize;
        let a = Vector::<f32, N>::cast_from(x[at]);
        let b = Vector::<f32, N>::cast_from(x[at + half as usize]);
        y[at] = Vector::cast_from(a * cos - b * sin);
        y[at + half as usize] = Vector::cast_from(b * cos + a * sin);
    }
}

impl RopeOps for CubeBackend {
    fn rotate(x: FloatTensor<Self>, angles: Arc<Angles>, positions: Arc<[u32]>, back: bool) -> FloatTensor<Self> {
        let x = contiguous(x);
        let (tokens, columns) = dims(&x);
        let (cos, sin) = angles.on_device(&x);
        let positions = upload_shared(&x, &positions);
        let y = empty(&x, [tokens, columns], x.dtype);
        let (kind, size) = (float(&x), vector_size(x.dtype, angles.half()));
        rotate::launch(
            &y.client.clone(),
            units(tokens * columns / 2 / size),
            CubeDim::new_1d(UNITS),
            size,
            vector_argument(x, size),
            vector_argument(cos, size),
            vector_argument(sin, size),
            argument(positions),
            vector_argument(y.clone(), size),
            index(tokens),
            index(columns / size),
            index(angles.half() / size),
            if back { -1.0f32 } else { 1.0 },
            kind,
        );
        y
    }
}
