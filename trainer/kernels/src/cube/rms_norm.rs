//! RMSNorm, one plane per group.

use burn::backend::tensor::FloatTensor;
use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::launch::{Planes, UNITS, plane_row, planes, units, vector_size, vector_sum};
use super::tensors::{argument, contiguous, dims, empty, float, len, vector_argument};
use crate::index32::index;
use crate::rms_norm::RmsNormOps;

/// `1 / √(mean(x²) + ε)` of the plane's group, which has `vectors` vectors from `start` on.
#[cube]
fn inverse_norm<F: Float, N: Size>(
    x: &[Vector<F, N>],
    start: usize,
    vectors: u32,
    epsilon: f32,
    #[comptime] lanes: u32,
) -> f32 {
    let mut sums = Vector::<f32, N>::zeroed();
    let mut i = UNIT_POS_X;
    while i < vectors {
        let value = Vector::<f32, N>::cast_from(x[start + i as usize]);
        sums += value * value;
        i += lanes;
    }
    let mean = plane_sum(vector_sum::<N>(sums)) / f32::cast_from(vectors * N::value() as u32);
    f32::inverse_sqrt(mean + epsilon)
}

#[cube(launch)]
fn forward<F: Float, G: Float, N: Size>(
    x: &[Vector<F, N>],
    gamma: &[Vector<G, N>],
    y: &mut [Vector<F, N>],
    groups: u32,
    vectors: u32,
    epsilon: f32,
    #[comptime] lanes: u32,
    #[define(F, G)] _types: [ElemType; 2],
) {
    let group = plane_row();
    if group < groups {
        let start = group as usize * vectors as usize;
        let inverse = Vector::<f32, N>::new(inverse_norm::<F, N>(x, start, vectors, epsilon, lanes));
        let mut i = UNIT_POS_X;
        while i < vectors {
            let at = start + i as usize;
            let gamma = Vector::<f32, N>::cast_from(gamma[i as usize]);
            y[at] = Vector::cast_from(gamma * (Vector::<f32, N>::cast_from(x[at]) * inverse));
            i += lanes;
        }
    }
}

#[cube(launch)]
fn input_gradient<F: Float, G: Float, N: Size>(
    dy: &[Vector<F, N>],
    x: &[Vector<F, N>],
    gamma: &[Vector<G, N>],
    dx: &mut [Vector<F, N>],
    groups: u32,
    vectors: u32,
    epsilon: f32,
    #[comptime] lanes: u32,
    #[define(F, G)] _types: [ElemType; 2],
) {
    let group = plane_row();
    if group < groups {
        let start = group as usize * vectors as usize;
        let mut squares = Vector::<f32, N>::zeroed();
        let mut products = Vector::<f32, N>::zeroed();
        let mut i = UNIT_POS_X;
        while i < vectors {
            let at = start + i as usize;
            let value = Vector::<f32, N>::cast_from(x[at]);
            squares += value * value;
            products += Vector::<f32, N>::cast_from(dy[at]) * Vector::<f32, N>::cast_from(gamma[i as usize]) * value;
            i += lanes;
        }
        let n = f32::cast_from(vectors * N::value() as u32);
        let inverse = f32::inverse_sqrt(plane_sum(vector_sum::<N>(squares)) / n + epsilon);
        let sum = plane_sum(vector_sum::<N>(products));
        let along = Vector::<f32, N>::new(sum * inverse * inverse / n);
        let inverse = Vector::<f32, N>::new(inverse);
        let mut i = UNIT_POS_X;
        while i < vectors {
            let at = start + i as usize;
            let direct = Vector::<f32, N>::cast_from(dy[at]) * Vector::<f32, N>::cast_from(gamma[i as usize]);
            dx[at] = Vector::cast_from(inverse * (direct - along * Vector::<f32, N>::cast_from(x[at])));
            i += lanes;
        }
    }
}

#[cube(launch)]
fn inverse_norms<F: Float, N: Size>(
    x: &[Vector<F, N>],
    inverses: &mut [f32],
    groups: u32,
    vectors: u32,
    epsilon: f32,
    #[comptime] lanes: u32,
    #[define(F)] _type: ElemType,
) {
    let group = plane_row();
    if group < groups {
        let inverse = inverse_norm::<F, N>(x, group as usize * vectors as usize, vectors, epsilon, lanes);
        if UNIT_POS_X == 0 {
            inverses[group as usize] = inverse;
        }
    }
}

#[cube(launch)]
fn weight_gradient<F: Float>(
    dy: &[F],
    x: &[F],
    inverses: &[f32],
    dgamma: &mut [f32],
    groups: u32,
    n: u32,
    #[define(F)] _type: ElemType,
) {
    let column = ABSOLUTE_POS as u32;
    if column < n {
        let mut sum = 0.0f32;
        let mut group = 0u32;
        while group < groups {
            let at = group as usize * n as usize + column as usize;
            sum += f32::cast_from(dy[at]) * f32::cast_from(x[at]) * inverses[group as usize];
            group += 1;
        }
        dgamma[column as usize] = sum;
    }
}

impl RmsNormOps for CubeBackend {
    fn rms_norm(x: FloatTensor<Self>, gamma: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self> {
        let (x, gamma) = (contiguous(x), contiguous(gamma));
        let ((tokens, columns), n) = (dims(&x), len(&gamma));
        let (y, groups) = (empty(&x, [tokens, columns], x.dtype), tokens * columns / n);
        let Planes { count, dim, lanes } = planes(&x.client, groups);
        let (types, size) = ([float(&x), float(&gamma)], vector_size(x.dtype, n));
        forward::launch(
            &y.client.clone(),
            count,
            dim,
            size,
            vector_argument(x, size),
            vector_argument(gamma, size),
            vector_argument(y.clone(), size),
            index(groups),
            index(n / size),
            epsilon as f32,
            lanes,
            types,
        );
        y
    }

    fn rms_norm_input_gradient(
        dy: FloatTensor<Self>,
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        let [dy, x, gamma] = [dy, x, gamma].map(contiguous);
        let ((tokens, columns), n) = (dims(&x), len(&gamma));
        let (dx, groups) = (empty(&x, [tokens, columns], x.dtype), tokens * columns / n);
        let Planes { count, dim, lanes } = planes(&x.client, groups);
        let (types, size) = ([float(&x), float(&gamma)], vector_size(x.dtype, n));
        input_gradient::launch(
            &dx.client.clone(),
            count,
            dim,
            size,
            vector_argument(dy, size),
            vector_argument(x, size),
            vector_argument(gamma, size),
            vector_argument(dx.clone(), size),
            index(groups),
            index(n / size),
            epsilon as f32,
            lanes,
            types,
        );
        dx
    }

    fn rms_norm_weight_gradient(
        dy: FloatTensor<Self>,
        x: FloatTensor<Self>,
        n: usize,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        let (dy, x) = (contiguous(dy), contiguous(x));
        let groups = len(&x) / n;
        let (inverses, dgamma) = (empty(&x, [groups], DType::F32), empty(&x, [n], DType::F32));
        let (client, kind, size) = (x.client.clone(), float(&x), vector_size(x.dtype, n));
        let Planes { count, dim, lanes } = planes(&client, groups);
        inverse_norms::launch(
            &client,
            count,
            dim,
            size,
            vector_argument(x.clone(), size),
            argument(inverses.clone()),
            index(groups),
            index(n / size),
            epsilon as f32,
            lanes,
            kind,
        );
        weight_gradient::launch(
            &client,
            units(n),
            CubeDim::new_1d(UNITS),
            argument(dy),
            argument(x),
            argument(inverses),
            argument(dgamma.clone()),
            index(groups),
            index(n),
            kind,
        );
        dgamma
    }
}
