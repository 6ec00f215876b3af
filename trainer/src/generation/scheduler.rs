//! Continuous batching: many prompts share the slots of an engine.
//!
//! Responsible for: which prompt has which slot, prefill in chunks, and one decoding pass for all slots in use. An answer
//! depends only on its own prompt: engines compute each row like a row alone, the chunks of a prompt depend only on its
//! length, and each prompt has its own random numbers.
//! Must not depend on: how an engine computes.

use tonfall_kernels::philox::Philox;

use super::sampling::{Chooser, NotFinite, Sampling};
use super::{Answer, stream};
use crate::error::TrainError;

/// Most tokens of a prompt in one pass.
pub(super) const CHUNK: usize = 256;

/// The next token of the sequence in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Next {
    pub slot: usize,
    pub token: u32,
    /// Tokens before it.
    pub position: usize,
}

/// A model that continues one sequence per slot.
pub(super) trait Engine {
    /// Puts tokens `start ..` of a prompt, at most [`CHUNK`], into a slot. Tokens before `start` are in the slot already.
    /// If they are the `last` ones of the prompt, row 0 of the logits is the prediction after them.
    fn prefill(&mut self, slot: usize, start: usize, tokens: &[u32], last: bool) -> Result<(), TrainError>;

    /// Appends one token to each of some slots. Row `i` of the logits is the prediction after `next[i]`.
    fn decode(&mut self, next: &[Next]) -> Result<(), TrainError>;

    /// A row of the latest logits, `[vocab_size]`.
    fn logits(&self, row: usize) -> &[f32];
}

/// The prompts and the end of their answers.
pub(super) struct Task<'a> {
    pub prompts: &'a [&'a [u32]],
    pub stop_ids: &'a [u32],
    pub sampling: &'a Sampling,
    /// Tokens of the model's context.
    pub context: usize,
}

/// What the caller learns during the work.
pub(super) struct Watch<'a> {
    /// Receives the index of a prompt and a token of its answer.
    pub on_token: &'a mut dyn FnMut(usize, u32),
    /// Receives the number of answered prompts and of all prompts.
    pub progress: &'a mut dyn FnMut(u64, u64),
}

/// The prompt in a slot.
struct Running {
    prompt: usize,
    slot: usize,
    generator: Philox,
    tokens: Vec<u32>,
}

/// Answers all prompts with `slots` slots of an engine, the longest prompts first.
///
/// # Errors
/// If the engine fails, or logits are not finite.
pub(super) fn run(
    engine: &mut dyn Engine,
    slots: usize,
    task: &Task<'_>,
    watch: &mut Watch<'_>,
) -> Result<Vec<Answer>, TrainError> {
    let mut queue: Vec<usize> = (0..task.prompts.len()).collect();
    // The last of the queue is next.
    queue.sort_by_key(|prompt| (task.prompts[*prompt].len(), std::cmp::Reverse(*prompt)));
    let mut free: Vec<usize> = (0..slots.max(1)).rev().collect();
    let mut running: Vec<Running> = Vec::with_capacity(free.len());
    let mut answers = vec![Answer::default(); task.prompts.len()];
    let mut next: Vec<Next> = Vec::with_capacity(free.len());
    let mut chooser = Chooser::default();
    let (mut answered, total) = (0, task.prompts.len() as u64);
    let mut finish = |running: Running, ended: bool, free: &mut Vec<usize>, watch: &mut Watch<'_>| {
        answers[running.prompt] = Answer { tokens: running.tokens, ended };
        free.push(running.slot);
        answered += 1;
        (watch.progress)(answered, total);
    };
    loop {
        while let Some(slot) = free.pop() {
            let Some(prompt) = queue.pop() else {
                free.push(slot);
                break;
            };
            let mut started = Running {
                prompt,
                slot,
                generator: Philox::new(task.sampling.seed, stream(task.prompts, prompt)),
                tokens: Vec::new(),
            };
            if task.limit(prompt) == 0 {
                finish(started, false, &mut free, watch);
                continue;
            }
            prefill(engine, slot, task.prompts[prompt])?;
            match task.advance(&mut started, engine.logits(0), &mut chooser, watch)? {
                Some(ended) => finish(started, ended, &mut free, watch),
                None => running.push(started),
            }
        }
        if running.is_empty() {
            return Ok(answers);
        }
        next.clear();
        next.extend(running.iter().filter_map(|running| {
            let token = *running.tokens.last()?;
            let position = task.prompts[running.prompt].len() + running.tokens.len() - 1;
            Some(Next { slot: running.slot, token, position })
        }));
        engine.decode(&next)?;
        let mut row = 0;
        let mut at = 0;
        while at < running.len() {
            let ended = task.advance(&mut running[at], engine.logits(row), &mut chooser, watch)?;
            row += 1;
            match ended {
                Some(ended) => finish(running.remove(at), ended, &mut free, watch),
                None => at += 1,
            }
        }
    }
}

fn prefill(engine: &mut dyn Engine, slot: usize, prompt: &[u32]) -> Result<(), TrainError> {
    for start in (0..prompt.len()).step_by(CHUNK) {
        let end = prompt.len().min(start + CHUNK);
        engine.prefill(slot, start, &prompt[start..end], end == prompt.len())?;
    }
    Ok(())
}

impl Task<'_> {
    /// Most tokens of an answer.
    fn limit(&self, prompt: usize) -> usize {
        self.sampling.max_new_tokens.min(self.context - self.prompts[prompt].len())
    }

    /// Adds the token that follows. If the answer is complete, returns whether a stop token ended it.
    fn advance(
        &self,
        running: &mut Running,
        logits: &[f32],
        chooser: &mut Chooser,
        watch: &mut Watch<'_>,
    ) -> Result<Option<bool>, TrainError> {
        let token =
            chooser.choose(logits, self.sampling, &mut running.generator).map_err(|NotFinite { id, value }| {
                let prompt = match self.prompts.len() {
                    1 => "the prompt".to_owned(),
                    count => format!("prompt {} of {count}", running.prompt + 1),
                };
                let position = self.prompts[running.prompt].len() + running.tokens.len();
                TrainError::LogitsNotFinite { prompt, position, id, value }
            })?;
        if self.stop_ids.contains(&token) {
            return Ok(Some(true));
        }
        running.tokens.push(token);
        (watch.on_token)(running.prompt, token);
        Ok((running.tokens.len() == self.limit(running.prompt)).then_some(false))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const VOCABULARY: usize = 24;

    /// A model whose logits are a hash of the whole sequence. It checks that slots are used as the trait demands.
    #[derive(Default)]
    struct Toy {
        slots: BTreeMap<usize, Vec<u32>>,
        logits: Vec<f32>,
        passes: usize,
        most_slots: usize,
    }

    impl Toy {
        fn predict(&mut self, slot: usize) {
            let hash = self.slots[&slot]
                .iter()
                .fold(7_u64, |hash, id| (hash ^ u64::from(*id)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23));
            let logit = |id: u64| (hash.wrapping_mul(2 * id + 1) >> 40) as f32 / 4e6;
            self.logits.extend((0..VOCABULARY as u64).map(logit));
        }
    }

    impl Engine for Toy {
        fn prefill(&mut self, slot: usize, start: usize, tokens: &[u32], last: bool) -> Result<(), TrainError> {
            assert!(!tokens.is_empty() && tokens.len() <= CHUNK && (last || tokens.len() == CHUNK));
            let sequence = self.slots.entry(slot).or_default();
            sequence.truncate(start);
            assert_eq!(sequence.len(), start, "a chunk follows the one before");
            sequence.extend(tokens);
            self.logits.clear();
            if last {
                self.predict(slot);
            }
            Ok(())
        }

        fn decode(&mut self, next: &[Next]) -> Result<(), TrainError> {
            self.passes += 1;
            self.most_slots = self.most_slots.max(next.len());
            self.logits.clear();
            for Next { slot, token, position } in next {
                let sequence = self.slots.get_mut(slot).expect("a prefilled slot");
                assert_eq!(sequence.len(), *position);
                sequence.push(*token);
                self.predict(*slot);
            }
            Ok(())
        }

        fn logits(&self, row: usize) -> &[f32] {
            &self.logits[row * VOCABULARY..][..VOCABULARY]
        }
    }

    fn answers(slots: usize, prompts: &[Vec<u32>], sampling: &Sampling) -> (Vec<Answer>, Toy) {
        let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
        let task = Task { prompts: &prompts, stop_ids: &[3, 11], sampling, context: 800 };
        let (mut toy, mut last, mut tokens) = (Toy::default(), 0, vec![Vec::new(); prompts.len()]);
        let mut watch = Watch {
            on_token: &mut |prompt, token| tokens[prompt].push(token),
            progress: &mut |done, total| {
                assert!(done == last + 1 && total == prompts.len() as u64);
                last = done;
            },
        };
        let answers = run(&mut toy, slots, &task, &mut watch).expect("answers");
        assert_eq!(last, prompts.len() as u64);
        assert!(answers.iter().zip(&tokens).all(|(answer, tokens)| answer.tokens == *tokens));
        (answers, toy)
    }

    proptest! {
        #[test]
        fn answers_depend_on_their_prompt_alone(
            lengths in prop::collection::vec(prop_oneof![1_usize..20, 200_usize..799], 1..12),
            slots in 1_usize..17,
            turn in 0_usize..12,
            temperature in prop_oneof![Just(0.0_f32), Just(1.0)],
            seed in 0_u64..50,
        ) {
            let sampling = Sampling { temperature, seed, ..Sampling::greedy(30) };
            let prompt = |(number, length): (usize, &usize)| -> Vec<u32> {
                (0..*length).map(|i| (i * (number + 2) % VOCABULARY) as u32).collect()
            };
            // Numbers differ, so that no prompt occurs twice: see the test below.
            let prompts: Vec<Vec<u32>> = lengths.iter().enumerate().map(|(number, length)| {
                [vec![100 + number as u32], prompt((number, length))].concat()
            }).collect();
            let (together, toy) = answers(slots, &prompts, &sampling);
            prop_assert!(toy.slots.len() <= slots && toy.most_slots <= slots);
            for (prompt, answer) in prompts.iter().zip(&together) {
                prop_assert_eq!(&answers(1, std::slice::from_ref(prompt), &sampling).0[0], answer);
            }
            let mut turned = prompts.clone();
            turned.rotate_left(turn % prompts.len());
            let mut expected = together;
            expected.rotate_left(turn % prompts.len());
            prop_assert_eq!(answers(slots, &turned, &sampling).0, expected);
        }
    }

    #[test]
    fn slots_share_passes_and_are_reused() {
        let prompts: Vec<Vec<u32>> = (0..20).map(|number| vec![number; 5 + number as usize]).collect();
        let (alone, one) = answers(1, &prompts, &Sampling::greedy(12));
        let (together, eight) = answers(8, &prompts, &Sampling::greedy(12));
        assert_eq!(alone, together);
        assert!(one.most_slots == 1 && eight.most_slots == 8, "{}", eight.most_slots);
        assert!(eight.passes * 3 < one.passes, "{} passes instead of {}", eight.passes, one.passes);
    }

    #[test]
    fn answers_end_at_a_stop_token_the_limit_or_the_context() {
        let prompts: Vec<Vec<u32>> = (0..40).map(|number| vec![number; 1 + 20 * number as usize]).collect();
        let (answers, _) = answers(4, &prompts, &Sampling::greedy(12));
        for (prompt, answer) in prompts.iter().zip(&answers) {
            let limit = 12.min(800 - prompt.len());
            assert!(answer.ended != (answer.tokens.len() == limit) || answer.tokens.len() < limit, "{answer:?}");
            assert!(!answer.tokens.iter().any(|token| [3, 11].contains(token)));
        }
        assert!(answers.iter().any(|answer| answer.ended) && answers.iter().any(|answer| !answer.ended));
        let none = super::tests::answers(4, &prompts, &Sampling::greedy(0)).0;
        assert!(none.iter().all(|answer| *answer == Answer::default()));
    }

    #[test]
    fn a_prompt_that_occurs_twice_has_two_different_samples() {
        let sampling = Sampling { temperature: 1.0, ..Sampling::greedy(20) };
        let prompts = vec![vec![5, 6, 7], vec![1, 2], vec![5, 6, 7]];
        let (answers, _) = answers(2, &prompts, &sampling);
        assert_ne!(answers[0], answers[2]);
    }

    #[test]
    fn logits_that_are_not_finite_are_named() {
        struct Broken(Vec<f32>);
        impl Engine for Broken {
            fn prefill(&mut self, _: usize, _: usize, _: &[u32], _: bool) -> Result<(), TrainError> {
                Ok(())
            }
            fn decode(&mut self, _: &[Next]) -> Result<(), TrainError> {
                self.0[5] = f32::NAN;
                Ok(())
            }
            fn logits(&self, _: usize) -> &[f32] {
                &self.0
            }
        }
        let prompts: [&[u32]; 2] = [&[1, 2, 3], &[4]];
        let sampling = Sampling::greedy(4);
        let task = Task { prompts: &prompts, stop_ids: &[], sampling: &sampling, context: 100 };
        let mut watch = Watch { on_token: &mut |_, _| (), progress: &mut |_, _| () };
        let fault = run(&mut Broken(vec![0.0; 8]), 2, &task, &mut watch).expect_err("a NaN").to_string();
        assert!(fault.contains("prompt 1 of 2") && fault.contains("NaN") && fault.contains("token id 5"), "{fault}");
    }
}
