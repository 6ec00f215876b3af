//! One AdamW step for one parameter.
//!
//! Responsible for: the arithmetic of `torch.optim.AdamW` (Loshchilov & Hutter 2017) in f32 with f64 coefficients.
//! Must not depend on: schedules, parameter groups.

use burn::tensor::Tensor;

use crate::cpu::level::{Level, fma, multiversion};
use crate::cpu::memory::Shared;
use crate::cpu::threads;
use crate::flex::{constant, contiguous, floats, owned};
use crate::op::{Autodiff, Backend, CheckpointStrategy, Dispatch, Flex, FloatTensor, backend_extension};

/// Hyperparameters of AdamW.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    pub lr: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    /// Decoupled: each step multiplies the parameter by `1 - lr · weight_decay`.
    pub weight_decay: f64,
}

/// The constants of one step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Coefficients {
    pub(crate) grad_scale: f32,
    pub(crate) decay: f32,
    pub(crate) beta1_rest: f32,
    pub(crate) beta2: f32,
    pub(crate) beta2_rest: f32,
    pub(crate) step_size: f32,
    pub(crate) inverse_correction2: f32,
    pub(crate) epsilon: f32,
}

impl Coefficients {
    /// The constants of step number `step`, counted from 1. The gradient is multiplied by `grad_scale` first.
    pub(crate) fn new(settings: &AdamW, step: u64, grad_scale: f32) -> Self {
        assert!(step > 0, "steps are counted from 1");
        let AdamW { lr, beta1, beta2, epsilon, weight_decay } = *settings;
        let correction = |beta: f64| 1.0 - beta.powf(step as f64);
        Self {
            grad_scale,
            decay: (1.0 - lr * weight_decay) as f32,
            beta1_rest: (1.0 - beta1) as f32,
            beta2: beta2 as f32,
            beta2_rest: (1.0 - beta2) as f32,
            step_size: (lr / correction(beta1)) as f32,
            inverse_correction2: (1.0 / correction(beta2).sqrt()) as f32,
            epsilon: epsilon as f32,
        }
    }
}

/// The step as an operation of a backend.
#[backend_extension(Flex, Autodiff, Cube: cfg(feature = "cube"))]
pub(crate) trait AdamWOps: Backend {
    /// Parameter, gradient, first and second moment → the new parameter and moments.
    fn adamw(
        parameter: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        coefficients: Coefficients,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

multiversion! {
    pub(crate) fn step(parameter: &mut [f32], gradient: &[f32], first: &mut [f32], second: &mut [f32], c: &Coefficients) {
        for (((parameter, gradient), first), second) in parameter.iter_mut().zip(gradient).zip(first).zip(second) {
            let gradient = gradient * c.grad_scale;
            *first = fma::<FMA>(c.beta1_rest, gradient - *first, *first);
            *second = fma::<FMA>(c.beta2, *second, c.beta2_rest * gradient * gradient);
            let denominator = fma::<FMA>(second.sqrt(), c.inverse_correction2, c.epsilon);
            *parameter = fma::<FMA>(*parameter, c.decay, -(c.step_size * *first / denominator));
        }
    }
}

impl AdamWOps for Flex {
    fn adamw(
        parameter: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        coefficients: Coefficients,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        const PIECE: usize = 16 * 1024;
        let gradient = contiguous(gradient);
        let gradient = floats(&gradient);
        let (level, len) = (Level::best(), gradient.len());
        let [mut parameter, mut first, mut second] = [parameter, first, second].map(owned);
        let [p, m, v] =
            [&mut parameter, &mut first, &mut second].map(|tensor| Shared::new(tensor.storage_mut::<f32>()));
        assert_eq!([p.len(), m.len(), v.len()], [len; 3], "elements of the parameter and its moments");
        threads::each(len.div_ceil(PIECE), |piece| {
            let (start, len) = (piece * PIECE, PIECE.min(len - piece * PIECE));
            #[expect(unsafe_code, reason = "tasks write disjoint parts of one buffer")]
            // SAFETY: pieces are disjoint ranges.
            let (p, m, v) = unsafe { (p.part(start, len), m.part(start, len), v.part(start, len)) };
            step(level, p, &gradient[start..][..len], m, v, &coefficients);
        });
        (parameter, first, second)
    }
}

impl<B: AdamWOps, C: CheckpointStrategy> AdamWOps for Autodiff<B, C> {
    fn adamw(
        parameter: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        coefficients: Coefficients,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let [parameter, gradient, first, second] =
            [parameter, gradient, first, second].map(|tensor| tensor.into_primitive());
        let (parameter, first, second) = B::adamw(parameter, gradient, first, second, coefficients);
        (constant::<B, C>(parameter), constant::<B, C>(first), constant::<B, C>(second))
    }
}

/// Updates a parameter and its moments, in place if no other tensor shares their memory. `step` is counted from 1. The
/// gradient is multiplied by `grad_scale` first (clipping, averaging).
///
/// # Panics
/// When the shapes differ, or `step` is 0.
pub(crate) fn adamw_step<const D: usize>(
    parameter: &mut Tensor<D>,
    gradient: Tensor<D>,
    first: &mut Tensor<D>,
    second: &mut Tensor<D>,
    settings: &AdamW,
    step: u64,
    grad_scale: f32,
) {
    let coefficients = Coefficients::new(settings, step, grad_scale);
    // Moved out of their places, so that each tensor is the only owner of its memory.
    let take = |tensor: &mut Tensor<D>| {
        let device = tensor.device();
        std::mem::replace(tensor, Tensor::empty([0; D], &device)).into_dispatch()
    };
    let (parameter_now, first_now, second_now) = (take(parameter), take(first), take(second));
    let updated =
        <Dispatch as AdamWOps>::adamw(parameter_now, gradient.into_dispatch(), first_now, second_now, coefficients);
    *parameter = Tensor::from_dispatch(updated.0);
    *first = Tensor::from_dispatch(updated.1);
    *second = Tensor::from_dispatch(updated.2);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{SHAPES, numbers, random, tensor, values};

    /// `torch.optim.AdamW` for one tensor, in f64.
    fn reference(settings: &AdamW, start: &[f32], gradients: &[Vec<f32>]) -> Vec<f64> {
        let mut p: Vec<f64> = start.iter().map(|p| f64::from(*p)).collect();
        let (mut m, mut v) = (vec![0.0; p.len()], vec![0.0; p.len()]);
        for (t, gradient) in (1..).zip(gradients) {
            for (i, g) in gradient.iter().map(|g| f64::from(*g)).enumerate() {
                p[i] *= 1.0 - settings.lr * settings.weight_decay;
                m[i] = settings.beta1 * m[i] + (1.0 - settings.beta1) * g;
                v[i] = settings.beta2 * v[i] + (1.0 - settings.beta2) * g * g;
                let denominator = (v[i] / (1.0 - settings.beta2.powi(t))).sqrt() + settings.epsilon;
                p[i] -= settings.lr * m[i] / (1.0 - settings.beta1.powi(t)) / denominator;
            }
        }
        p
    }

    #[test]
    fn five_steps_equal_torch_adamw() {
        for (rows, columns) in SHAPES {
            for weight_decay in [0.0, 0.1] {
                let settings = AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay };
                let len = rows * columns;
                let start = numbers(len, 1);
                let gradients: Vec<Vec<f32>> = (0..5).map(|t| numbers(len, 10 + t)).collect();
                let mut p = tensor(start.clone(), [rows, columns]).inner();
                let (mut m, mut v) = (p.zeros_like(), p.zeros_like());
                for (t, gradient) in (1..).zip(&gradients) {
                    let doubled = gradient.iter().map(|g| g * 2.0).collect();
                    let gradient = tensor(doubled, [rows, columns]).inner();
                    adamw_step(&mut p, gradient, &mut m, &mut v, &settings, t, 0.5);
                }
                for (got, want) in values(&p).iter().zip(reference(&settings, &start, &gradients)) {
                    assert!((f64::from(*got) - want).abs() < 2e-6, "{got} for {want}");
                }
            }
        }
    }

    #[test]
    fn a_shared_copy_of_the_parameter_is_not_changed() {
        let settings = AdamW { lr: 0.1, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 };
        let mut p = random::<1>([10], 1).inner();
        let (old, before) = (p.clone(), values(&p));
        let (mut m, mut v) = (p.zeros_like(), p.zeros_like());
        adamw_step(&mut p, old.clone(), &mut m, &mut v, &settings, 1, 1.0);
        assert_eq!(values(&old), before);
        assert_ne!(values(&p), before);
    }
}
