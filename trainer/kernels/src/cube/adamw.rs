//! AdamW, in place.

use burn::backend::tensor::FloatTensor;
use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::cast;
use cubecl::prelude::*;

use super::launch::{UNITS, units};
use super::tensors::{argument, contiguous, len, owned};
use crate::adamw::{AdamWOps, Coefficients};
use crate::index32::index;

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
            argument(parameter.clone()),
            argument(gradient),
            argument(first.clone()),
            argument(second.clone()),
            index(count),
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
}
