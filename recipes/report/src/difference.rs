//! Differences of measures.
//!
//! Responsible for: the difference of two models in one measure, its confidence interval, and which model is better.
//! Must not depend on: HTML, the rules of a gate.

use tonfall_runs::evaluation::{Better, Measure, Part};
use tonfall_runs::statistics;

/// Fewer parts give no interval: the normal approximation needs more.
const LEAST_PARTS: usize = 10;
/// Two-sided 95 % quantile of the normal distribution.
const QUANTILE: f64 = 1.959_963_984_540_054;

/// The difference of two values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Difference {
    pub(crate) value: f64,
    /// 95 % confidence interval; `None` if the parts are too few.
    pub(crate) interval: Option<(f64, f64)>,
}

/// Which model is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    Better,
    Worse,
    /// The interval contains zero.
    Unclear,
    /// The value is better or worse, but without an interval it may be noise.
    UncertainlyBetter,
    UncertainlyWorse,
    Same,
    /// The measure is a description: neither value is the better one.
    Neither,
}

impl Judgement {
    /// Of a difference, new minus old.
    pub(crate) fn of(better: Better, difference: Difference) -> Option<Self> {
        let Difference { value, interval } = difference;
        let by_sign = Self::by_sign(better, value)?;
        Some(match (by_sign, interval) {
            (Self::Better | Self::Worse, Some((low, high))) if low <= 0.0 && high >= 0.0 => Self::Unclear,
            (Self::Better, None) => Self::UncertainlyBetter,
            (Self::Worse, None) => Self::UncertainlyWorse,
            _ => by_sign,
        })
    }

    /// Of a difference whose noise is not known; `None` if it is NaN.
    pub(crate) fn by_sign(better: Better, value: f64) -> Option<Self> {
        let is_better = match better {
            _ if value.is_nan() => return None,
            _ if value == 0.0 => return Some(Self::Same),
            Better::Neither => return Some(Self::Neither),
            Better::Higher => value > 0.0,
            Better::Lower => value < 0.0,
        };
        Some(if is_better { Self::Better } else { Self::Worse })
    }

    /// In words, with a sign.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Better => "✓ better",
            Self::Worse => "✗ worse",
            Self::Unclear => "≈ no clear difference",
            Self::UncertainlyBetter => "≈ better, uncertain",
            Self::UncertainlyWorse => "≈ worse, uncertain",
            Self::Same => "= same",
            Self::Neither => "· differs",
        }
    }

    /// The class of the style sheet.
    pub(crate) fn class(self) -> &'static str {
        match self {
            Self::Better => "good",
            Self::Worse => "bad",
            _ => "faint",
        }
    }
}

/// The difference `new - old` in a measure; `None` if one of them has no value. Parts must belong to the same questions
/// to be paired; otherwise there is no interval.
pub(crate) fn between(old: &Measure, new: &Measure, same_questions: bool) -> Option<Difference> {
    let value = new.value()? - old.value()?;
    let paired = same_questions && old.parts.len() == new.parts.len() && old.scale == new.scale;
    Some(Difference { value, interval: paired.then(|| interval(old, new)).flatten() })
}

/// The interval of the normal approximation.
fn interval(old: &Measure, new: &Measure) -> Option<(f64, f64)> {
    let pairs: Vec<[Part; 2]> = new.parts.iter().zip(&old.parts).map(|(new, old)| [*new, *old]).collect();
    let applies = |pair: &&[Part; 2]| pair.iter().any(|part| part.denominator > 0.0);
    let count = pairs.iter().filter(applies).count();
    if count < LEAST_PARTS {
        return None;
    }
    let statistics::Difference { value, error } = statistics::Difference::of(&pairs, new.scale, count)?;
    let half = QUANTILE * error;
    half.is_finite().then_some((value - half, value + half))
}

#[cfg(test)]
mod tests {
    use tonfall_runs::evaluation::Scale;

    use super::*;

    fn measure(parts: impl IntoIterator<Item = (f64, f64)>, scale: Scale) -> Measure {
        let parts = parts.into_iter().map(|(numerator, denominator)| Part { numerator, denominator }).collect();
        Measure { name: "m".to_owned(), better: Better::Higher, scale, parts, interval: None }
    }

    #[test]
    fn the_interval_is_that_of_paired_means() {
        // With equal denominators it is the interval of the mean of the differences.
        let (old, new) =
            ([1.0, 2.0, 4.0, 3.0, 2.0, 1.0, 0.0, 5.0, 2.0, 2.0], [2.0, 2.0, 5.0, 3.0, 4.0, 1.0, 1.0, 5.0, 1.0, 4.0]);
        let difference = |scale| {
            let of = |values: [f64; 10]| measure(values.map(|value| (value, 1.0)), scale);
            between(&of(old), &of(new), true).expect("both have values")
        };
        let found = difference(Scale::Ratio);
        // Differences 1 0 1 0 2 0 1 0 -1 2: mean 0.6, standard deviation 0.9661, of the mean 0.3055.
        let (low, high) = found.interval.expect("ten parts");
        assert!((found.value - 0.6).abs() < 1e-12);
        assert!((low - 0.001_22).abs() < 1e-4 && (high - 1.198_78).abs() < 1e-4, "{low} {high}");
        assert!(difference(Scale::Exp).interval.is_some_and(|(low, high)| low < high));
    }

    #[test]
    fn other_questions_and_few_parts_give_no_interval() {
        let many = |value: f64| measure((0..12).map(|_| (value, 2.0)), Scale::Ratio);
        assert_eq!(between(&many(1.0), &many(2.0), false).map(|d| (d.value, d.interval)), Some((0.5, None)));
        assert!(between(&many(1.0), &many(2.0), true).is_some_and(|d| d.interval.is_some()));
        let few = |value: f64| measure((0..9).map(|_| (value, 2.0)), Scale::Ratio);
        assert_eq!(between(&few(1.0), &few(2.0), true).and_then(|d| d.interval), None);
        // Only nine of twelve parts apply.
        let idle = |value: f64| measure((0..12).map(|at| (value, f64::from(u8::from(at < 9)))), Scale::Ratio);
        assert_eq!(between(&idle(1.0), &idle(2.0), true).and_then(|d| d.interval), None);
        let nothing = measure([(0.0, 0.0)], Scale::Ratio);
        assert_eq!(between(&nothing, &many(1.0), true), None);
    }

    #[test]
    fn a_difference_is_judged_by_its_direction_and_its_interval() {
        let judged = |better, value, interval| Judgement::of(better, Difference { value, interval });
        assert_eq!(judged(Better::Higher, 0.1, None), Some(Judgement::UncertainlyBetter));
        assert_eq!(judged(Better::Lower, 0.1, Some((0.01, 0.2))), Some(Judgement::Worse));
        assert_eq!(judged(Better::Lower, -0.1, Some((-0.2, -0.01))), Some(Judgement::Better));
        assert_eq!(judged(Better::Lower, -0.1, Some((-0.2, 0.0))), Some(Judgement::Unclear));
        assert_eq!(judged(Better::Neither, -0.1, None), Some(Judgement::Neither));
        assert_eq!(judged(Better::Higher, 0.0, None), Some(Judgement::Same));
        assert_eq!(judged(Better::Lower, 0.1, None), Some(Judgement::UncertainlyWorse));
        assert_eq!(judged(Better::Higher, f64::NAN, None), None);
        assert_eq!(Judgement::by_sign(Better::Lower, 0.1), Some(Judgement::Worse));
    }
}
