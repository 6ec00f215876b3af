//! The evaluations of a training run: loss on the eval split, terms in the answers to held-out prompts.
//!
//! Responsible for: their results, which checkpoints and summaries hold. `eval_suite` asks and measures.
//! Must not depend on: optimization, run directories.

use serde::{Deserialize, Serialize};
use tonfall_datasets::HeldOutPrompt;

use crate::adherence::Adherence;
use crate::error::TrainError;
use crate::eval_suite::{Answered, used_terms};

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

/// The answers as samples, and the counts of their terms.
///
/// # Errors
/// If a prompt has too many terms.
pub(crate) fn adherence(
    prompts: &[HeldOutPrompt],
    answers: Vec<Answered>,
) -> Result<(Adherence, Vec<Sample>), TrainError> {
    let mut counts = Adherence::default();
    let mut samples = Vec::with_capacity(prompts.len());
    for (prompt, Answered { text, .. }) in prompts.iter().zip(answers) {
        let used = used_terms(prompt, &text)?;
        let with_use = |terms: &[String], used: &[bool], wanted: bool| -> Vec<String> {
            terms.iter().zip(used).filter(|(_, used)| **used == wanted).map(|(term, _)| term.clone()).collect()
        };
        let missing = with_use(&prompt.expect, &used.preferred, false);
        let violations = with_use(&prompt.avoid, &used.forbidden, true);
        counts.count(prompt.expect.len(), missing.len(), prompt.avoid.len(), violations.len());
        samples.push(Sample { prompt: prompt.text(), text, expected: prompt.expect.clone(), missing, violations });
    }
    Ok((counts, samples))
}
