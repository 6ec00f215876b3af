//! Asking a loaded model: losses of examples and answers to prompts.
//!
//! Responsible for: both. Must not depend on: measures.

use tonfall_datasets::{Batch, ChatTokenizer, DataError, Examples, HeldOutPrompt};
use tonfall_runs::evaluation::Part;

use super::{Answered, EvalSuite};
use crate::error::TrainError;
use crate::generation::{Answer, Sampling};
use crate::micro_batch;
use crate::model::Decoder;

/// Characters of a prompt in an error.
const SHOWN: usize = 60;

/// For each micro-batch of `at_once` examples: sum of the token losses (natural logarithm), number of tokens with loss.
///
/// # Errors
/// If an example is missing.
pub(crate) fn losses(
    model: &Decoder,
    with_adapter: bool,
    examples: &Examples,
    at_once: usize,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Vec<Part>, TrainError> {
    let at_once = at_once.max(1);
    let mut parts = Vec::with_capacity(examples.len().div_ceil(at_once));
    for start in (0..examples.len()).step_by(at_once) {
        let end = examples.len().min(start + at_once);
        let batch = Batch::of(examples, start..end)?;
        let numerator = micro_batch::loss(model, &batch, with_adapter);
        parts.push(Part { numerator, denominator: batch.trained_tokens() as f64 });
        progress(end as u64, examples.len() as u64);
    }
    Ok(parts)
}

/// Mean loss and number of tokens with loss; `None` without tokens.
pub(crate) fn total(parts: &[Part]) -> Option<(f64, u64)> {
    let (sum, tokens) =
        parts.iter().fold((0.0, 0.0), |(sum, tokens), part| (sum + part.numerator, tokens + part.denominator));
    (tokens > 0.0).then_some((sum / tokens, tokens as u64))
}

/// The greedy answer to each prompt. `generate` continues rendered prompts, up to stop tokens.
///
/// # Errors
/// If a prompt can't be rendered or fills the context, or if the device fails.
pub(crate) fn answer_all(
    tokenizer: &ChatTokenizer,
    prompts: &[HeldOutPrompt],
    context: usize,
    max_new_tokens: usize,
    generate: impl FnOnce(&[Vec<u32>], &[u32], &Sampling) -> Result<Vec<Answer>, TrainError>,
) -> Result<Vec<Answered>, TrainError> {
    let rendered = rendered(tokenizer, prompts, context)?;
    let found = generate(&rendered, &tokenizer.stop_ids(), &Sampling::greedy(max_new_tokens))?;
    let answered = found.into_iter().map(|answer| {
        let text = tokenizer.decode(&answer.tokens).map_err(DataError::from)?.trim().to_owned();
        Ok(Answered { text, tokens: answer.tokens.len() as u64, ended: answer.ended })
    });
    answered.collect()
}

/// The token ids of prompts, up to the start of the answer.
///
/// # Errors
/// If a prompt can't be rendered, is empty, or leaves no token of the context for an answer.
pub(crate) fn rendered(
    tokenizer: &ChatTokenizer,
    prompts: &[HeldOutPrompt],
    context: usize,
) -> Result<Vec<Vec<u32>>, TrainError> {
    let rendered = prompts.iter().map(|prompt| {
        let ids = tokenizer.render_prompt(&prompt.messages)?;
        if ids.is_empty() || ids.len() >= context {
            let prompt = prompt.text().chars().take(SHOWN).collect();
            return Err(TrainError::HeldOutPrompt { prompt, tokens: ids.len(), context });
        }
        Ok(ids)
    });
    rendered.collect()
}

/// The losses of the eval split and of the general text, one part per example.
///
/// # Errors
/// As [`losses`].
pub(crate) fn all_losses(
    model: &Decoder,
    with_adapter: bool,
    suite: &EvalSuite<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<[Vec<Part>; 2], TrainError> {
    let [eval, retention] = [suite.eval.len() as u64, suite.retention.len() as u64];
    // One example at a time: each one has a part of its own.
    let mut of_eval = |done, _| progress(done, eval + retention);
    let first = losses(model, with_adapter, suite.eval, 1, &mut of_eval)?;
    let mut of_retention = |done, _| progress(eval + done, eval + retention);
    Ok([first, losses(model, with_adapter, suite.retention, 1, &mut of_retention)?])
}
