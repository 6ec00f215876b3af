//! Values over the steps of a run, in bounded memory.
//!
//! Responsible for: storing the values of each step. Above a maximum number of points, neighbours are merged into
//! buckets of minimum, maximum and mean. So a log of any length fits in memory and no spike is lost.
//! Must not depend on: terminals, files.

/// Maximum number of buckets: many times the columns of a screen, and few enough to draw a frame in milliseconds. With
/// 100,000 steps, a bucket holds four.
const CAPACITY: usize = 1 << 15;

/// Unit of the horizontal axis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Axis {
    #[default]
    Step,
    Tokens,
    /// Seconds of training, without pauses between attempts.
    Time,
}

impl Axis {
    pub const ALL: [Self; 3] = [Self::Step, Self::Tokens, Self::Time];

    pub fn name(self) -> &'static str {
        match self {
            Self::Step => "step",
            Self::Tokens => "tokens",
            Self::Time => "time",
        }
    }
}

/// Minimum, maximum and mean of the finite values of a bucket; all NaN if there are none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    pub low: f32,
    pub high: f32,
    mean: f32,
    count: u32,
}

impl Span {
    fn of(value: f64) -> Self {
        let value = value as f32;
        match value.is_finite() {
            true => Self { low: value, high: value, mean: value, count: 1 },
            false => Self { low: f32::NAN, high: f32::NAN, mean: f32::NAN, count: 0 },
        }
    }

    fn merged(self, other: Self) -> Self {
        match (self.count, other.count) {
            (_, 0) => self,
            (0, _) => other,
            (mine, others) => {
                let share = f64::from(others) / (f64::from(mine) + f64::from(others));
                let mean = f64::from(self.mean) + (f64::from(other.mean) - f64::from(self.mean)) * share;
                Self {
                    low: self.low.min(other.low),
                    high: self.high.max(other.high),
                    mean: mean as f32,
                    count: mine.saturating_add(others),
                }
            }
        }
    }
}

/// One step, or several merged neighbours.
#[derive(Clone, Copy, Debug)]
pub struct Bucket<const N: usize> {
    first: u64,
    pub last: u64,
    tokens: f64,
    seconds: f64,
    steps: u32,
    pub values: [Span; N],
}

impl<const N: usize> Bucket<N> {
    /// Position on an axis: the last step, or the cumulative sums up to that step.
    pub fn x(&self, axis: Axis) -> f64 {
        match axis {
            Axis::Step => self.last as f64,
            Axis::Tokens => self.tokens,
            Axis::Time => self.seconds,
        }
    }

    fn merged(self, other: Self) -> Self {
        let mut values = self.values;
        values.iter_mut().zip(other.values).for_each(|(mine, others)| *mine = mine.merged(others));
        Self {
            first: self.first,
            last: other.last,
            tokens: other.tokens,
            seconds: other.seconds,
            steps: self.steps.saturating_add(other.steps),
            values,
        }
    }
}

/// Values at increasing steps.
#[derive(Clone, Debug)]
pub struct Series<const N: usize> {
    buckets: Vec<Bucket<N>>,
    capacity: usize,
    /// Steps in a full bucket.
    width: u32,
}

impl<const N: usize> Default for Series<N> {
    fn default() -> Self {
        Self::with_capacity(CAPACITY)
    }
}

impl<const N: usize> Series<N> {
    fn with_capacity(capacity: usize) -> Self {
        Self { buckets: Vec::new(), capacity, width: 1 }
    }

    /// Adds the values of a step. Removes stored values of this and later steps first. `tokens` and `seconds` are
    /// cumulative over the run.
    pub fn push(&mut self, step: u64, tokens: f64, seconds: f64, values: [f64; N]) {
        while self.buckets.last().is_some_and(|last| last.first >= step) {
            self.buckets.pop();
        }
        if let Some(last) = self.buckets.last_mut() {
            last.last = last.last.min(step.saturating_sub(1));
        }
        let bucket = Bucket { first: step, last: step, tokens, seconds, steps: 1, values: values.map(Span::of) };
        match self.buckets.last_mut().filter(|last| last.steps < self.width) {
            Some(last) => *last = last.merged(bucket),
            None => self.buckets.push(bucket),
        }
        if self.buckets.len() > self.capacity {
            self.width = self.width.saturating_mul(2);
            self.buckets = self
                .buckets
                .chunks(2)
                .map(|pair| pair.iter().copied().reduce(Bucket::merged))
                .collect::<Option<_>>()
                .unwrap_or_default();
        }
    }

    /// Removes the values after `step`.
    pub fn truncate(&mut self, step: u64) {
        while self.buckets.last().is_some_and(|last| last.first > step) {
            self.buckets.pop();
        }
        if let Some(last) = self.buckets.last_mut() {
            last.last = last.last.min(step);
        }
    }

    pub fn buckets(&self) -> &[Bucket<N>] {
        &self.buckets
    }

    pub fn last(&self) -> Option<&Bucket<N>> {
        self.buckets.last()
    }

    /// The minimum of value `index`.
    pub fn lowest(&self, index: usize) -> Option<f32> {
        self.buckets.iter().map(|bucket| bucket.values[index].low).filter(|low| low.is_finite()).reduce(f32::min)
    }

    /// The number of steps whose value `index` is not finite.
    pub fn gaps(&self, index: usize) -> u64 {
        self.buckets.iter().map(|bucket| u64::from(bucket.steps.saturating_sub(bucket.values[index].count))).sum()
    }

    /// Cumulative tokens and seconds of training up to `step`, from the last bucket that ends at or before `step`.
    pub fn sums_at(&self, step: u64) -> (f64, f64) {
        let end = self.buckets.partition_point(|bucket| bucket.last <= step);
        self.buckets[..end].last().map_or((0.0, 0.0), |bucket| (bucket.tokens, bucket.seconds))
    }

    /// The exponential moving average of value `index`, one number per bucket, with Adam's bias correction (Kingma and
    /// Ba 2015, §3). A bucket without a finite value is a gap; the average continues after it.
    pub fn smoothed(&self, index: usize, past: f64) -> Vec<f32> {
        let (mut mean, mut weight) = (0.0, 1.0);
        let each = self.buckets.iter().map(|bucket| {
            let span = bucket.values[index];
            if span.count == 0 {
                return f32::NAN;
            }
            // A bucket has the weight of all its steps.
            let past = if span.count == 1 { past } else { past.powf(f64::from(span.count)) };
            mean = past * mean + (1.0 - past) * f64::from(span.mean);
            weight *= past;
            (mean / (1.0 - weight)) as f32
        });
        each.collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn series(values: &[f64]) -> Series<1> {
        let mut series = Series::default();
        (1..).zip(values).for_each(|(step, value)| series.push(step, step as f64, step as f64, [*value]));
        series
    }

    #[test]
    fn the_average_is_debiased() {
        let smooth = series(&[2.0, 2.0, 2.0]).smoothed(0, 0.95);
        assert!(smooth.iter().all(|value| (value - 2.0).abs() < 1e-6), "{smooth:?}");
        let smooth = series(&[1.0, 3.0]).smoothed(0, 0.5);
        assert!((smooth[1] - (0.5 * 0.5 + 0.5 * 3.0) as f32 / 0.75).abs() < 1e-6, "{smooth:?}");
        let smooth = series(&[1.0, f64::NAN, 1.0]).smoothed(0, 0.9);
        assert!(smooth[1].is_nan() && (smooth[2] - 1.0).abs() < 1e-6, "{smooth:?}");
        assert_eq!(series(&[4.0, 5.0]).smoothed(0, 0.0), [4.0, 5.0], "without a past it is the value");
    }

    #[test]
    fn a_later_attempt_supersedes_values() {
        let mut series = series(&[1.0, 2.0, 3.0, 4.0]);
        series.truncate(2);
        assert_eq!(series.last().map(|bucket| bucket.last), Some(2));
        series.push(2, 2.0, 2.0, [9.0]);
        let highs: Vec<f32> = series.buckets().iter().map(|bucket| bucket.values[0].high).collect();
        assert_eq!(highs, [1.0, 9.0]);
        assert_eq!(series.sums_at(1), (1.0, 1.0));
        assert_eq!(series.sums_at(0), (0.0, 0.0));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn merging_keeps_extremes_order_and_bounds(values in proptest::collection::vec(-1e6f64..1e6, 1..400)) {
            let mut series = Series::<1>::with_capacity(8);
            (1..).zip(&values).for_each(|(step, value)| series.push(step, step as f64, 0.0, [*value]));
            prop_assert!(series.buckets().len() <= 9);
            let low = series.buckets().iter().map(|bucket| bucket.values[0].low).fold(f32::INFINITY, f32::min);
            let high = series.buckets().iter().map(|bucket| bucket.values[0].high).fold(f32::NEG_INFINITY, f32::max);
            let fold = |pick: fn(f64, f64) -> f64, start| values.iter().copied().fold(start, pick) as f32;
            prop_assert_eq!(low, fold(f64::min, f64::INFINITY));
            prop_assert_eq!(high, fold(f64::max, f64::NEG_INFINITY));
            let steps: u64 = series.buckets().iter().map(|bucket| u64::from(bucket.steps)).sum();
            prop_assert_eq!(steps, values.len() as u64);
            prop_assert!(series.buckets().windows(2).all(|pair| pair[0].last < pair[1].first));
            let mean: f64 = series.buckets().iter().map(|bucket| f64::from(bucket.values[0].mean) * f64::from(bucket.steps)).sum();
            let expected: f64 = values.iter().sum();
            prop_assert!((mean - expected).abs() <= 1e-3 * values.iter().map(|value| value.abs()).sum::<f64>() + 1.0);
        }
    }
}
