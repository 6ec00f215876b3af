//! Learning-rate schedules: constant, linear and cosine decay after a linear warm-up.
//!
//! Responsible for: the learning rate of a step as a pure function.
//!
//! Warm-up step `i` of `n`, counted from 1, has `i / n` of the peak, so no step has a learning rate of zero. After the
//! warm-up, the rates are those of transformers' `get_{constant,linear,cosine}_schedule_with_warmup`. The warm-up of
//! transformers begins at zero: its first optimizer step changes nothing.

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
    /// The learning rate of optimizer step `step`, counted from 0. Positive for every step of the run.
    pub(crate) fn at(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return self.peak * (step + 1) as f64 / self.warmup_steps as f64;
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

    const SCHEDULES: [Schedule; 3] = [Schedule::Constant, Schedule::Linear, Schedule::Cosine];

    fn rates(schedule: Schedule) -> Vec<f64> {
        let rate = LearningRate { peak: 1.0, schedule, warmup_steps: 2, total_steps: 6 };
        (0..6).map(|step| rate.at(step)).collect()
    }

    /// After the warm-up: values of transformers' schedulers with 2 warm-up steps of 6 steps.
    #[test]
    fn schedules_are_those_of_transformers_after_the_warm_up() {
        assert_eq!(rates(Schedule::Constant), [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]);
        assert_eq!(rates(Schedule::Linear), [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]);
        let cosine = [0.5, 1.0, 1.0, 0.853_553_390_593_273_8, 0.5, 0.146_446_609_406_726_2];
        for (ours, theirs) in rates(Schedule::Cosine).into_iter().zip(cosine) {
            assert!((ours - theirs).abs() < 1e-12, "{ours} instead of {theirs}");
        }
    }

    #[test]
    fn every_step_has_a_positive_learning_rate() {
        for schedule in SCHEDULES {
            for total_steps in 1..40 {
                for warmup_steps in 0..total_steps {
                    let rate = LearningRate { peak: 1.0, schedule, warmup_steps, total_steps };
                    let rates: Vec<f64> = (0..total_steps).map(|step| rate.at(step)).collect();
                    assert!(rates.iter().all(|rate| *rate > 0.0 && *rate <= 1.0), "{rates:?}");
                    assert!(rates.contains(&1.0), "the peak is reached: {rates:?}");
                }
            }
        }
    }
}
