//! Learning-rate schedules: constant, linear and cosine decay behind a linear warm-up.
//!
//! Responsible for: the learning rate of a step as a pure function. Equal to transformers'
//! `get_{constant,linear,cosine}_schedule_with_warmup`.

use tonfall_recipes::plan::Schedule;

/// A schedule over a known number of optimizer steps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LearningRate {
    pub peak: f64,
    pub schedule: Schedule,
    pub warmup_steps: u64,
    pub total_steps: u64,
}

impl LearningRate {
    /// The learning rate of optimizer step `step`, counted from 0.
    pub(crate) fn at(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return self.peak * step as f64 / self.warmup_steps.max(1) as f64;
        }
        let span = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let progress = ((step - self.warmup_steps) as f64 / span).min(1.0);
        self.peak
            * match self.schedule {
                Schedule::Constant => 1.0,
                Schedule::Linear => 1.0 - progress,
                Schedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(schedule: Schedule) -> Vec<f64> {
        let rate = LearningRate { peak: 1.0, schedule, warmup_steps: 2, total_steps: 6 };
        (0..7).map(|step| rate.at(step)).collect()
    }

    /// Values of transformers' schedulers for warm-up 2 of 6 steps.
    #[test]
    fn schedules_are_those_of_transformers() {
        assert_eq!(rates(Schedule::Constant), [0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0]);
        assert_eq!(rates(Schedule::Linear), [0.0, 0.5, 1.0, 0.75, 0.5, 0.25, 0.0]);
        let cosine = [0.0, 0.5, 1.0, 0.853_553_390_593_273_8, 0.5, 0.146_446_609_406_726_2, 0.0];
        for (ours, theirs) in rates(Schedule::Cosine).into_iter().zip(cosine) {
            assert!((ours - theirs).abs() < 1e-12, "{ours} instead of {theirs}");
        }
    }
}
