//! Whether a trained model is good enough to be published.
//!
//! Responsible for: [`judge`], which compares an evaluation report with the rules of a recipe, with the report of the base
//! model, and with that of the published adapter.
//! Must not depend on: how reports come about, files, the publishing itself.
//!
//! `over_base` and `over_published` must hold by more than noise: the lower confidence bound of the difference has to
//! reach the margin ([`statistics::lower_bound`]). A rule that can't be judged is not met. So a missing measure, a value without
//! parts, NaN, and reports on different questions are refusals with a reason.

use serde::{Deserialize, Serialize};
pub use tonfall_recipes::plan::GatePlan as Rule;

use crate::evaluation::{Better, Measure, Part, Report};
use crate::json_number;
use crate::statistics;

/// The result of [`judge`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    pub passed: bool,
    /// Why it did not pass; empty if it passed.
    pub reasons: Vec<String>,
    /// Each condition of each rule, in their order.
    #[serde(default)]
    pub conditions: Vec<Judged>,
}

/// What a condition compares the value with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    AtLeast,
    AtMost,
    OverBase,
    OverPublished,
}

/// One condition with its numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    pub measure: String,
    pub condition: Condition,
    /// The number of the rule.
    #[serde(with = "json_number")]
    pub required: f64,
    #[serde(default, with = "json_number::optional", skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// The value of the base or of the published adapter.
    #[serde(default, with = "json_number::optional", skip_serializing_if = "Option::is_none")]
    pub other: Option<f64>,
    /// How much better the value is than the other one: negative if it is worse.
    #[serde(default, with = "json_number::optional", skip_serializing_if = "Option::is_none")]
    pub difference: Option<f64>,
    /// Lower bound of the difference, with the confidence of the rule.
    #[serde(default, with = "json_number::optional", skip_serializing_if = "Option::is_none")]
    pub bound: Option<f64>,
    /// Of the rule.
    pub confidence: f64,
    pub passed: bool,
    /// Why it did not pass, or why there was nothing to compare with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Verdict {
    /// Whether the verdict follows from these rules.
    pub fn is_of(&self, rules: &[Rule]) -> bool {
        let judged = self.conditions.iter().map(|judged| {
            (judged.measure.as_str(), judged.condition, judged.required.to_bits(), judged.confidence.to_bits())
        });
        let asked = rules.iter().flat_map(|rule| {
            let of_rule = conditions_of(rule).into_iter();
            of_rule.map(|(condition, required)| {
                (rule.measure.as_str(), condition, required.to_bits(), rule.confidence.to_bits())
            })
        });
        judged.eq(asked)
    }
}

/// Judges a report. `base` is the report of the base model, `published` that of the adapter that is published now;
/// `None` if no adapter is published: then conditions on it are met.
pub fn judge(report: &Report, base: Option<&Report>, published: Option<&Report>, rules: &[Rule]) -> Verdict {
    let mut reasons: Vec<String> = report.measures.iter().filter_map(not_finite).collect();
    let mut conditions = Vec::new();
    for rule in rules {
        let of_rule = conditions_of(rule);
        if of_rule.is_empty() {
            reasons.push(format!("the rule for {} has no condition", rule.measure));
        }
        for (condition, required) in of_rule {
            let mut judged = Judged {
                measure: rule.measure.clone(),
                condition,
                required,
                value: None,
                other: None,
                difference: None,
                bound: None,
                confidence: rule.confidence,
                passed: false,
                reason: None,
            };
            let other = match condition {
                Condition::OverBase => Other::Report("the base model", base),
                Condition::OverPublished => Other::Report("the published adapter", published),
                Condition::AtLeast | Condition::AtMost => Other::Nothing,
            };
            match fill(&mut judged, report, &other) {
                Ok(note) => (judged.passed, judged.reason) = (true, note),
                Err(why) => {
                    let why = format!("{}: {why}", rule.measure);
                    if !reasons.contains(&why) {
                        reasons.push(why.clone());
                    }
                    judged.reason = Some(why);
                }
            }
            conditions.push(judged);
        }
    }
    Verdict { passed: reasons.is_empty(), reasons, conditions }
}

/// What a value is compared with besides the number of the rule.
enum Other<'a> {
    Nothing,
    Report(&'static str, Option<&'a Report>),
}

fn conditions_of(rule: &Rule) -> Vec<(Condition, f64)> {
    let all = [
        (Condition::AtLeast, rule.at_least),
        (Condition::AtMost, rule.at_most),
        (Condition::OverBase, rule.over_base),
        (Condition::OverPublished, rule.over_published),
    ];
    all.into_iter().filter_map(|(condition, number)| Some((condition, number?))).collect()
}

/// The reason if a measure of the report is NaN or infinite, whether or not a rule names it.
fn not_finite(measure: &Measure) -> Option<String> {
    let parts = measure.parts.iter().all(|part| part.numerator.is_finite() && part.denominator.is_finite());
    let value = measure.value().is_none_or(f64::is_finite);
    (!parts || !value).then(|| format!("{}: a value is NaN or infinite", measure.name))
}

/// Fills in the numbers. The error is the reason why the condition is not met; the note is why nothing was compared.
fn fill(judged: &mut Judged, report: &Report, other: &Other<'_>) -> Result<Option<String>, String> {
    let (measure, value) = measured(report, &judged.measure, "the evaluation")?;
    judged.value = Some(value);
    let required = judged.required;
    let (who, other) = match *other {
        Other::Report("the published adapter", None) => return Ok(Some("no adapter is published yet".to_owned())),
        Other::Report(who, None) => return Err(format!("there is no report of {who} to compare with")),
        Other::Report(who, Some(other)) => (who, other),
        Other::Nothing => {
            let (met, words) = match judged.condition {
                Condition::AtMost => (value <= required, "at most"),
                _ => (value >= required, "at least"),
            };
            return if met { Ok(None) } else { Err(format!("{} instead of {words} {required}", shown(value))) };
        }
    };
    let (found, other_value) = measured(other, &judged.measure, &format!("the report of {who}"))?;
    judged.other = Some(other_value);
    if other.questions != report.questions {
        return Err(format!("{who} was evaluated on other questions; evaluate it again"));
    }
    if (found.better, found.scale, found.parts.len()) != (measure.better, measure.scale, measure.parts.len()) {
        return Err(format!("{who} was measured in another way; evaluate it again"));
    }
    let sign = match measure.better {
        Better::Higher => 1.0,
        Better::Lower => -1.0,
        Better::Neither => return Err("the measure has no better and worse; use at_least or at_most".to_owned()),
    };
    let difference = sign * (value - other_value);
    judged.difference = Some(difference);
    let pairs: Vec<[Part; 2]> =
        measure.parts.iter().copied().zip(found.parts.iter().copied()).map(Into::into).collect();
    let bound = statistics::lower_bound(&pairs, measure.scale, sign, judged.confidence)?;
    judged.bound = Some(bound);
    // A difference of nothing is no improvement.
    let met = bound >= required && (required < 0.0 || bound > 0.0);
    let shown_bound = format!(
        "{} against {} of {who}: better by {}, with {} % confidence by {}",
        shown(value),
        shown(other_value),
        shown(difference),
        shown(100.0 * judged.confidence),
        shown(bound)
    );
    if met { Ok(None) } else { Err(format!("{shown_bound}, instead of {}", wanted(required))) }
}

fn wanted(required: f64) -> String {
    if required == 0.0 { "more than 0".to_owned() } else { format!("at least {required}") }
}

/// A measure and its finite value.
fn measured<'a>(report: &'a Report, name: &str, of: &str) -> Result<(&'a Measure, f64), String> {
    let Some(measure) = report.measure(name) else {
        let known: Vec<&str> = report.measures.iter().map(|measure| measure.name.as_str()).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        return Err(format!("{of} has no such measure; it has {known}"));
    };
    match measure.value() {
        None => Err(format!("{of} has no value: the measure applies to no prompt")),
        Some(value) if !value.is_finite() => Err(format!("in {of}, the value is {value}")),
        Some(value) => Ok((measure, value)),
    }
}

/// At most four digits after the point.
fn shown(value: f64) -> String {
    let text = format!("{value:.4}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

#[cfg(test)]
mod tests;
