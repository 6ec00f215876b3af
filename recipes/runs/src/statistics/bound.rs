//! The confidence bound of a difference between two models that answered the same questions.
//!
//! Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13: the percentile interval. With few parts it
//! is too narrow, because the spread of a resample is that of the sample, without Bessel's correction, and its quantiles
//! are those of a normal distribution. So the quantile is the expanded one of Hesterberg, What Teachers Should Know
//! About the Bootstrap (The American Statistician 69, 2015), section 5.2: Φ(−√(n/(n−1)) · t) with the quantile t of
//! Student's distribution with n − 1 degrees of freedom. n counts the parts in which the two models differ at all.
//!
//! If few parts are skewed, that is still too narrow: with 12 losses, equal models were called better in 6.0 % instead of
//! 5 % of 1,000 cases. So the bound is the lower one of two: the bootstrap's, and that of Student's t for the linearised
//! difference.

use super::difference::Difference;
use super::random::Random;
use super::student::{distribution, quantile};
use crate::evaluation::{Part, Scale};

/// The 5 % quantile of this many resamples is that of infinitely many up to 0.35 percentage points (one standard
/// deviation).
const RESAMPLES: usize = 4_000;

/// Any number: the bound must only be the same in each call.
const SEED: u64 = 0x746f_6e66_616c_6c31;

/// The lower bound, with this confidence, of `sign * (value of the first − value of the second)`. Each pair holds the
/// parts of one question. A resample without a finite value counts as the worst one.
///
/// # Errors
/// If the pairs are too few for a statement with this confidence: even if the first model is better in all of them, so
/// would the better one of two equal models be by chance.
pub fn lower_bound(pairs: &[[Part; 2]], scale: Scale, sign: f64, confidence: f64) -> Result<f64, String> {
    let asked: Vec<[Part; 2]> =
        pairs.iter().copied().filter(|[a, b]| a.denominator != 0.0 || b.denominator != 0.0).collect();
    let differing = asked.iter().filter(|[a, b]| a != b).count();
    if differing == 0 && !asked.is_empty() {
        return Ok(0.0);
    }
    let chance = 1.0 - confidence;
    if 0.5f64.powi(differing.min(1000) as i32) > chance {
        return Err(format!(
            "the answers to only {differing} questions differ, which is too few for {} % confidence; ask more questions",
            100.0 * confidence
        ));
    }
    let freedom = differing as f64 - 1.0;
    let t = quantile(confidence, freedom);
    // The share of resamples below the bound.
    let expanded = distribution(-(differing as f64 / freedom).sqrt() * t, f64::INFINITY);
    let linear = Difference::of(&asked, scale, differing)
        .map_or(f64::NEG_INFINITY, |difference| sign * difference.value - t * difference.error);
    let mut random = Random::new(SEED);
    let mut found: Vec<f64> = (0..RESAMPLES).map(|_| difference(random.resample(&asked), scale, sign)).collect();
    found.sort_unstable_by(f64::total_cmp);
    // Rounded down: towards the worse bound.
    let index = (expanded * RESAMPLES as f64) as usize;
    Ok(found[index.min(RESAMPLES - 1)].min(linear))
}

/// How much better the first model is; the worst of all if there is no finite value.
fn difference(sums: [Part; 2], scale: Scale, sign: f64) -> f64 {
    let [a, b] = sums.map(|sum| scale.value(sum.numerator, sum.denominator));
    let difference = a.zip(b).map_or(f64::NEG_INFINITY, |(a, b)| sign * (a - b));
    if difference.is_nan() { f64::NEG_INFINITY } else { difference }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(values: &[(f64, f64)]) -> Vec<[Part; 2]> {
        let part = |numerator| Part { numerator, denominator: 1.0 };
        values.iter().map(|(a, b)| [part(*a), part(*b)]).collect()
    }

    #[test]
    fn a_bound_is_below_the_difference_and_the_same_in_each_call() {
        let noisy: Vec<(f64, f64)> =
            (0..40).map(|i| (0.5 + 0.1 * f64::from(i % 7), 0.4 + 0.1 * f64::from(i % 3))).collect();
        let bound = |confidence| lower_bound(&pairs(&noisy), Scale::Ratio, 1.0, confidence).expect("enough pairs");
        let difference = noisy.iter().map(|(a, b)| a - b).sum::<f64>() / 40.0;
        assert!(bound(0.99) < bound(0.9) && bound(0.9) < difference, "{} {} {difference}", bound(0.99), bound(0.9));
        assert_eq!(bound(0.95).to_bits(), bound(0.95).to_bits());
    }

    #[test]
    fn resamples_without_a_value_are_the_worst() {
        // The measure applies to one question of twelve in the second model: many resamples have no value there.
        let one = Part { numerator: 1.0, denominator: 1.0 };
        let none = Part { numerator: 0.0, denominator: 0.0 };
        let mut rare = vec![[one, none]; 12];
        rare[3] = [one, Part { numerator: 0.0, ..one }];
        assert_eq!(lower_bound(&rare, Scale::Ratio, 1.0, 0.95), Ok(f64::NEG_INFINITY));
    }

    #[test]
    fn too_few_pairs_are_refused_and_equal_ones_differ_by_nothing() {
        let better = [(1.0, 0.0); 5];
        assert_eq!(lower_bound(&pairs(&better), Scale::Ratio, 1.0, 0.95), Ok(1.0));
        let refused = lower_bound(&pairs(&better[..4]), Scale::Ratio, 1.0, 0.95).expect_err("chance 1 in 16");
        assert!(refused.contains("only 4 questions"), "{refused}");
        assert!(lower_bound(&pairs(&better), Scale::Ratio, 1.0, 0.99).is_err(), "chance 1 in 32");
        assert_eq!(lower_bound(&pairs(&[(1.0, 1.0); 3]), Scale::Ratio, 1.0, 0.95), Ok(0.0));
        assert!(lower_bound(&[], Scale::Ratio, 1.0, 0.95).is_err());
    }
}
