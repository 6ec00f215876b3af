//! Axes.
//!
//! Responsible for: mapping values to positions on linear and logarithmic axes, and labels.
//! Must not depend on: characters, terminals.

use crate::numbers::{duration, measure, short};

/// Larger values count as infinite, because their differences may overflow.
const LARGEST: f64 = 1e30;
/// Smaller ranges count as constant.
const FLAT: f64 = 1e-12;

/// Height of an axis that starts at zero, relative to its maximum value.
const ROOM: f64 = 1.2;

/// Format of the labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Labels {
    Measure,
    Count,
    Time,
    Bytes,
}

/// A label and its position, from 0 to 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Tick {
    pub position: f64,
    pub label: String,
}

/// An axis from `low` to `high`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    low: f64,
    high: f64,
    log: bool,
    labels: Labels,
}

impl Scale {
    /// An axis over a range. An empty range is widened; an unusable range is replaced with 0 to 1. A logarithmic axis
    /// without positive values becomes linear.
    pub fn new(low: f64, high: f64, log: bool, labels: Labels) -> Self {
        let usable =
            low.is_finite() && high.is_finite() && low.abs() <= LARGEST && high.abs() <= LARGEST && low <= high;
        let (low, high) = if usable { (low, high) } else { (0.0, 1.0) };
        let log = log && low > 0.0;
        let flat = high - low <= FLAT * high.abs().max(low.abs()).max(FLAT);
        let (low, high) = match (flat, log) {
            (false, _) => (low, high),
            (true, true) => (low / 2.0, high * 2.0),
            (true, false) if low == 0.0 => (0.0, 1.0),
            (true, false) => (low - low.abs() / 10.0, high + high.abs() / 10.0),
        };
        Self { low, high, log, labels }
    }

    /// The same axis starting at zero, with some space above, if it is linear and all values are positive.
    pub fn down_to_zero(self) -> Self {
        if self.log || self.low < 0.0 { self } else { Self { low: 0.0, high: self.high * ROOM, ..self } }
    }

    /// The lower end.
    pub fn low(&self) -> f64 {
        self.low
    }

    /// The upper end.
    pub fn high(&self) -> f64 {
        self.high
    }

    fn unit(&self, value: f64) -> f64 {
        match self.log {
            true => (value.ln() - self.low.ln()) / (self.high.ln() - self.low.ln()),
            false => (value - self.low) / (self.high - self.low),
        }
    }

    /// Position from 0 to 1, clamped to the edges. `None` for values without a position: NaN, too large, or not
    /// positive on a logarithmic axis.
    pub fn position(&self, value: f64) -> Option<f64> {
        let placed = value.abs() <= LARGEST && !(self.log && value <= 0.0);
        placed.then(|| self.unit(value).clamp(0.0, 1.0)).filter(|position| position.is_finite())
    }

    /// Position from 0 to 1, or `None` outside.
    pub fn inside(&self, value: f64) -> Option<f64> {
        (self.low..=self.high).contains(&value).then(|| self.position(value)).flatten()
    }

    /// About `count` labels at round values.
    pub fn ticks(&self, count: usize) -> Vec<Tick> {
        let decades = if self.log { (self.high / self.low).log10() } else { 0.0 };
        let values = match decades >= 2.0 {
            true => self.decades(count, decades),
            false => {
                let values = self.round_values(count);
                // With fewer than two values there is no distance between labels.
                if values.len() < 2 { self.round_values(2 * count) } else { values }
            }
        };
        let label = |value: f64| match self.labels {
            Labels::Measure => measure(value),
            Labels::Count => short(value),
            Labels::Time => duration(value),
            Labels::Bytes => crate::numbers::bytes(value),
        };
        let ticks = values.into_iter().filter_map(|value| {
            let value = if value.abs() < (self.high - self.low) * 1e-9 { 0.0 } else { value };
            Some(Tick { position: self.position(value)?, label: label(value) })
        });
        ticks.collect()
    }

    fn decades(&self, count: usize, decades: f64) -> Vec<f64> {
        let every = (decades / count.max(1) as f64).ceil().max(1.0);
        let first = self.low.log10().ceil();
        let all = (0..=(decades / every) as i32 + 1).map(|index| 10f64.powf(first + f64::from(index) * every));
        all.filter(|value| (self.low..=self.high).contains(value)).collect()
    }

    fn round_values(&self, count: usize) -> Vec<f64> {
        let step = self.round_step((self.high - self.low) / count.max(1) as f64);
        if !(step.is_finite() && step > 0.0) {
            return Vec::new();
        }
        let first = (self.low / step).ceil();
        // Far from zero, rounding may make the step zero.
        let all = (0..=2 * count as i32 + 2).map(|index| (first + f64::from(index)) * step);
        all.take_while(|value| *value <= self.high + step * 1e-9).collect()
    }

    fn round_step(&self, rough: f64) -> f64 {
        if self.labels == Labels::Time {
            const STEPS: [f64; 17] = [
                1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 7200.0, 14_400.0,
                21_600.0, 43_200.0,
            ];
            let fitting = STEPS.into_iter().find(|step| *step >= rough);
            return fitting.unwrap_or_else(|| 86_400.0 * round_up((rough / 86_400.0).max(1.0)));
        }
        if self.labels == Labels::Bytes {
            return rough.log2().ceil().exp2();
        }
        let step = round_up(rough);
        // Steps and tokens are integers.
        if self.labels == Labels::Count && self.high >= 2.0 { step.max(1.0) } else { step }
    }
}

/// The next of 1, 2, 5 times a power of ten.
fn round_up(rough: f64) -> f64 {
    let power = 10f64.powf(rough.log10().floor());
    let factor = rough / power;
    let round = [1.0, 2.0, 5.0].into_iter().find(|round| *round >= factor - 1e-9).unwrap_or(10.0);
    round * power
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels(scale: Scale, count: usize) -> Vec<String> {
        scale.ticks(count).into_iter().map(|tick| tick.label).collect()
    }

    #[test]
    fn labels_are_round() {
        assert_eq!(labels(Scale::new(0.0, 2000.0, false, Labels::Count), 4), ["0", "500", "1000", "1500", "2000"]);
        assert_eq!(labels(Scale::new(0.413, 2.61, false, Labels::Measure), 3), ["1.000", "2.000"]);
        assert_eq!(labels(Scale::new(1.35, 2.91, false, Labels::Measure), 3), ["1.500", "2.000", "2.500"]);
        assert_eq!(labels(Scale::new(0.0, 5400.0, false, Labels::Time), 3), ["0s", "30m 00s", "1h 00m", "1h 30m"]);
        let memory = Scale::new(0.0, 9e8, false, Labels::Bytes);
        assert_eq!(labels(memory, 3), ["0 B", "512 MiB"]);
        assert_eq!(labels(memory, 4), ["0 B", "256 MiB", "512 MiB", "768 MiB"]);
        assert_eq!(
            labels(Scale::new(0.001, 20.0, true, Labels::Measure), 9),
            ["0.0010", "0.0100", "0.100", "1.000", "10.000"]
        );
    }

    #[test]
    fn values_off_the_axis_have_no_position() {
        let log = Scale::new(0.1, 10.0, true, Labels::Measure);
        assert!(log.position(1.0).is_some_and(|position| (position - 0.5).abs() < 1e-12));
        assert_eq!([0.0, -1.0, f64::NAN, f64::INFINITY].map(|value| log.position(value)), [None; 4]);
        let linear = Scale::new(0.0, 10.0, false, Labels::Measure);
        assert_eq!((linear.position(20.0), linear.inside(20.0)), (Some(1.0), None));
        assert_eq!(Scale::new(-1.0, 1.0, true, Labels::Measure).position(0.0), Some(0.5), "linear after all");
        let down_to_zero = |low| Scale::new(low, 10.0, false, Labels::Measure).down_to_zero().low();
        assert_eq!((down_to_zero(5.0), down_to_zero(-5.0), log.down_to_zero().low()), (0.0, -5.0, 0.1));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn any_range_has_positions_and_few_labels(
            low in proptest::num::f64::ANY,
            high in proptest::num::f64::ANY,
            value in proptest::num::f64::ANY,
            log: bool,
            count in 0usize..12,
        ) {
            for labels in [Labels::Measure, Labels::Count, Labels::Time, Labels::Bytes] {
                let scale = Scale::new(low, high, log, labels);
                prop_assert!(scale.low() < scale.high());
                prop_assert!(scale.position(value).is_none_or(|position| (0.0..=1.0).contains(&position)));
                prop_assert!(scale.ticks(count).len() <= 2 * count + 3);
            }
        }
    }
}
