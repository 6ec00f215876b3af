//! The choice of the next token.
//!
//! Responsible for: choosing from logits, greedily or by sampling. The vocabulary is not sorted: only the most likely
//! tokens are, as many as the choice needs.
//! Must not depend on: models, the scheduling of prompts.

use std::cmp::Ordering;

use tonfall_kernels::philox::Philox;

/// Sampling settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// 0 selects the most likely token.
    pub temperature: f32,
    /// Samples from the `top_k` most likely tokens.
    pub top_k: Option<usize>,
    /// Samples from the most likely tokens whose probabilities sum to `top_p` (Holtzman et al. 2019).
    pub top_p: Option<f32>,
    pub max_new_tokens: usize,
    pub seed: u64,
}

impl Sampling {
    /// Selects the most likely token at every step.
    pub fn greedy(max_new_tokens: usize) -> Self {
        Self { temperature: 0.0, top_k: None, top_p: None, max_new_tokens, seed: 0 }
    }
}

/// A logit that is NaN or infinite.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct NotFinite {
    pub id: usize,
    pub value: f32,
}

/// Tokens that are sorted first; then twice as many, until the choice is among them.
const SORTED: usize = 64;

/// Chooses tokens. Its memory is reused.
#[derive(Default)]
pub(super) struct Chooser {
    /// Token ids; the first `sorted` of them are the most likely ones, in order.
    ranked: Vec<u32>,
    sorted: usize,
}

impl Chooser {
    /// Index of the next token. Of equal logits, the first is more likely.
    ///
    /// # Errors
    /// If a logit is not finite.
    pub(super) fn choose(
        &mut self,
        logits: &[f32],
        sampling: &Sampling,
        generator: &mut Philox,
    ) -> Result<u32, NotFinite> {
        let highest = highest(logits)?;
        if sampling.temperature <= 0.0 {
            return Ok(highest as u32);
        }
        let weight = |id: u32| f64::from((logits[id as usize] - logits[highest]) / sampling.temperature).exp();
        self.ranked.clear();
        self.ranked.extend(0..logits.len() as u32);
        self.sorted = 0;
        let count = sampling.top_k.unwrap_or(usize::MAX).clamp(1, logits.len());
        let mut total: f64 = match sampling.top_k {
            Some(_) => (0..count).map(|rank| weight(self.at(rank, logits))).sum(),
            None => (0..logits.len() as u32).map(weight).sum(),
        };
        let mut count = count;
        if let Some(top_p) = sampling.top_p {
            let share = f64::from(top_p) * total;
            let (mut seen, mut kept) = (0.0, 0);
            while kept < count && (kept == 0 || seen < share) {
                seen += weight(self.at(kept, logits));
                kept += 1;
            }
            (count, total) = (kept, seen);
        }
        let mut left = f64::from(generator.uniform()) * total;
        for rank in 0..count {
            let id = self.at(rank, logits);
            left -= weight(id);
            if left < 0.0 {
                return Ok(id);
            }
        }
        Ok(self.at(count - 1, logits))
    }

    /// The token of a rank.
    fn at(&mut self, rank: usize, logits: &[f32]) -> u32 {
        let order = |a: &u32, b: &u32| by_logit(logits, *a, *b);
        while rank >= self.sorted {
            let more = self.sorted.max(SORTED).min(self.ranked.len() - self.sorted);
            let rest = &mut self.ranked[self.sorted..];
            if more < rest.len() {
                rest.select_nth_unstable_by(more - 1, order);
            }
            rest[..more].sort_unstable_by(order);
            self.sorted += more;
        }
        self.ranked[rank]
    }
}

/// The higher logit first; of equal ones, the lower index.
fn by_logit(logits: &[f32], a: u32, b: u32) -> Ordering {
    logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b))
}

/// The index of the highest logit, the first of equal ones.
fn highest(logits: &[f32]) -> Result<usize, NotFinite> {
    let (mut best, mut highest) = (0, f32::NEG_INFINITY);
    for (index, chunk) in logits.chunks(1024).enumerate() {
        // A sum of products with zero is NaN if a factor is not finite. Compilers vectorise it; they don't a search.
        let lanes = chunk.iter().fold(0.0, |sum, value| sum + value * 0.0);
        if lanes != 0.0 {
            let at = chunk.iter().position(|value| !value.is_finite()).unwrap_or_default();
            return Err(NotFinite { id: index * 1024 + at, value: chunk[at] });
        }
        let most = chunk.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if most > highest {
            highest = most;
            best = index * 1024 + chunk.iter().position(|value| *value == most).unwrap_or_default();
        }
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn choose(logits: &[f32], sampling: &Sampling, generator: &mut Philox) -> u32 {
        Chooser::default().choose(logits, sampling, generator).expect("finite logits")
    }

    /// The same choice with the whole vocabulary sorted.
    fn choose_sorted(logits: &[f32], sampling: &Sampling, generator: &mut Philox) -> u32 {
        let mut ranked: Vec<u32> = (0..logits.len() as u32).collect();
        ranked.sort_by(|a, b| by_logit(logits, *a, *b));
        let highest = logits[ranked[0] as usize];
        ranked.truncate(sampling.top_k.unwrap_or(usize::MAX).max(1));
        let weight = |id: u32| f64::from((logits[id as usize] - highest) / sampling.temperature).exp();
        let mut weights: Vec<f64> = ranked.iter().map(|id| weight(*id)).collect();
        if let Some(top_p) = sampling.top_p {
            let share = f64::from(top_p) * weights.iter().sum::<f64>();
            let mut seen = 0.0;
            let within = |weight: &&f64| {
                let before = seen;
                seen += **weight;
                before < share
            };
            let kept = weights.iter().take_while(within).count();
            weights.truncate(kept.max(1));
        }
        let mut left = f64::from(generator.uniform()) * weights.iter().sum::<f64>();
        let found = weights.iter().position(|weight| {
            left -= weight;
            left < 0.0
        });
        ranked[found.unwrap_or(weights.len() - 1)]
    }

    proptest! {
        #[test]
        fn partly_sorted_choices_equal_sorted_ones(
            length in 1_usize..400,
            seed in any::<u64>(),
            temperature in 0.2_f32..3.0,
            top_k in prop::option::of(1_usize..300),
            top_p in prop::option::of(0.01_f32..1.0),
        ) {
            let mut numbers = Philox::new(seed, 1);
            // Few different values, so that there are equal logits.
            let logits: Vec<f32> = (0..length).map(|_| (numbers.uniform() * 40.0).floor() / 8.0).collect();
            let sampling = Sampling { temperature, top_k, top_p, ..Sampling::greedy(1) };
            let (mut ours, mut theirs) = (Philox::new(seed, 2), Philox::new(seed, 2));
            for _ in 0..8 {
                prop_assert_eq!(choose(&logits, &sampling, &mut ours), choose_sorted(&logits, &sampling, &mut theirs));
            }
        }
    }

    #[test]
    fn greedy_takes_the_first_of_the_highest() {
        let token = choose(&[0.5, 2.0, 2.0, -1.0], &Sampling::greedy(1), &mut Philox::new(0, 0));
        assert_eq!(token, 1);
        let mut logits = vec![-3.0; 5000];
        (logits[2047], logits[4000]) = (1.5, 1.5);
        assert_eq!(choose(&logits, &Sampling::greedy(1), &mut Philox::new(0, 0)), 2047);
    }

    #[test]
    fn a_logit_that_is_not_finite_is_found() {
        for (id, value) in [(0, f32::NAN), (7, -f32::NAN), (1023, f32::INFINITY), (2500, f32::NEG_INFINITY)] {
            let mut logits = vec![1e30; 2600];
            logits[id] = value;
            for sampling in [Sampling::greedy(1), Sampling { temperature: 1.0, ..Sampling::greedy(1) }] {
                let found = Chooser::default().choose(&logits, &sampling, &mut Philox::new(0, 0)).expect_err("a fault");
                assert_eq!((found.id, found.value.to_bits()), (id, value.to_bits()));
            }
        }
    }

    #[test]
    fn sampling_stays_within_top_k_and_top_p() {
        let logits = [3.0, 2.9, 0.0, -5.0];
        let mut generator = Philox::new(7, 7);
        let top_k = Sampling { temperature: 1.0, top_k: Some(2), ..Sampling::greedy(1) };
        let top_p = Sampling { temperature: 1.0, top_p: Some(0.5), ..Sampling::greedy(1) };
        for _ in 0..200 {
            assert!(choose(&logits, &top_k, &mut generator) < 2);
            assert_eq!(choose(&logits, &top_p, &mut generator), 0);
        }
    }

    #[test]
    fn sampling_follows_the_probabilities() {
        let sampling = Sampling { temperature: 1.0, ..Sampling::greedy(1) };
        let mut generator = Philox::new(1, 2);
        let logits = [0.75f32.ln(), 0.25f32.ln()];
        let firsts = (0..4000).filter(|_| choose(&logits, &sampling, &mut generator) == 0).count();
        assert!((2850..3150).contains(&firsts), "{firsts} of 4000 at probability 0.75");
    }
}
