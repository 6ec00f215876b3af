//! AdamW in place, and sums of squares.

use burn::backend::tensor::FloatTensor;
use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::cast;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::launch::{Planes, UNITS, plane_row, planes, units};
use super::tensors::{contiguous, empty, len, owned};
use crate::adamw::{AdamWOps, Coefficients};

/// Planes that sum one tensor.
const SUMMING: u32 = 1024;

#[cube(launch)]
fn step(
    parameter: &mut [f32],
    gradient: &[f32],
    first: &mut [f32],
    second: &mut [f32],
    len: u32,
    grad_scale: f32,
    decay: f32,
    beta1_rest: f32,
    beta2: f32,
    beta2_rest: f32,
    step_size: f32,
    inverse_correction2: f32,
    epsilon: f32,
) {
    let i = ABSOLUTE_POS;
    if (i as u32) < len {
        let gradient = gradient[i] * grad_scale;
        let m = first[i] + (gradient - first[i]) * beta1_rest;
        let v = second[i] * beta2 + beta2_rest * gradient * gradient;
        first[i] = m;
        second[i] = v;
        let denominator = f32::sqrt(v) * inverse_correction2 + epsilon;
        parameter[i] = parameter[i] * decay - step_size * m / denominator;
    }
}

/// Plane `p` sums the squares of elements `p · lanes + lane`, and so on in strides of all planes.
#[cube(launch)]
fn square_sums(x: &[f32], sums: &mut [f32], len: u32, planes: u32, #[comptime] lanes: u32) {
    let plane = plane_row();
    if plane < planes {
        let mut sum = 0.0f32;
        let mut i = plane * lanes + UNIT_POS_X;
        while i < len {
            let value = x[i as usize];
            sum += value * value;
            i += planes * lanes;
        }
        let sum = plane_sum(sum);
        if UNIT_POS_X == 0 {
            sums[plane as usize] = sum;
        }
    }
}

/// The sum of all elements, by one plane.
#[cube(launch)]
pub(super) fn total(parts: &[f32], sum: &mut [f32], len: u32, #[comptime] lanes: u32) {
    if plane_row() == 0 {
        let mut part = 0.0f32;
        let mut i = UNIT_POS_X;
        while i < len {
            part += parts[i as usize];
            i += lanes;
        }
        let all = plane_sum(part);
        if UNIT_POS_X == 0 {
            sum[0] = all;
        }
    }
}

/// The sum of a vector, `[1]`.
pub(super) fn summed(parts: CubeTensor) -> CubeTensor {
    let (sum, len) = (empty(&parts, [1], DType::F32), len(&parts));
    let Planes { count, dim, lanes } = planes(&parts.client, 1);
    total::launch(
        &sum.client.clone(),
        count,
        dim,
        parts.into_buffer_arg(),
        sum.clone().into_buffer_arg(),
        len as u32,
        lanes,
    );
    sum
}

impl AdamWOps for CubeBackend {
    fn adamw(
        parameter: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        c: Coefficients,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let [parameter, first, second] = [parameter, first, second].map(owned);
        let gradient = contiguous(cast(gradient, DType::F32));
        let count = len(&parameter);
        step::launch(
            &parameter.client.clone(),
            units(count),
            CubeDim::new_1d(UNITS),
            parameter.clone().into_buffer_arg(),
            gradient.into_buffer_arg(),
            first.clone().into_buffer_arg(),
            second.clone().into_buffer_arg(),
            count as u32,
            c.grad_scale,
            c.decay,
            c.beta1_rest,
            c.beta2,
            c.beta2_rest,
            c.step_size,
            c.inverse_correction2,
            c.epsilon,
        );
        (parameter, first, second)
    }

    fn square_sum(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let x = contiguous(cast(x, DType::F32));
        let (parts, len) = (empty(&x, [SUMMING as usize], DType::F32), len(&x));
        let Planes { count, dim, lanes } = planes(&x.client, SUMMING as usize);
        square_sums::launch(
            &parts.client.clone(),
            count,
            dim,
            x.into_buffer_arg(),
            parts.clone().into_buffer_arg(),
            len as u32,
            SUMMING,
            lanes,
        );
        summed(parts)
    }
}
