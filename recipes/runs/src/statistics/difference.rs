//! The difference of two models as a linear function of the parts.
//!
//! Each part contributes its residual from the ratio (Cochran, Sampling Techniques, 1977, section 6.3). The residuals of
//! both models on one question are subtracted before their variance is taken.

use crate::evaluation::{Part, Scale};

/// The difference of two values, and its standard error.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// Value of the first model minus value of the second.
    pub value: f64,
    pub error: f64,
}

impl Difference {
    /// The difference of two models. Each pair holds their parts of one question. `n` counts the questions that matter,
    /// for Bessel's correction. `None` if a model has no value.
    pub fn of(pairs: &[[Part; 2]], scale: Scale, n: usize) -> Option<Self> {
        let (first, of_first) = influences(pairs.iter().map(|pair| pair[0]), scale)?;
        let (second, of_second) = influences(pairs.iter().map(|pair| pair[1]), scale)?;
        let squares: f64 = of_first.iter().zip(&of_second).map(|(first, second)| (first - second).powi(2)).sum();
        let n = n as f64;
        Some(Self { value: first - second, error: (squares * n / (n - 1.0)).sqrt() })
    }
}

/// The value of a model, and the influence of each part on it.
fn influences(parts: impl Iterator<Item = Part> + Clone, scale: Scale) -> Option<(f64, Vec<f64>)> {
    let numerator: f64 = parts.clone().map(|part| part.numerator).sum();
    let denominator: f64 = parts.clone().map(|part| part.denominator).sum();
    let value = scale.value(numerator, denominator)?;
    let ratio = numerator / denominator;
    let slope = match scale {
        Scale::Ratio => 1.0,
        Scale::Exp => value,
    };
    let influence = |part: Part| slope * (part.numerator - ratio * part.denominator) / denominator;
    Some((value, parts.map(influence).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With denominators of 1, the error is that of the mean of the differences.
    #[test]
    fn the_error_of_a_mean_is_the_textbook_one() {
        let part = |numerator| Part { numerator, denominator: 1.0 };
        let differences = [1.0, 0.0, 3.0, 2.0];
        let pairs = differences.map(|difference| [part(5.0 + difference), part(5.0)]);
        let found = Difference::of(&pairs, Scale::Ratio, 4).expect("values");
        // Variance 5/3 of four differences.
        assert!((found.value - 1.5).abs() < 1e-12 && (found.error - (5.0f64 / 12.0).sqrt()).abs() < 1e-12, "{found:?}");
        assert_eq!(Difference::of(&[[part(1.0), Part { numerator: 0.0, denominator: 0.0 }]], Scale::Ratio, 1), None);
    }

    #[test]
    fn a_perplexity_is_linearised_at_its_value() {
        let part = |loss: f64| Part { numerator: loss, denominator: 1.0 };
        let pairs = [[part(1.0), part(0.0)], [part(1.2), part(0.0)]];
        let (of_losses, found) = (
            Difference::of(&pairs, Scale::Ratio, 2).expect("losses"),
            Difference::of(&pairs, Scale::Exp, 2).expect("values"),
        );
        assert!((found.value - (1.1f64.exp() - 1.0)).abs() < 1e-12);
        assert!((found.error - 1.1f64.exp() * of_losses.error).abs() < 1e-12);
    }
}
