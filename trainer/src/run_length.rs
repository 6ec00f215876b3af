//! The number of optimizer steps of a run.
//!
//! Responsible for: converting `epochs`, `max_steps` and warm-up to numbers of steps, naming the key that ends the run,
//! and refusing a run that can't train.
//! Must not depend on: tensors, files.

use std::fmt;

use tonfall_recipes::Plan;

use crate::error::TrainError;
use crate::schedule::LearningRate;

/// The length of a run in optimizer steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RunLength {
    pub steps: u64,
    pub steps_per_epoch: u64,
    pub warmup_steps: u64,
    epochs: Option<f64>,
    max_steps: Option<u64>,
}

impl RunLength {
    /// The length of a run of `plan` whose data has `steps_per_epoch` optimizer steps per epoch.
    #[must_use]
    pub fn of(plan: &Plan, steps_per_epoch: u64) -> Self {
        let (epochs, max_steps) = (plan.training.epochs, plan.training.max_steps);
        let epochs = if max_steps.is_none() { epochs.or(Some(1.0)) } else { epochs };
        let by_epochs = epochs.map(|epochs| (epochs * steps_per_epoch as f64).ceil() as u64);
        let steps = by_epochs.into_iter().chain(max_steps).min().unwrap_or(1).max(1);
        // Rounded up like in transformers, but at least one step follows the warm-up.
        let by_ratio = ((plan.training.warmup_ratio * steps as f64).ceil() as u64).min(steps - 1);
        let warmup_steps = plan.training.warmup_steps.unwrap_or(by_ratio);
        Self { steps, steps_per_epoch, warmup_steps, epochs, max_steps }
    }

    /// The learning rates of the steps.
    pub(crate) fn learning_rate(&self, plan: &Plan) -> LearningRate {
        LearningRate {
            peak: plan.training.learning_rate,
            schedule: plan.training.schedule,
            warmup_steps: self.warmup_steps,
            total_steps: self.steps,
        }
    }

    /// # Errors
    /// If the warm-up is not shorter than the run, or every learning rate is zero in f32.
    pub fn check(&self, plan: &Plan) -> Result<(), TrainError> {
        let rate = plan.training.learning_rate;
        if rate as f32 == 0.0 {
            return Err(TrainError::LearningRate { rate });
        }
        match self.warmup_steps < self.steps {
            true => Ok(()),
            false => Err(TrainError::Warmup { warmup: self.warmup_steps, run: *self }),
        }
    }
}

/// The number of steps, and the key that sets it.
impl fmt::Display for RunLength {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |count: u64, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        let per_epoch = count(self.steps_per_epoch, "step");
        write!(f, "{}: ", count(self.steps, "optimizer step"))?;
        match (self.epochs, self.max_steps) {
            (_, Some(max)) if max <= self.steps => {
                let epochs = self.steps as f64 / self.steps_per_epoch.max(1) as f64;
                write!(f, "`training.max_steps` ends the run, after {epochs:.2} epochs of {per_epoch}")
            }
            (Some(epochs), max) => {
                write!(f, "`training.epochs` = {epochs} ends the run, with {per_epoch} an epoch")?;
                max.map_or(Ok(()), |max| write!(f, ", before `training.max_steps` = {max}"))
            }
            (None, _) => write!(f, "the least that a run has"),
        }
    }
}

#[cfg(test)]
mod tests {
    use tonfall_recipes::plan::TrainingPlan;

    use super::*;

    fn plan(training: TrainingPlan) -> Plan {
        let folder = tempfile::tempdir().expect("a directory");
        for name in ["base", "train.jsonl"] {
            std::fs::create_dir(folder.path().join(name)).expect("made");
        }
        let source = "base = \"base\"\n[data]\ntrain = \"train.jsonl\"\n".to_owned();
        let recipe = tonfall_recipes::RecipeFile { path: folder.path().join("a.toml"), source };
        Plan { training, ..recipe.plan(&[]).expect("a plan") }
    }

    fn length(epochs: Option<f64>, max_steps: Option<u64>, steps_per_epoch: u64) -> RunLength {
        RunLength::of(&plan(TrainingPlan { epochs, max_steps, ..TrainingPlan::default() }), steps_per_epoch)
    }

    #[test]
    fn the_key_that_ends_the_run_is_named() {
        let text = |epochs, max_steps| length(epochs, max_steps, 3).to_string();
        let fifty = "50 optimizer steps: `training.max_steps` ends the run, after 16.67 epochs of 3 steps";
        assert_eq!(text(None, Some(50)), fifty);
        assert_eq!(text(Some(20.0), Some(50)), fifty);
        let one = "3 optimizer steps: `training.epochs` = 1 ends the run, with 3 steps an epoch";
        assert_eq!(text(None, None), one);
        assert_eq!(text(Some(1.0), Some(50)), format!("{one}, before `training.max_steps` = 50"));
        let least = length(Some(1e-6), None, 1).to_string();
        assert_eq!(least, "1 optimizer step: `training.epochs` = 0.000001 ends the run, with 1 step an epoch");
    }

    #[test]
    fn a_warm_up_by_ratio_is_shorter_than_the_run() {
        let warmup = |steps| length(None, Some(steps), 3).warmup_steps;
        assert_eq!([1, 2, 4, 33, 34, 1000].map(warmup), [0, 1, 1, 1, 2, 30]);
    }

    #[test]
    fn a_run_that_cannot_learn_is_refused() {
        let check = |training: TrainingPlan| {
            let plan = plan(TrainingPlan { max_steps: Some(3), ..training });
            RunLength::of(&plan, 3).check(&plan).map_err(|error| error.to_string())
        };
        let warmup = |steps| TrainingPlan { warmup_steps: Some(steps), ..TrainingPlan::default() };
        assert_eq!(check(warmup(2)), Ok(()));
        for steps in [3, 100] {
            let text = check(warmup(steps)).expect_err("no step after the warm-up");
            assert!(text.contains(&format!("`training.warmup_steps` = {steps}")), "{text}");
        }
        let text = check(TrainingPlan { learning_rate: 1e-50, ..warmup(0) }).expect_err("zero in f32");
        assert!(text.contains("1e-50"), "{text}");
        assert_eq!(check(TrainingPlan { learning_rate: 1e-40, ..warmup(0) }), Ok(()));
    }
}
