//! Asking a loaded model: losses of examples and answers to prompts.
//!
//! Responsible for: both. Must not depend on: measures.

use tonfall_datasets::{Batch, ChatTokenizer, DataError, Examples, HeldOutPrompt};
use tonfall_runs::evaluation::Part;
use tonfall_runs::events::Phase;

use super::{Answered, Asked, EvalSuite};
use crate::error::TrainError;
use crate::generation::{self, Sampling};
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

/// Generates greedily for each prompt.
///
/// # Errors
/// If a prompt can't be rendered or fills the context, or if the device fails.
pub(crate) fn answer_all(
    model: &Decoder,
    with_adapter: bool,
    tokenizer: &ChatTokenizer,
    prompts: &[HeldOutPrompt],
    max_new_tokens: usize,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Vec<Answered>, TrainError> {
    let rendered = rendered(tokenizer, prompts, model.description.max_position_embeddings)?;
    let sampling = Sampling::greedy(max_new_tokens);
    let found = generation::answers(model, with_adapter, &rendered, &tokenizer.stop_ids(), &sampling, progress)?;
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

/// Asks all questions of a suite.
///
/// # Errors
/// As [`answer_all`].
pub(crate) fn ask(
    model: &Decoder,
    with_adapter: bool,
    tokenizer: &ChatTokenizer,
    suite: &EvalSuite<'_>,
    progress: &mut dyn FnMut(Phase, u64, u64),
) -> Result<Asked, TrainError> {
    let examples = [suite.eval, suite.retention];
    let total = examples.iter().map(|examples| examples.len() as u64).sum();
    let mut before = 0;
    let mut of_examples = |examples: &Examples| {
        // One example at a time: each one has a part of its own.
        let mut evaluating = |done, _| progress(Phase::Evaluating, before + done, total);
        let parts = losses(model, with_adapter, examples, 1, &mut evaluating)?;
        before += examples.len() as u64;
        Ok::<_, TrainError>(Some(parts))
    };
    let (eval, retention) = (of_examples(suite.eval)?, of_examples(suite.retention)?);
    let mut generating = |done, total| progress(Phase::Generating, done, total);
    let limit = suite.max_new_tokens;
    let answers = answer_all(model, with_adapter, tokenizer, suite.prompts, limit, &mut generating)?;
    Ok(Asked { answers, eval, retention })
}
