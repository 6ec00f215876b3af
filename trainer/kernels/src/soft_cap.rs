//! Soft-capping (Bello et al. 2016; Gemma 2): `cap · tanh(x / cap)` bounds attention scores and logits.
//!
//! Responsible for: the function and its derivative on the CPU, for attention and cross-entropy, which apply it to blocks.
//! Must not depend on: attention, cross-entropy.

use burn::tensor::Tensor;

use crate::cpu::elementary::tanh;
use crate::cpu::level::multiversion;

multiversion! {
    /// Caps values in place.
    pub(crate) fn cap(values: &mut [f32], cap: f32) {
        let inverse = 1.0 / cap;
        for value in values {
            *value = cap * tanh::<FMA>(*value * inverse);
        }
    }
}

multiversion! {
    /// Caps values in place and writes the derivatives `1 - tanh²` to `slopes`.
    pub(crate) fn cap_with_slopes(values: &mut [f32], slopes: &mut [f32], cap: f32) {
        let inverse = 1.0 / cap;
        for (value, slope) in values.iter_mut().zip(slopes) {
            let bounded = tanh::<FMA>(*value * inverse);
            *slope = (1.0 - bounded) * (1.0 + bounded);
            *value = cap * bounded;
        }
    }
}

multiversion! {
    /// The chain rule: turns gradients of capped values into gradients of the values.
    pub(crate) fn apply_slopes(gradients: &mut [f32], slopes: &[f32]) {
        for (gradient, slope) in gradients.iter_mut().zip(slopes) {
            *gradient *= slope;
        }
    }
}

/// Soft-caps logits `[T, vocab]`, in Burn's own operations.
#[must_use]
pub fn soft_cap(logits: Tensor<2>, cap: f32) -> Tensor<2> {
    logits.div_scalar(cap).tanh().mul_scalar(cap)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::level::Level;
    use crate::testing::{SHAPES, random, values};

    #[test]
    fn values_and_slopes_equal_the_definition_in_f64() {
        for (level, limit) in Level::available().into_iter().flat_map(|level| [1.0, 30.0, 50.0].map(|cap| (level, cap)))
        {
            let inputs: Vec<f32> = (-3001..=3000).map(|i| i as f32 * 0.1).chain([-1e30, 1e30, 1e-6]).collect();
            let (mut capped, mut slopes) = (inputs.clone(), vec![0.0; inputs.len()]);
            cap_with_slopes(level, &mut capped, &mut slopes, limit);
            let mut alone = inputs.clone();
            cap(level, &mut alone, limit);
            assert_eq!(alone, capped);
            for ((x, capped), slope) in inputs.iter().zip(&capped).zip(&slopes) {
                let want = (f64::from(*x) / f64::from(limit)).tanh();
                assert!((f64::from(*capped / limit) - want).abs() < 3e-7, "{level:?} {limit} {x}: {capped}");
                assert!((f64::from(*slope) - (1.0 - want * want)).abs() < 4e-7, "{level:?} {limit} {x}: {slope}");
            }
            let mut gradient = vec![3.0; slopes.len()];
            apply_slopes(level, &mut gradient, &slopes);
            assert!(gradient.iter().zip(&slopes).all(|(gradient, slope)| *gradient == 3.0 * slope));
        }
    }

    #[test]
    fn tensors_and_slices_are_capped_equally() {
        for (rows, columns) in SHAPES {
            let logits = random::<2>([rows, columns], 1).mul_scalar(100.0);
            let mut want = values(&logits);
            cap(Level::best(), &mut want, 30.0);
            let got = values(&soft_cap(logits, 30.0));
            assert!(got.iter().zip(&want).all(|(got, want)| (got - want).abs() < 1e-5), "{rows}x{columns}");
            assert!(want.iter().all(|value| value.abs() <= 30.0));
        }
    }
}
