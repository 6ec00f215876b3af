//! RMSNorm: a plane for each group.

use burn::backend::tensor::FloatTensor;
use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::launch::{Planes, UNITS, plane_row, planes, units};
use super::tensors::{contiguous, dims, empty, float, len};
use crate::rms_norm::RmsNormOps;

/// `1 / √(mean(x²) + ε)` of the plane's group.
#[cube]
fn inverse_norm<F: Float>(x: &[F], start: usize, n: u32, epsilon: f32, #[comptime] lanes: u32) -> f32 {
    let mut sum = 0.0f32;
    let mut i = UNIT_POS_X;
    while i < n {
        let value = f32::cast_from(x[start + i as usize]);
        sum += value * value;
        i += lanes;
    }
    let mean = plane_sum(sum) / f32::cast_from(n);
    f32::inverse_sqrt(mean + epsilon)
}

#[cube(launch)]
fn forward<F: Float, G: Float>(
    x: &[F],
    gamma: &[G],
    y: &mut [F],
    groups: u32,
    n: u32,
    epsilon: f32,
    #[comptime] lanes: u32,
    #[define(F, G)] _types: [ElemType; 2],
) {
    let group = plane_row();
    if group < groups {
        let start = group as usize * n as usize;
        let inverse = inverse_norm::<F>(x, start, n, epsilon, lanes);
        let mut i = UNIT_POS_X;
        while i < n {
            let at = start + i as usize;
            y[at] = F::cast_from(f32::cast_from(gamma[i as usize]) * (f32::cast_from(x[at]) * inverse));
            i += lanes;
        }
    }
}

#[cube(launch)]
fn input_gradient<F: Float, G: Float>(
    dy: &[F],
    x: &[F],
    gamma: &[G],
    dx: &mut [F],
    groups: u32,
    n: u32,
    epsilon: f32,
    #[comptime] lanes: u32,
    #[define(F, G)] _types: [ElemType; 2],
) {
    let group = plane_row();
    if group < groups {
        let start = group as usize * n as usize;
        let inverse = inverse_norm::<F>(x, start, n, epsilon, lanes);
        let mut sum = 0.0f32;
        let mut i = UNIT_POS_X;
        while i < n {
            let at = start + i as usize;
            sum += f32::cast_from(dy[at]) * f32::cast_from(gamma[i as usize]) * f32::cast_from(x[at]);
            i += lanes;
        }
        let along = plane_sum(sum) * inverse * inverse / f32::cast_from(n);
        let mut i = UNIT_POS_X;
        while i < n {
            let at = start + i as usize;
            let direct = f32::cast_from(dy[at]) * f32::cast_from(gamma[i as usize]);
            dx[at] = F::cast_from(inverse * (direct - along * f32::cast_from(x[at])));
            i += lanes;
        }
    }
}

#[cube(launch)]
fn inverse_norms<F: Float>(
    x: &[F],
    inverses: &mut [f32],
    groups: u32,
    n: u32,
    epsilon: f32,
    #[comptime] lanes: u32,
    #[define(F)] _type: ElemType,
) {
    let group = plane_row();
    if group < groups {
        let inverse = inverse_norm::<F>(x, group as usize * n as usize, n, epsilon, lanes);
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
        let types = [float(&x), float(&gamma)];
        forward::launch(
            &y.client.clone(),
            count,
            dim,
            x.into_buffer_arg(),
            gamma.into_buffer_arg(),
            y.clone().into_buffer_arg(),
            groups as u32,
            n as u32,
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
        let types = [float(&x), float(&gamma)];
        input_gradient::launch(
            &dx.client.clone(),
            count,
            dim,
            dy.into_buffer_arg(),
            x.into_buffer_arg(),
            gamma.into_buffer_arg(),
            dx.clone().into_buffer_arg(),
            groups as u32,
            n as u32,
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
        let (client, kind) = (x.client.clone(), float(&x));
        let Planes { count, dim, lanes } = planes(&client, groups);
        inverse_norms::launch(
            &client,
            count,
            dim,
            x.clone().into_buffer_arg(),
            inverses.clone().into_buffer_arg(),
            groups as u32,
            n as u32,
            epsilon as f32,
            lanes,
            kind,
        );
        weight_gradient::launch(
            &client,
            units(n),
            CubeDim::new_1d(UNITS),
            dy.into_buffer_arg(),
            x.into_buffer_arg(),
            inverses.into_buffer_arg(),
            dgamma.clone().into_buffer_arg(),
            groups as u32,
            n as u32,
            kind,
        );
        dgamma
    }
}
