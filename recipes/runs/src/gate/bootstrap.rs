//! The confidence bound of a difference between two models that answered the same questions.
//!
//! Responsible for: the paired bootstrap over parts, with its own seeded generator: the same reports give the same bound.
//! Must not depend on: rules, reports.
//!
//! Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13: the percentile interval. With few parts it
//! is too narrow, because the spread of a resample is that of the sample, without Bessel's correction, and its quantiles
//! are those of a normal distribution. So the quantile is the expanded one of Hesterberg, What Teachers Should Know
//! About the Bootstrap (The American Statistician 69, 2015), section 5.2: Φ(−√(n/(n−1)) · t) with the quantile t of
//! Student's distribution with n − 1 degrees of freedom. n counts the parts in which the two models differ at all.
//!
//! If few parts are skewed, that is still too narrow: with 12 losses, equal models were called better in 6.0 % instead of 5 %
//! of 1,000 cases. So the bound is the lower one of two: the bootstrap's, and that of Student's t for the linearised
//! difference (the infinitesimal jackknife, chapter 21 of the same book).

use std::f64::consts::FRAC_PI_2;

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
    let difference = |sums: [Part; 2]| {
        let [a, b] = sums.map(|sum| scale.value(sum.numerator, sum.denominator));
        let difference = a.zip(b).map_or(f64::NEG_INFINITY, |(a, b)| sign * (a - b));
        if difference.is_nan() { f64::NEG_INFINITY } else { difference }
    };
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
    let mut random = Random { seed: SEED, counter: 0 };
    let mut found: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let zero = Part { numerator: 0.0, denominator: 0.0 };
            let mut sums = [zero; 2];
            for _ in 0..asked.len() {
                for (sum, part) in sums.iter_mut().zip(asked[random.below(asked.len())]) {
                    sum.numerator += part.numerator;
                    sum.denominator += part.denominator;
                }
            }
            difference(sums)
        })
        .collect();
    found.sort_unstable_by(f64::total_cmp);
    // Rounded down: towards the worse bound.
    let index = (expanded(chance, differing as f64) * RESAMPLES as f64) as usize;
    Ok(found[index.min(RESAMPLES - 1)].min(linearized(&asked, scale, sign, chance, differing as f64)))
}

/// The lower bound of the difference as a linear function of the parts. No bound if a model has no value.
fn linearized(pairs: &[[Part; 2]], scale: Scale, sign: f64, chance: f64, n: f64) -> f64 {
    // Value of a model, and the influence of each part on it.
    let influences = |model: usize| -> Option<(f64, Vec<f64>)> {
        let sum = |of: fn(&Part) -> f64| pairs.iter().map(|pair| of(&pair[model])).sum::<f64>();
        let (numerator, denominator) = (sum(|part| part.numerator), sum(|part| part.denominator));
        let value = scale.value(numerator, denominator)?;
        let ratio = numerator / denominator;
        let slope = match scale {
            Scale::Ratio => 1.0,
            Scale::Exp => value,
        };
        let of_part = |part: Part| slope * (part.numerator - ratio * part.denominator) / denominator;
        Some((value, pairs.iter().map(|pair| of_part(pair[model])).collect()))
    };
    let Some(((first, of_first), (second, of_second))) = influences(0).zip(influences(1)) else {
        return f64::NEG_INFINITY;
    };
    let squares: f64 = of_first.iter().zip(&of_second).map(|(a, b)| (a - b).powi(2)).sum();
    let error = (squares * n / (n - 1.0)).sqrt();
    sign * (first - second) - student_quantile(1.0 - chance, n - 1.0) * error
}

/// The share of resamples below the bound.
fn expanded(chance: f64, n: f64) -> f64 {
    let freedom = n - 1.0;
    let quantile = student_quantile(1.0 - chance, freedom);
    student(-(n / freedom).sqrt() * quantile, f64::INFINITY)
}

/// The distribution function of Student's t; of the normal distribution for infinite degrees of freedom.
fn student(t: f64, freedom: f64) -> f64 {
    let half = 0.5 * (area(t.abs(), freedom) / area(f64::INFINITY, freedom)).min(1.0);
    if t < 0.0 { 0.5 - half } else { 0.5 + half }
}

/// The integral of the density from 0 to `t`, without its constant factor, with Simpson's rule.
///
/// With x = √ν · tan θ, the density of Student's t is proportional to cos^(ν−1) θ.
fn area(t: f64, freedom: f64) -> f64 {
    const STEPS: u32 = 400;
    // With more degrees of freedom, the quantiles of the normal distribution differ by less than 0.2 %.
    let is_normal = freedom > 1000.0;
    let to = if is_normal { t.min(12.0) } else { (t / freedom.sqrt()).atan().min(FRAC_PI_2) };
    let density = |x: f64| if is_normal { (-x * x / 2.0).exp() } else { x.cos().powf(freedom - 1.0) };
    let step = to / f64::from(STEPS);
    let weight = |index| if index == 0 || index == STEPS { 1.0 } else { f64::from(2 + 2 * (index % 2)) };
    (0..=STEPS).map(|index| weight(index) * density(f64::from(index) * step)).sum::<f64>() * step / 3.0
}

/// The value that Student's t stays below with this probability of at least 0.5, by bisection.
fn student_quantile(probability: f64, freedom: f64) -> f64 {
    let wanted = (2.0 * probability - 1.0) * area(f64::INFINITY, freedom);
    let (mut low, mut high) = (0.0, 1e6);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if area(middle, freedom) < wanted { low = middle } else { high = middle }
    }
    low
}

/// Random numbers by counter: SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
pub(crate) struct Random {
    pub(crate) seed: u64,
    pub(crate) counter: u64,
}

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.counter += 1;
        let mut z = self.seed.wrapping_add(self.counter.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`; the bias of 2^-64 · `end` is far below that of the resamples.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        ((u128::from(self.next()) * end as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tables of Student's t and of the normal distribution.
    #[test]
    fn quantiles_are_those_of_the_tables() {
        for (probability, freedom, expected) in [
            (0.95, 1.0, 6.3138),
            (0.95, 4.0, 2.1318),
            (0.95, 30.0, 1.6973),
            (0.99, 10.0, 2.7638),
            (0.975, f64::INFINITY, 1.9600),
        ] {
            let found = student_quantile(probability, freedom);
            assert!((found - expected).abs() < 1e-4, "{probability} {freedom}: {found}");
        }
        assert!((student(-1.6449, f64::INFINITY) - 0.05).abs() < 1e-5);
        assert!((student(0.0, 7.0) - 0.5).abs() < 1e-12);
    }

    /// The first outputs for the seed 1234567, as published with the reference implementation.
    #[test]
    fn the_generator_is_splitmix64() {
        let mut random = Random { seed: 1_234_567, counter: 0 };
        let first = [random.next(), random.next(), random.next()];
        assert_eq!(first, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

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
