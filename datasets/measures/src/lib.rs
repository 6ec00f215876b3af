//! Measures of answers: text → numbers.
//!
//! Responsible for: terminology, style, similarity to references, degeneration. A measure is a pure function from one answer
//! to one [`Part`].
//! Must not depend on: models, files, recipes, the reports that hold the parts.
//!
//! The value of a measure is the sum of all numerators by the sum of all denominators.

pub mod address;
pub mod bleu;
pub mod chrf;
pub mod degeneration;
pub mod language;
pub mod readability;
pub mod refusals;
pub mod rules;
pub mod sentences;
pub mod term_base;
pub mod terminology;

/// The share of one answer in a measure.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Part {
    pub numerator: f64,
    /// 0 if the measure does not apply to the answer.
    pub denominator: f64,
}

impl Part {
    /// The measure does not apply.
    pub const NONE: Self = Self { numerator: 0.0, denominator: 0.0 };

    /// `count` of `total`.
    pub fn of(count: usize, total: usize) -> Self {
        Self { numerator: count as f64, denominator: total as f64 }
    }

    /// Whether a property holds.
    pub fn is(holds: bool) -> Self {
        Self::of(usize::from(holds), 1)
    }

    /// The score of one answer. The value of the measure is the mean of the scores.
    pub fn score(score: f64) -> Self {
        Self { numerator: score, denominator: 1.0 }
    }
}
