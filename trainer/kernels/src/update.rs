//! An optimizer step over all parameters: global gradient norm, clipping, AdamW.
//!
//! Responsible for: the whole step in one call. On CUDA with f32 moments, the host doesn't wait for the norm, and hundreds of
//! small tensors share a few kernel launches. Otherwise the host reads the norm first, and each tensor has its own launch.
//! Must not depend on: schedules, where gradients come from.

use burn::tensor::{DType, Tensor};

use crate::adamw::{AdamW, adamw_step};
use crate::adamw8::{Moment8, adamw8_step};
use crate::square_sums::{norm, square_sums};

/// First and second moment of one parameter.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "one per parameter, and it is rarely moved")]
pub enum Moments<const D: usize> {
    /// f32, shaped like the parameter.
    Full([Tensor<D>; 2]),
    /// Quantized to 8 bits.
    Bytes([Moment8; 2]),
}

/// A parameter with its gradient and optimizer state, all of one shape.
#[derive(Debug)]
pub struct Update<'a, const D: usize> {
    /// f32.
    pub parameter: &'a mut Tensor<D>,
    /// A copy of the parameter in the dtype of the matrix products, if there is one. It is updated with the parameter.
    pub copy: Option<&'a mut Tensor<D>>,
    pub moments: &'a mut Moments<D>,
    pub gradient: Tensor<D>,
    /// Whether weight decay applies.
    pub decays: bool,
}

impl<const D: usize> Update<'_, D> {
    fn apply(self, settings: &AdamW, step: u64, grad_scale: f32) {
        let Self { parameter, copy, moments, gradient, decays } = self;
        let settings = AdamW { weight_decay: if decays { settings.weight_decay } else { 0.0 }, ..*settings };
        match moments {
            Moments::Full([first, second]) => {
                adamw_step(parameter, gradient, first, second, &settings, step, grad_scale);
            }
            Moments::Bytes([first, second]) => {
                adamw8_step(parameter, gradient, [first, second], &settings, step, grad_scale);
            }
        }
        if let Some(copy) = copy {
            *copy = copied(parameter, copy.dtype());
        }
    }
}

/// A contiguous copy of a tensor in another dtype. (Burn pads the rows of a new matrix, but not a vector.)
#[must_use]
pub fn copied<const D: usize>(tensor: &Tensor<D>, dtype: DType) -> Tensor<D> {
    tensor.clone().reshape([tensor.shape().num_elements()]).cast(dtype).reshape(tensor.dims())
}

/// The factor that clips gradients to `max_norm`, as in `torch.nn.utils.clip_grad_norm_`. A `max_norm` of 0 means no clipping.
fn clip(norm: f64, max_norm: f64) -> f32 {
    if max_norm > 0.0 { (max_norm / (norm + 1e-6)).min(1.0) as f32 } else { 1.0 }
}

/// Optimizer step number `step`, counted from 1. Parameters and moments are changed in place if no other tensor shares their
/// memory. Gradients are clipped by their global norm. Returns the partial sums of their squares, from which [`norm`] computes
/// the global norm; `None` without a parameter. If the norm is not finite, or a gradient could not be computed, nothing is
/// changed. The error of a gradient surfaces in this call, or when the returned sums are read.
///
/// # Panics
/// When shapes differ or `step` is 0.
#[must_use]
pub fn update<const D: usize>(
    updates: Vec<Update<'_, D>>,
    settings: &AdamW,
    step: u64,
    max_norm: f64,
) -> Option<Tensor<1>> {
    #[cfg(feature = "cuda")]
    let updates = match crate::cube::update(updates, settings, step, max_norm) {
        Ok(sums) => return Some(sums),
        Err(others) => others,
    };
    let gradients: Vec<&Tensor<D>> = updates.iter().map(|update| &update.gradient).collect();
    let sums = square_sums(&gradients)?;
    let norm = norm(&sums.clone().into_data());
    if norm.is_finite() {
        let grad_scale = clip(norm, max_norm);
        updates.into_iter().for_each(|update| update.apply(settings, step, grad_scale));
    }
    Some(sums)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{SHAPES, random, values};

    const SETTINGS: AdamW = AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.1 };

    fn zeros(like: &Tensor<2>) -> Moments<2> {
        Moments::Full([like.zeros_like(), like.zeros_like()])
    }

    #[test]
    fn gradients_are_clipped_by_their_global_norm_and_copies_are_updated() {
        let start = SHAPES.map(|(rows, columns)| random::<2>([rows, columns], 1).inner());
        let gradients = SHAPES.map(|(rows, columns)| random::<2>([rows, columns], 3).inner() * 9.0);
        let mut parameters = start.clone();
        let mut copies = start.each_ref().map(|tensor| copied(tensor, DType::BF16));
        let mut moments = start.each_ref().map(zeros);
        let each = parameters.iter_mut().zip(&mut copies).zip(&mut moments).zip(&gradients);
        let updates = each.map(|(((parameter, copy), moments), gradient)| {
            let decays = gradient.dims()[0] % 2 == 0;
            Update { parameter, copy: Some(copy), moments, gradient: gradient.clone(), decays }
        });
        let sums = update(updates.collect(), &SETTINGS, 1, 0.5).expect("parameters");
        let squares = gradients.iter().flat_map(values).map(|g| f64::from(g).powi(2));
        let want = squares.sum::<f64>().sqrt();
        assert!((norm(&sums.into_data()) - want).abs() < 1e-9 * want);
        let scale = (0.5 / (want + 1e-6)) as f32;
        for (((mut alone, gradient), got), copy) in start.into_iter().zip(gradients).zip(parameters).zip(copies) {
            let weight_decay = if gradient.dims()[0] % 2 == 0 { SETTINGS.weight_decay } else { 0.0 };
            let (mut first, mut second) = (alone.zeros_like(), alone.zeros_like());
            let settings = AdamW { weight_decay, ..SETTINGS };
            adamw_step(&mut alone, gradient, &mut first, &mut second, &settings, 1, scale);
            assert_eq!(values(&got), values(&alone));
            assert_eq!(values(&copy.cast(DType::F32)), values(&alone.cast(DType::BF16).cast(DType::F32)));
        }
    }

    #[test]
    fn a_gradient_that_is_not_finite_changes_nothing() {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut parameter = random::<2>([2, 3], 1).inner();
            let (before, mut moments) = (values(&parameter), zeros(&parameter));
            let gradient = parameter.zeros_like() + bad;
            let each = Update { parameter: &mut parameter, copy: None, moments: &mut moments, gradient, decays: true };
            let sums = update(vec![each], &SETTINGS, 1, 1.0).expect("a parameter");
            assert!(!norm(&sums.into_data()).is_finite());
            assert_eq!(values(&parameter), before);
        }
        assert!(update::<2>(Vec::new(), &SETTINGS, 1, 1.0).is_none());
    }
}
