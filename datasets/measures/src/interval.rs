//! Confidence intervals over prompts.
//!
//! Responsible for: the percentile bootstrap, with a generator of its own, so that a seed gives the same bounds on every
//! machine. Must not depend on: measures.
//!
//! Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13. Prompts are drawn with replacement;
//! both sums are computed anew for each draw. If all parts are alike, the interval is one point: the bootstrap does not know
//! of values that did not occur.

use crate::Part;

/// Resamples of a bootstrap.
pub const RESAMPLES: usize = 2000;
/// Fewer parts with a denominator give no interval: its coverage would be far below its confidence.
pub const FEWEST: usize = 8;

/// Bounds of the interval that contains the ratio of the sums with a probability of `confidence`, by the percentile
/// bootstrap. `None` with fewer than [`FEWEST`] parts that apply, or if a part is not finite.
pub fn bootstrap(parts: &[Part], confidence: f64, seed: u64) -> Option<(f64, f64)> {
    let parts: Vec<&Part> = parts.iter().filter(|part| part.denominator != 0.0).collect();
    let is_finite = parts.iter().all(|part| part.numerator.is_finite() && part.denominator.is_finite());
    if parts.len() < FEWEST || !is_finite {
        return None;
    }
    let mut draws = Draws(seed);
    let mut values: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let (mut numerator, mut denominator) = (0.0, 0.0);
            for _ in 0..parts.len() {
                let part = parts[draws.below(parts.len())];
                numerator += part.numerator;
                denominator += part.denominator;
            }
            numerator / denominator
        })
        .collect();
    values.sort_by(f64::total_cmp);
    let tail = (1.0 - confidence) / 2.0;
    let at = |share: f64| values[((share * RESAMPLES as f64) as usize).min(RESAMPLES - 1)];
    Some((at(tail), at(1.0 - tail)))
}

/// SplitMix64 (Steele, Lea and Flood 2014, <https://doi.org/10.1145/2660193.2660195>).
#[derive(Debug)]
struct Draws(u64);

impl Draws {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`. The bias is below n / 2^64.
    fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }

    /// A number from 0 to 1.
    #[cfg(test)]
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_splitmix64() {
        // The first numbers of the reference implementation for the seed 1234567.
        let mut draws = Draws(1_234_567);
        assert_eq!([draws.next(), draws.next()], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
    }

    #[test]
    fn few_or_infinite_parts_have_no_interval() {
        let parts = vec![Part::of(1, 2); FEWEST];
        assert_eq!(bootstrap(&parts, 0.95, 1), Some((0.5, 0.5)));
        assert_eq!(bootstrap(&parts[1..], 0.95, 1), None);
        let empty = [vec![Part::NONE; 100], parts[1..].to_vec()].concat();
        assert_eq!(bootstrap(&empty, 0.95, 1), None);
        let infinite = [parts, vec![Part::score(f64::NAN)]].concat();
        assert_eq!(bootstrap(&infinite, 0.95, 1), None);
    }

    #[test]
    fn a_seed_gives_the_same_bounds() {
        let parts: Vec<Part> = (0..40).map(|index| Part::of(index % 4, 4)).collect();
        assert_eq!(bootstrap(&parts, 0.95, 7), bootstrap(&parts, 0.95, 7));
        let (low, high) = bootstrap(&parts, 0.95, 7).expect("40 parts");
        assert!(low < 0.375 && 0.375 < high && high - low < 0.3, "{low} {high}");
    }

    /// Intervals of 95 % over 40 prompts contain the true rate in 90 to 98 % of 400 simulated evaluations.
    #[test]
    fn intervals_cover_the_true_rate() {
        let mut world = Draws(42);
        let (rate, runs, prompts) = (0.7, 400, 40);
        let mut covered = 0;
        for run in 0..runs {
            let parts: Vec<Part> = (0..prompts)
                .map(|_| {
                    let total = 1 + world.below(4);
                    Part::of((0..total).filter(|_| world.unit() < rate).count(), total)
                })
                .collect();
            let (low, high) = bootstrap(&parts, 0.95, run).expect("40 parts");
            covered += usize::from((low..=high).contains(&rate));
        }
        let share = covered as f64 / runs as f64;
        assert!((0.90..=0.98).contains(&share), "{share}");
    }
}
