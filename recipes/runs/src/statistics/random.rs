//! Random numbers by counter, and resamples.

use crate::evaluation::Part;

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014, <https://doi.org/10.1145/2660193.2660195>).
pub(crate) struct Random {
    seed: u64,
    counter: u64,
}

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, counter: 0 }
    }

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

    /// Draws as many questions as there are, with replacement, and adds up the parts of each model.
    pub(super) fn resample<const MODELS: usize>(&mut self, questions: &[[Part; MODELS]]) -> [Part; MODELS] {
        let mut sums = [Part { numerator: 0.0, denominator: 0.0 }; MODELS];
        for _ in 0..questions.len() {
            for (sum, part) in sums.iter_mut().zip(questions[self.below(questions.len())]) {
                sum.numerator += part.numerator;
                sum.denominator += part.denominator;
            }
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first outputs for the seed 1234567, as published with the reference implementation.
    #[test]
    fn the_generator_is_splitmix64() {
        let mut random = Random::new(1_234_567);
        let first = [random.next(), random.next(), random.next()];
        assert_eq!(first, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }
}
