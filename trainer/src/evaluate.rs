//! Evaluation: loss on held-out examples and adherence on held-out prompts.
//!
//! Responsible for: measuring a model, without a verdict.
//! Must not depend on: optimization, run directories.

use serde::{Deserialize, Serialize};
use tonfall_datasets::{Batch, ChatTokenizer, DataError, Examples, HeldOutPrompt};

use crate::adherence::{Adherence, used};
use crate::error::TrainError;
use crate::generation::{self, Sampling};
use crate::micro_batch;
use crate::model::Decoder;

/// The results of one evaluation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EvalReport {
    /// Mean loss per token with loss on the eval split; `None` without eval split.
    pub loss: Option<f64>,
    /// Tokens with loss in the eval split.
    pub tokens: u64,
    /// `None` without held-out prompts.
    pub adherence: Option<Adherence>,
    pub samples: Vec<Sample>,
}

/// A generation and the terms that it uses.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    pub prompt: String,
    pub text: String,
    pub expected: Vec<String>,
    /// Expected terms that the generation doesn't use.
    pub missing: Vec<String>,
    /// Forbidden terms that the generation uses.
    pub violations: Vec<String>,
}

/// Mean loss and number of tokens with loss over `examples`, `micro_batch_size` examples at a time; `None` without
/// examples.
///
/// # Errors
/// If an example is missing.
pub(crate) fn loss(
    model: &Decoder,
    examples: &Examples,
    micro_batch_size: usize,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Option<(f64, u64)>, TrainError> {
    let (mut sum, mut tokens) = (0.0, 0);
    for start in (0..examples.len()).step_by(micro_batch_size.max(1)) {
        let end = examples.len().min(start + micro_batch_size.max(1));
        let batch = Batch::of(examples, start..end)?;
        sum += micro_batch::loss(model, &batch, true);
        tokens += batch.trained_tokens() as u64;
        progress(end as u64, examples.len() as u64);
    }
    Ok((tokens > 0).then(|| (sum / tokens as f64, tokens)))
}

/// Generates greedily for every prompt and counts the used terms.
///
/// # Errors
/// If a prompt can't be rendered or is longer than the model's context.
pub(crate) fn adherence(
    model: &Decoder,
    tokenizer: &ChatTokenizer,
    prompts: &[HeldOutPrompt],
    max_new_tokens: usize,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(Adherence, Vec<Sample>), TrainError> {
    let rendered = prompts.iter().map(|prompt| tokenizer.render_prompt(&prompt.messages));
    let rendered = rendered.collect::<Result<Vec<_>, _>>()?;
    let sampling = Sampling::greedy(max_new_tokens);
    let answers = generation::answers(model, true, &rendered, &tokenizer.stop_ids(), &sampling, progress)?;
    let mut counts = Adherence::default();
    let mut samples = Vec::with_capacity(prompts.len());
    for (prompt, answer) in prompts.iter().zip(answers) {
        let text = tokenizer.decode(&answer.tokens).map_err(DataError::from)?.trim().to_owned();
        let missing = with_use(&text, &prompt.expect, false)?;
        let violations = with_use(&text, &prompt.avoid, true)?;
        counts.count(prompt.expect.len(), missing.len(), prompt.avoid.len(), violations.len());
        samples.push(Sample { prompt: prompt.text(), text, expected: prompt.expect.clone(), missing, violations });
    }
    Ok((counts, samples))
}

/// If `is_used`, the terms that `text` uses; otherwise, the terms that it doesn't use.
fn with_use(text: &str, terms: &[String], is_used: bool) -> Result<Vec<String>, TrainError> {
    let used = used(text, terms).map_err(DataError::from)?;
    Ok(terms.iter().zip(used).filter(|(_, used)| *used == is_used).map(|(term, _)| term.clone()).collect())
}
