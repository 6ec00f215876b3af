//! The choice of the next token.
//!
//! Responsible for: choosing from logits, greedily or by sampling.
//! Must not depend on: models, the scheduling of prompts.

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

/// Index of the next token.
pub(super) fn choose(logits: &[f32], sampling: &Sampling, generator: &mut Philox) -> u32 {
    let mut ranked: Vec<u32> = (0..logits.len() as u32).collect();
    let by_logit = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    if sampling.temperature <= 0.0 {
        return ranked.into_iter().min_by(by_logit).unwrap_or_default();
    }
    ranked.sort_by(by_logit);
    ranked.truncate(sampling.top_k.unwrap_or(usize::MAX).max(1));
    let highest = logits[ranked[0] as usize];
    let mut weights: Vec<f32> =
        ranked.iter().map(|id| ((logits[*id as usize] - highest) / sampling.temperature).exp()).collect();
    if let Some(top_p) = sampling.top_p {
        let share = top_p * weights.iter().sum::<f32>();
        let mut seen = 0.0;
        let kept = weights
            .iter()
            .take_while(|weight| {
                let more = seen < share;
                seen += **weight;
                more
            })
            .count();
        weights.truncate(kept.max(1));
    }
    let mut left = generator.uniform() * weights.iter().sum::<f32>();
    for (id, weight) in ranked.iter().zip(&weights) {
        left -= weight;
        if left < 0.0 {
            return *id;
        }
    }
    ranked[weights.len() - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greedy_takes_the_first_of_the_highest() {
        let token = choose(&[0.5, 2.0, 2.0, -1.0], &Sampling::greedy(1), &mut Philox::new(0, 0));
        assert_eq!(token, 1);
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
