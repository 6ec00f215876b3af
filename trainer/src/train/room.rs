//! A run within its memory.
//!
//! Responsible for: comparing what a step needs with what there is, going on with less, and saying so. What is learned
//! stays: an optimizer step has the same sequences, and gradients are weighted by tokens, however they are cut.
//! Must not depend on: how memory is predicted (that is [`crate::estimate`]).

use std::collections::BTreeMap;

use tonfall_recipes::plan::Recompute;
use tonfall_runs::events::EventKind;

use super::Run;
use crate::error::TrainError;
use crate::estimate::Choice;
use crate::micro_batch::Activations;

impl Run<'_> {
    /// Makes sure, before a step, that it fits into what there is now. On the CPU an allocation that fails ends the
    /// process, so this is where it is noticed.
    pub(super) fn stay_within_memory(&mut self) -> Result<(), TrainError> {
        self.choice.limit = self.workload.limit((self.job.memory)());
        let now = self.choice.clone();
        let choice = match now.fits() {
            true => now.clone(),
            false => self.workload.choose(now.micro_batch_size, now.activations, now.limit),
        };
        if !choice.fits() {
            return self.give_up(&choice);
        }
        let choice = self.workload.agreed(choice, self.job.group)?;
        if choice == now {
            return Ok(());
        }
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        let why = match now.fits() {
            true => "another process needs more than there is".to_owned(),
            false => format!(
                "about {} MiB are needed, with a tenth in reserve, and {} MiB are there",
                mib(now.estimate.peak()),
                mib(now.limit.unwrap_or(0))
            ),
        };
        self.go_on_with(choice, &why)
    }

    /// Goes on with less, after the device had no memory left.
    pub(super) fn shrink(&mut self, why: &str) -> Result<(), TrainError> {
        self.job.compute.device.memory_cleanup();
        match self.workload.smaller(&self.choice) {
            Some(choice) => self.go_on_with(choice, why),
            None => self.give_up(&self.choice.clone()),
        }
    }

    /// At the floor: what has been learned is saved, the rest needs more memory.
    fn give_up(&mut self, choice: &Choice) -> Result<(), TrainError> {
        if self.state.step > 0 {
            self.save()?;
        }
        Err(self.workload.refusal(choice))
    }

    fn go_on_with(&mut self, choice: Choice, why: &str) -> Result<(), TrainError> {
        self.sampler = self.sampler.clone().in_micro_batches_of(choice.micro_batch_size);
        self.state.micro_batch_size = Some(choice.micro_batch_size);
        self.choice = choice;
        let now = self.difference_from_plan().unwrap_or_default();
        self.tell_memory(Some(format!("memory is short before step {}: {why}; {now}", self.state.step + 1)))
    }

    /// What is not as the plan says, for the sake of memory.
    pub(super) fn difference_from_plan(&self) -> Option<String> {
        let training = &self.job.plan.training;
        let mut differences = Vec::new();
        let (size, planned) = (self.choice.micro_batch_size, training.micro_batch_size);
        if size != planned {
            differences.push(format!(
                "micro-batches of {size} instead of {planned} sequences, {} instead of {} of them a step, so that a step \
                 learns from the same sequences",
                self.micro_batches(),
                training.gradient_accumulation_steps
            ));
        }
        if training.recompute == Recompute::Auto && self.choice.activations.again() {
            let beside = match self.choice.activations {
                Activations::Offloaded => ", from layers' inputs that wait in the host's memory",
                _ => "",
            };
            differences.push(format!("activations are computed again in the backward pass{beside}"));
        }
        (!differences.is_empty()).then(|| differences.join("; "))
    }

    /// Micro-batches of an optimizer step.
    fn micro_batches(&self) -> usize {
        let training = &self.job.plan.training;
        (training.micro_batch_size * training.gradient_accumulation_steps).div_ceil(self.choice.micro_batch_size)
    }

    pub(super) fn tell_memory(&mut self, reason: Option<String>) -> Result<(), TrainError> {
        let estimate = &self.choice.estimate;
        let mut parts = BTreeMap::new();
        for part in estimate.at_peak() {
            *parts.entry(part.name.to_owned()).or_insert(0) += part.bytes;
        }
        self.event(EventKind::Memory {
            predicted_bytes: estimate.peak(),
            limit_bytes: self.choice.limit,
            parts,
            micro_batch_size: self.choice.micro_batch_size as u64,
            gradient_accumulation_steps: self.micro_batches() as u64,
            recompute: self.choice.activations.again(),
            offload: self.choice.activations == Activations::Offloaded,
            reason,
        })
    }
}
