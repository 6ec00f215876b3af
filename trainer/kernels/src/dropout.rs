//! Dropout whose mask is a function of a key, so that it is computed again instead of kept.
//!
//! Responsible for: which elements stay and how much they are scaled.

use crate::cpu::level::{Level, multiversion};
use crate::cpu::memory::Shared;
use crate::cpu::threads;
use crate::philox;

/// Inverted dropout: element `i` (row-major) becomes zero when word `i` of Philox stream `stream` of `seed` is below
/// `p · 2^32`, and is multiplied by `1 / (1 - p)` otherwise (Srivastava et al. 2014).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Share of elements that become zero, 0 up to but not including 1.
    pub p: f32,
    pub seed: u64,
    pub stream: u64,
}

multiversion! {
    fn mask(words: &[u32], threshold: u32, scale: f32, values: &mut [f32]) {
        for (value, word) in values.iter_mut().zip(words) {
            *value = if *word < threshold { 0.0 } else { *value * scale };
        }
    }
}

impl Dropout {
    /// # Panics
    /// When `p` is not in [0, 1).
    pub(crate) fn check(&self) {
        assert!((0.0..1.0).contains(&self.p), "a dropout of {} leaves nothing", self.p);
    }

    /// Elements whose word is smaller become zero.
    pub(crate) fn threshold(&self) -> u32 {
        (f64::from(self.p) * 2f64.powi(32)) as u32
    }

    /// What the others are multiplied by.
    pub(crate) fn scale(&self) -> f32 {
        1.0 / (1.0 - self.p)
    }

    /// Applies the mask to elements `start ..` of a tensor, on all threads.
    pub(crate) fn apply(&self, start: usize, values: &mut [f32]) {
        const PIECE: usize = 4096;
        let (level, threshold, scale) = (Level::best(), self.threshold(), self.scale());
        let len = values.len();
        let out = Shared::new(values);
        threads::each(len.div_ceil(PIECE), |piece| {
            let at = piece * PIECE;
            #[expect(unsafe_code, reason = "tasks write disjoint parts of one buffer")]
            // SAFETY: each piece is its own range.
            let values = unsafe { out.part(at, PIECE.min(len - at)) };
            let mut words = [0; PIECE];
            let words = &mut words[..values.len()];
            philox::words(self.seed, self.stream, (start + at) as u64, words);
            mask(level, words, threshold, scale, values);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::SHAPES;

    #[test]
    fn a_mask_keeps_the_mean_and_its_share_and_is_the_same_in_parts() {
        for p in [0.0, 0.05, 0.5, 0.9] {
            let dropout = Dropout { p, seed: 3, stream: 9 };
            let mut whole = vec![1.0; 50_000];
            dropout.apply(0, &mut whole);
            let zeros = whole.iter().filter(|v| **v == 0.0).count() as f32 / whole.len() as f32;
            assert!((zeros - p).abs() < 0.01, "{zeros} of {p}");
            let mean = whole.iter().sum::<f32>() / whole.len() as f32;
            assert!((mean - 1.0).abs() < 0.05, "mean {mean}");
            for (start, len) in SHAPES.map(|(rows, columns)| (rows * 37, rows * columns)) {
                let mut part = vec![1.0; len];
                dropout.apply(start, &mut part);
                assert_eq!(part, whole[start..start + len]);
            }
        }
    }
}
