//! Whether an artefact computes what the trained model computes.
//!
//! Responsible for: the generations and logits of the trained model, and comparing those of an artefact, which is opened as
//! a server would open it: with its own weights, tokenizer and chat template.
//! Must not depend on: how artefacts are written.

use std::path::Path;

use tonfall_adapters::export::{Content, Export, IMATRIX_FILE, read_gguf_adapter};
use tonfall_adapters::peft::{self, Adapter};
use tonfall_adapters::{BaseModel, Format};
use tonfall_datasets::{ChatTokenizer, Message, read_prompts};
use tonfall_trainer::{Compute, Sampling, Session};

use crate::diagnostics::{ExitCode, Failure, Result};
use crate::inputs;
use crate::progress::Reporter;
use crate::summary;
use crate::verification::{Check, Prompt, Turn, Verification, Verified};

/// Conversations for artefacts without held-out prompts.
const CONVERSATIONS: [&str; 4] = [
    "Write a short note to a customer about a late parcel.",
    "Schreibe eine kurze Antwort an eine Kundin, deren Paket sich verspätet.",
    "Explain in one sentence what a contract is.",
    "Nenne drei Dinge, die in jede Küche gehören.",
];

/// What the trained model computes for some prompts.
pub(crate) struct Reference {
    prompts: Vec<Prompt>,
    max_new_tokens: usize,
    end_tokens: Vec<u32>,
    /// For each prompt: logits of the positions that generate the answer, `[positions, vocab_size]`.
    trained: Vec<Vec<f32>>,
    base: Vec<Vec<f32>>,
    vocab_size: usize,
}

/// Default of the longest answer that is compared, in tokens.
pub(crate) const MAX_NEW_TOKENS: usize = 16;
/// At most this many held-out prompts are asked.
const MAX_PROMPTS: usize = 20;

/// The conversations to ask: the first held-out prompts, or built-in ones.
pub(crate) fn conversations(prompts: Option<&Path>) -> Result<Vec<Vec<Message>>> {
    let Some(path) = prompts else {
        return Ok(CONVERSATIONS.iter().map(|text| vec![Message::new("user", *text)]).collect());
    };
    Ok(read_prompts(path)?.into_iter().take(MAX_PROMPTS).map(|prompt| prompt.messages).collect())
}

/// The error for an export that doesn't compute what the trained model computes.
pub(crate) fn failure(export: &Export, failures: &[String], kept: &Path) -> Failure {
    let (name, place) = (export.name, summary::shown(kept));
    let message = format!(
        "the export {name} does not compute what the trained model computes:\n  {}\nhint: it was not published; it is kept \
         in {place}",
        failures.join("\n  ")
    );
    Failure::new(ExitCode::Refused, message)
}

impl Reference {
    /// Asks the base and, if there is one, the base with the adapter.
    pub(crate) fn measure(
        base: &BaseModel,
        adapter: Option<&Adapter>,
        tokenizer: &ChatTokenizer,
        conversations: &[Vec<Message>],
        max_new_tokens: usize,
        compute: &Compute,
        reporter: &mut Reporter,
    ) -> Result<Self> {
        let mut session = open(base, compute, reporter)?;
        if let Some(adapter) = adapter {
            session.attach(adapter)?;
        }
        let has_adapter = adapter.is_some();
        let (sampling, stop_ids) = (Sampling::greedy(max_new_tokens), tokenizer.stop_ids());
        let vocab_size = session.vocab_size();
        let mut reference = Self {
            prompts: Vec::new(),
            max_new_tokens,
            end_tokens: stop_ids.clone(),
            trained: Vec::new(),
            base: Vec::new(),
            vocab_size,
        };
        let rendered = conversations.iter().map(|messages| tokenizer.render_prompt(messages));
        let rendered = rendered.collect::<std::result::Result<Vec<_>, _>>()?;
        let mut asking = |done, total| reporter.phase("asking the trained model", done, total);
        let expected = session.answers(has_adapter, &rendered, &stop_ids, &sampling, &mut asking)?;
        let plain = match has_adapter {
            true => session.answers(false, &rendered, &stop_ids, &sampling, &mut asking)?,
            false => expected.clone(),
        };
        session.take_notices().iter().for_each(|notice| reporter.note(notice));
        let answers = expected.into_iter().zip(plain).map(|(expected, plain)| (expected.tokens, plain.tokens));
        for ((messages, tokens), (expected, plain)) in conversations.iter().zip(rendered).zip(answers) {
            reference.trained.push(answer_logits(&session, &tokens, &expected, has_adapter)?);
            if has_adapter {
                reference.base.push(answer_logits(&session, &tokens, &expected, false)?);
            }
            let turn = |message: &Message| Turn { role: message.role.clone(), content: message.content.clone() };
            reference.prompts.push(Prompt {
                messages: messages.iter().map(turn).collect(),
                text: tokenizer.render_text(messages, true)?,
                tokens,
                expected_text: tokenizer.decode(&expected)?,
                expected,
                base_text: tokenizer.decode(&plain)?,
                base: plain,
            });
        }
        reporter.clear();
        Ok(reference)
    }

    /// Checks everything in the directory of an export. `base` is the base of an adapter.
    pub(crate) fn check(
        &self,
        export: &Export,
        dir: &Path,
        base: &BaseModel,
        compute: &Compute,
        reporter: &mut Reporter,
    ) -> Result<Verification> {
        let names = match export.content {
            Content::Adapter | Content::Model => vec![".".to_owned()],
            Content::AdapterFiles | Content::ModelFiles => gguf_files(dir)?,
        };
        let mut artefacts = Vec::with_capacity(names.len());
        for artefact in names {
            let path = if artefact == "." { dir.to_owned() } else { dir.join(&artefact) };
            let checks = match export.content {
                Content::Adapter | Content::AdapterFiles => self.check_adapter(&path, base, compute, reporter)?,
                Content::Model | Content::ModelFiles => self.check_model(&path, compute, reporter)?,
            };
            artefacts.push(Verified { artefact, checks });
        }
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let (max_new_tokens, prompts) = (self.max_new_tokens, self.prompts.clone());
        let end_tokens = self.end_tokens.clone();
        Ok(Verification { version, max_new_tokens, end_tokens, artefacts, prompts })
    }

    /// Checks a complete model: a directory or a GGUF file.
    fn check_model(&self, path: &Path, compute: &Compute, reporter: &mut Reporter) -> Result<Vec<Check>> {
        let model = BaseModel::open(path)?;
        let tokenizer = inputs::tokenizer(&model, None)?;
        let mut checks = vec![self.template(&tokenizer)?];
        let session = open(&model, compute, reporter)?;
        let limit = model.formats().map(limit).fold(0.0, f64::max);
        checks.extend(self.logits(&session, false, limit, reporter)?);
        Ok(checks)
    }

    /// Checks an adapter on its base: a PEFT directory or a GGUF file.
    fn check_adapter(
        &self,
        path: &Path,
        base: &BaseModel,
        compute: &Compute,
        reporter: &mut Reporter,
    ) -> Result<Vec<Check>> {
        let adapter = if path.is_dir() { peft::read(path)? } else { read_gguf_adapter(path, base)? };
        let mut session = open(base, compute, reporter)?;
        session.attach(&adapter)?;
        self.logits(&session, true, limit(Format::F32), reporter)
    }

    /// The number of prompts that the artefact's own tokenizer and chat template turn into other tokens.
    fn template(&self, tokenizer: &ChatTokenizer) -> Result<Check> {
        let mut different = 0;
        for prompt in &self.prompts {
            let messages: Vec<Message> = prompt.messages.iter().map(Turn::message).collect();
            different += usize::from(tokenizer.render_prompt(&messages)? != prompt.tokens);
        }
        Ok(Check { name: "prompts with other tokens".to_owned(), value: different as f64, limit: 0.0 })
    }

    /// The divergence from the trained model and, for an adapter's artefacts, its ratio to that of the base.
    fn logits(&self, session: &Session, with_adapter: bool, limit: f64, reporter: &mut Reporter) -> Result<Vec<Check>> {
        let (mut divergence, mut of_base, mut positions) = (0.0, 0.0, 0usize);
        for (number, (prompt, trained)) in self.prompts.iter().zip(&self.trained).enumerate() {
            reporter.phase("asking the artefact", number as u64, self.prompts.len() as u64);
            let found = answer_logits(session, &prompt.tokens, &prompt.expected, with_adapter)?;
            divergence += divergences(trained, &found, self.vocab_size);
            of_base += self.base.get(number).map_or(0.0, |base| divergences(trained, base, self.vocab_size));
            positions += trained.len() / self.vocab_size;
        }
        reporter.clear();
        let mean = divergence / positions.max(1) as f64;
        let mut checks = vec![Check { name: "KL divergence from the trained model".to_owned(), value: mean, limit }];
        if !self.base.is_empty() {
            // The artefact of an adapter that was lost is as far from the trained model as the base.
            let name = "KL divergence, as a part of the base's".to_owned();
            checks.push(Check { name, value: divergence / of_base.max(1e-9), limit: 1.0 });
        }
        Ok(checks)
    }
}

/// The names of the GGUF files in a directory, sorted.
fn gguf_files(dir: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let is_model = |name: &String| name.ends_with(".gguf") && name != IMATRIX_FILE;
        names.extend(entry?.file_name().into_string().ok().filter(is_model));
    }
    names.sort();
    Ok(names)
}

fn open(model: &BaseModel, compute: &Compute, reporter: &mut Reporter) -> Result<Session> {
    let mut progress = |done, total| reporter.phase("loading the model", done, total);
    Ok(Session::load(model, inputs::as_stored(model), compute, &mut progress)?)
}

/// Logits of the last position of the prompt and of all positions of the answer but its last.
fn answer_logits(session: &Session, prompt: &[u32], answer: &[u32], with_adapter: bool) -> Result<Vec<f32>> {
    let ids = [prompt, &answer[..answer.len().saturating_sub(1)]].concat();
    let mut logits = session.logits(&ids, with_adapter)?;
    Ok(logits.split_off((prompt.len() - 1) * session.vocab_size()))
}

/// Σ KL(expected ‖ found) over positions, in nats.
fn divergences(expected: &[f32], found: &[f32], vocab_size: usize) -> f64 {
    let positions = expected.chunks_exact(vocab_size).zip(found.chunks_exact(vocab_size));
    positions.map(|(expected, found)| divergence(expected, found)).sum()
}

/// KL(softmax(expected) ‖ softmax(found)) in nats.
fn divergence(expected: &[f32], found: &[f32]) -> f64 {
    let log_sum = |logits: &[f32]| {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        f64::from(largest) + logits.iter().map(|logit| f64::from(logit - largest).exp()).sum::<f64>().ln()
    };
    let (of_expected, of_found) = (log_sum(expected), log_sum(found));
    let terms = expected.iter().zip(found).map(|(expected, found)| {
        let (p, q) = (f64::from(*expected) - of_expected, f64::from(*found) - of_found);
        p.exp() * (p - q)
    });
    terms.sum()
}

/// The largest mean divergence in nats that rounding to a format explains. The smallest models lose most. Lost or misplaced
/// weights give more than 1.
fn limit(format: Format) -> f64 {
    match format {
        Format::F32 => 1e-6,
        Format::F16 => 1e-4,
        Format::Bf16 | Format::Q8_0 => 1e-2,
        _ => 0.5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_divergence_of_equal_distributions_is_zero() {
        assert!(divergence(&[1.0, 2.0, 3.0], &[11.0, 12.0, 13.0]).abs() < 1e-12);
        // p = (0.5, 0.5), q = (0.25, 0.75): ½ ln 2 + ½ ln ⅔.
        let expected = 0.5 * 2f64.ln() + 0.5 * (2f64 / 3.0).ln();
        assert!((divergence(&[0.0, 0.0], &[0.0, 3f32.ln()]) - expected).abs() < 1e-7);
    }
}
