//! AdamW over the trainable tensors, with clipping by the global norm.
//!
//! Responsible for: the update of one optimizer step and the optimizer's state.
//! Must not depend on: how gradients came about, schedules.
//!
//! Decoupled weight decay (Loshchilov & Hutter 2017, <https://arxiv.org/abs/1711.05101>) as `torch.optim.AdamW` computes
//! it, in f32; the norm is summed in f64 over all gradients as one vector, as `torch.nn.utils.clip_grad_norm_` does.

use burn::tensor::Tensor;
use tonfall_kernels::{AdamW as Settings, adamw_step, global_norm};
use tonfall_recipes::plan::TrainingPlan;

use crate::params::{GradientSums, ParamStore};

/// First and second moment of one parameter, f32, shaped like it.
#[derive(Clone, Debug)]
pub(crate) struct Moments {
    pub first: Tensor<2>,
    pub second: Tensor<2>,
}

/// AdamW and its state.
#[derive(Debug)]
pub(crate) struct Optimizer {
    settings: Settings,
    max_grad_norm: f64,
    /// In the order of the parameter store.
    pub moments: Vec<Moments>,
    /// Updates done.
    pub steps: u64,
}

impl Optimizer {
    /// A fresh optimizer: all moments zero.
    pub(crate) fn new(params: &ParamStore, plan: &TrainingPlan) -> Self {
        let settings = Settings {
            lr: 0.0,
            beta1: plan.beta1,
            beta2: plan.beta2,
            epsilon: plan.epsilon,
            weight_decay: plan.weight_decay,
        };
        let zeros = |value: &Tensor<2>| Moments { first: value.zeros_like(), second: value.zeros_like() };
        let moments = params.iter().map(|param| zeros(&param.value)).collect();
        Self { settings, max_grad_norm: plan.max_grad_norm, moments, steps: 0 }
    }

    /// Updates every parameter that got a gradient. Returns the global norm before clipping; when it is not finite,
    /// nothing is updated.
    pub(crate) fn step(&mut self, params: &mut ParamStore, gradients: GradientSums, learning_rate: f64) -> f64 {
        let gradients = gradients.into_inner();
        let norm = global_norm(gradients.iter().flatten());
        if !norm.is_finite() {
            return norm;
        }
        self.steps += 1;
        // PyTorch adds 1e-6 to the norm.
        let clip = match self.max_grad_norm > 0.0 {
            true => (self.max_grad_norm / (norm + 1e-6)).min(1.0),
            false => 1.0,
        };
        for ((param, moments), gradient) in params.iter_mut().zip(&mut self.moments).zip(gradients) {
            let Some(gradient) = gradient else { continue };
            let decay = if param.is_matrix() { self.settings.weight_decay } else { 0.0 };
            let settings = Settings { lr: learning_rate, weight_decay: decay, ..self.settings };
            adamw_step(
                &mut param.value,
                gradient,
                &mut moments.first,
                &mut moments.second,
                &settings,
                self.steps,
                clip as f32,
            );
        }
        norm
    }
}
