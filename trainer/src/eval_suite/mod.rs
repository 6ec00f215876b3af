//! Evaluation as a suite of its own: what a model is asked, and the report on its answers.
//!
//! Responsible for: the questions, their hash, and putting a report together. A loaded model or a server answers them.
//! Must not depend on: training, run directories, where answers come from.

mod asking;
mod measuring;
mod retention;

use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};
use tonfall_datasets::{Examples, HeldOutPrompt, TermConcept};
use tonfall_durable::hex;
use tonfall_recipes::plan::{Address, StylePlan};
use tonfall_runs::evaluation::{FORMAT, Part, Report, Subject};

pub(crate) use asking::{all_losses, answer_all, losses, rendered, total};
pub(crate) use measuring::used_terms;
pub use retention::{RETENTION, passages};

use crate::error::TrainError;

/// Version of the measures. A change of what a measure counts increases it, so that old answers are measured anew and old
/// reports are not compared with new ones.
const MEASURES: u32 = 1;

/// Everything that a model is asked and measured by.
#[derive(Clone, Copy, Debug)]
pub struct EvalSuite<'a> {
    pub prompts: &'a [HeldOutPrompt],
    pub style: &'a [StylePlan],
    /// Concepts of term bases, whose terms are looked for in all answers.
    pub concepts: &'a [TermConcept],
    pub address: Address,
    /// Maximum tokens of an answer.
    pub max_new_tokens: usize,
    /// The eval split; empty without one.
    pub eval: &'a Examples,
    /// Passages of a general text; see [`passages`].
    pub retention: &'a Examples,
}

/// The answer of a model to a held-out prompt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    pub text: String,
    /// 0 if a server doesn't tell.
    pub tokens: u64,
    /// Whether the model ended the answer itself.
    pub ended: bool,
}

/// Everything that a model answered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    /// One per held-out prompt.
    pub answers: Vec<Answered>,
    /// For each example of the eval split: sum of the token losses, number of tokens with loss. `None` if the losses are
    /// not known, as from a server.
    pub eval: Option<Vec<Part>>,
    /// The same for each passage of the general text.
    pub retention: Option<Vec<Part>>,
}

impl EvalSuite<'_> {
    /// SHA-256 of everything that decides what is asked and measured, in hexadecimal.
    ///
    /// # Errors
    /// If an example is missing.
    pub fn questions(&self) -> Result<String, TrainError> {
        let prompts = self.prompts.iter().map(|prompt| {
            let messages: Vec<_> = prompt.messages.iter().map(|message| (&message.role, &message.content)).collect();
            json!([messages, prompt.expect, prompt.avoid, prompt.reference, prompt.language])
        });
        let rest = json!({
            "measures": MEASURES,
            "prompts": prompts.collect::<Vec<_>>(),
            "style": self.style,
            "concepts": self.concepts,
            "address": self.address,
            "max_new_tokens": self.max_new_tokens,
        });
        let mut digest = Sha256::new();
        digest.update(rest.to_string());
        for examples in [self.eval, self.retention] {
            digest.update((examples.len() as u64).to_le_bytes());
            for index in 0..examples.len() {
                let example = examples.get(index)?;
                digest.update((example.input_ids.len() as u64).to_le_bytes());
                example.input_ids.iter().for_each(|id| digest.update(id.to_le_bytes()));
                example.labels.iter().for_each(|label| digest.update(label.to_le_bytes()));
            }
        }
        Ok(hex(&digest.finalize()))
    }

    /// The report on a model, and notices about measures that it leaves out.
    ///
    /// # Errors
    /// If there are too many terms or a rule of style is faulty.
    pub fn report(
        &self,
        subject: Subject,
        created: String,
        asked: &Asked,
    ) -> Result<(Report, Vec<String>), TrainError> {
        let cases = measuring::cases(self, &asked.answers)?;
        let mut notices = Vec::new();
        let mut measures = measuring::of_losses(asked);
        measures.extend(measuring::of_answers(self, &cases, &mut notices)?);
        let answers = cases.iter().map(measuring::Case::answer).collect();
        let report = Report {
            format: FORMAT,
            tonfall: env!("CARGO_PKG_VERSION").to_owned(),
            created,
            subject,
            questions: self.questions()?,
            measures,
            answers,
        };
        Ok((report, notices))
    }
}
