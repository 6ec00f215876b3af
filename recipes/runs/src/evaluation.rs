//! Reports of evaluations, as plain data.
//!
//! Responsible for: the format of a report, which the run directory and the store keep, and the values of its measures.
//! Must not depend on: how answers and measures come about, verdicts.
//!
//! A measure keeps one [`Part`] per prompt or example. So two reports on the same questions can be compared part by
//! part, and a difference can be told from noise.

use std::path::Path;

use serde::{Deserialize, Serialize};
use tonfall_durable::{self as durable, DurableError};

use crate::RunInputs;
use crate::json_number;
use crate::run_dir::{RunDirError, read_text};
use crate::statistics;

/// Version of the format.
pub const FORMAT: u32 = 1;

/// A report of 10,000 prompts with long answers is smaller.
const MAX_BYTES: u64 = 1 << 28;

/// The evaluation of one model. Readers ignore unknown fields; a new field needs a default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`FORMAT`].
    pub format: u32,
    /// Version of tonfall that made the report.
    pub tonfall: String,
    /// UTC, to the second.
    pub created: String,
    pub subject: Subject,
    /// SHA-256 of everything that decides what is asked and measured: prompts, references, rules, texts, and the longest
    /// answer. The parts of two reports with the same value belong to the same questions.
    pub questions: String,
    pub measures: Vec<Measure>,
    /// The answers to the held-out prompts, in their order.
    pub answers: Vec<Answer>,
}

/// The model that was measured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// For people: the name of a run, a directory, or the URL of a server.
    pub name: String,
    /// Its base and tokenizer, and `adapter` if there is one.
    #[serde(default)]
    pub sha256: RunInputs,
}

/// A measured property.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measure {
    /// Such as `terms.preferred`. Gates name measures by it.
    pub name: String,
    pub better: Better,
    pub scale: Scale,
    /// One per prompt or example, in their order.
    pub parts: Vec<Part>,
    /// Bounds of the 95 % confidence interval of the value; `None` if the parts are too few.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<(f64, f64)>,
}

/// The share of one prompt or example in a measure.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Part {
    #[serde(with = "json_number")]
    pub numerator: f64,
    /// 0 if the measure does not apply to the prompt.
    #[serde(with = "json_number")]
    pub denominator: f64,
}

/// Which of two values is the better one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    Higher,
    Lower,
    /// A description, such as the mean length of a sentence.
    Neither,
}

/// How a value follows from the ratio of the sums of all parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    Ratio,
    /// `exp` of the ratio: a perplexity from the sum of the losses and the number of tokens.
    Exp,
}

/// The answer to a held-out prompt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The last message of the prompt.
    pub prompt: String,
    pub text: String,
    /// Tokens of the answer.
    pub tokens: u64,
    /// Whether the model ended the answer itself, before the longest allowed length.
    pub ended: bool,
    /// Terms that the answer should use, and the missing ones among them.
    #[serde(default)]
    pub expected: Vec<String>,
    #[serde(default)]
    pub missing: Vec<String>,
    /// Forbidden terms in the answer.
    #[serde(default)]
    pub violations: Vec<String>,
    /// How a person answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
}

impl Scale {
    /// The value of parts with these sums; `None` without a denominator.
    pub fn value(self, numerator: f64, denominator: f64) -> Option<f64> {
        let ratio = (denominator > 0.0).then(|| numerator / denominator)?;
        Some(match self {
            Self::Ratio => ratio,
            Self::Exp => ratio.exp(),
        })
    }
}

impl Measure {
    /// A measure with its interval.
    pub fn new(name: String, better: Better, scale: Scale, parts: Vec<Part>) -> Self {
        let interval = statistics::interval(&parts, scale);
        Self { name, better, scale, parts, interval }
    }

    /// `None` if the measure applies to no prompt. NaN if a part is NaN.
    pub fn value(&self) -> Option<f64> {
        let sum = |of: fn(&Part) -> f64| self.parts.iter().map(of).sum();
        self.scale.value(sum(|part| part.numerator), sum(|part| part.denominator))
    }
}

impl Report {
    /// The measure of this name.
    pub fn measure(&self, name: &str) -> Option<&Measure> {
        self.measures.iter().find(|measure| measure.name == name)
    }

    /// Writes the report durably.
    ///
    /// # Errors
    /// If the file can't be written.
    pub fn write(&self, path: &Path) -> Result<(), DurableError> {
        let text = serde_json::to_vec_pretty(self).expect("texts and numbers");
        durable::write_file(path, &text)
    }

    /// Reads a report.
    ///
    /// # Errors
    /// If the file can't be read, is damaged, or has a newer format.
    pub fn read(path: &Path) -> Result<Self, RunDirError> {
        let damaged = |why: String| RunDirError::Damaged { path: path.to_owned(), why };
        let text = read_text(path, MAX_BYTES)?;
        let format: Format = serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
        if format.format != FORMAT {
            return Err(RunDirError::Format { path: path.to_owned(), found: format.format });
        }
        serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))
    }
}

/// The first field to read: the others may differ.
#[derive(Deserialize)]
struct Format {
    format: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(parts: &[(f64, f64)], scale: Scale) -> Report {
        let parts =
            parts.iter().map(|(numerator, denominator)| Part { numerator: *numerator, denominator: *denominator });
        let measure =
            Measure { name: "loss".to_owned(), better: Better::Lower, scale, parts: parts.collect(), interval: None };
        Report {
            format: FORMAT,
            tonfall: "0.1.0".to_owned(),
            created: "2026-12-01T02:00:00Z".to_owned(),
            subject: Subject::default(),
            questions: "00".to_owned(),
            measures: vec![measure],
            answers: vec![Answer { prompt: "Hello?".to_owned(), ..Answer::default() }],
        }
    }

    #[test]
    fn a_value_is_the_ratio_of_sums() {
        let value = |parts: &[(f64, f64)], scale| report(parts, scale).measures[0].value();
        assert_eq!(value(&[(1.0, 1.0), (0.0, 3.0)], Scale::Ratio), Some(0.25));
        assert_eq!(value(&[(2.0, 2.0), (0.0, 0.0)], Scale::Exp), Some(1f64.exp()));
        assert_eq!(value(&[(0.0, 0.0)], Scale::Ratio), None);
        assert!(value(&[(f64::NAN, 1.0)], Scale::Ratio).is_some_and(f64::is_nan));
    }

    #[test]
    fn a_report_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("report.json");
        let written = report(&[(0.1, 1.0), (f64::INFINITY, 2.0)], Scale::Ratio);
        written.write(&path).expect("it is written");
        assert_eq!(Report::read(&path).expect("it is read"), written);
    }

    #[test]
    fn damaged_and_newer_reports_are_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("report.json");
        let newer = Report { format: FORMAT + 1, ..report(&[], Scale::Ratio) };
        newer.write(&path).expect("it is written");
        assert!(matches!(Report::read(&path), Err(RunDirError::Format { found: 2, .. })));
        durable::write_file(&path, b"{\"format\": 1}").expect("it is written");
        assert!(matches!(Report::read(&path), Err(RunDirError::Damaged { .. })));
        assert!(matches!(Report::read(&dir.path().join("none")), Err(RunDirError::Read { .. })));
    }
}
