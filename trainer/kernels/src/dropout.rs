//! Dropout with a mask that is a function of a key, so that the backward pass recomputes it instead of saving it.
//!
//! Responsible for: which elements are dropped, and the factor of the others.

use crate::cpu::level::{Level, multiversion};
use crate::cpu::memory::Shared;
use crate::cpu::threads;
use crate::philox;

/// Inverted dropout (Srivastava et al. 2014): element `i` (row-major) becomes zero if word `i` of Philox stream `stream` of
/// `seed` is below `p · 2^32`; otherwise it is multiplied by `1 / (1 - p)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Probability of dropping an element, in [0, 1).
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
        assert!((0.0..1.0).contains(&self.p), "a dropout of {}, which is not in [0, 1)", self.p);
    }

    /// Elements with a smaller word become zero.
    pub(crate) fn threshold(&self) -> u32 {
        (f64::from(self.p) * 2f64.powi(32)) as u32
    }

    /// The factor of the other elements.
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
            // SAFETY: pieces are disjoint ranges.
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
    fn masks_drop_a_share_of_p_keep_the_mean_and_are_the_same_in_parts() {
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
