//! Keeping a run within the available memory.
//!
//! Responsible for: comparing the memory that a step needs with the available memory, continuing with smaller
//! micro-batches or recomputation, and logging the change. The result of a step stays the same up to rounding: the step
//! has the same sequences, and gradients are weighted by tokens for any micro-batch size.
//! Must not depend on: the prediction of memory (that is [`crate::estimate`]).

use std::collections::BTreeMap;

use tonfall_recipes::plan::Recompute;
use tonfall_runs::events::EventKind;

use super::Run;
use crate::error::TrainError;
use crate::estimate::Choice;
use crate::micro_batch::Activations;

impl Run<'_> {
    /// Checks before a step that it fits the memory available now. On the CPU, a failed allocation would end the
    /// process.
    pub(super) fn stay_within_memory(&mut self) -> Result<(), TrainError> {
        self.choice.limit = self.workload.limit((self.job.memory)());
        let now = self.choice.clone();
        let choice = match now.fits() {
            true => now.clone(),
            false => self.workload.choose(now.micro_batch_size, now.activations, now.limit),
        };
        let choice = self.workload.agreed(choice, self.job.group)?;
        if choice == now {
            return Ok(());
        }
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        let why = match now.fits() {
            true => "another process has too little memory".to_owned(),
            false => format!(
                "about {} MiB and a tenth in reserve are needed, {} MiB are available",
                mib(now.estimate.peak()),
                mib(now.limit.unwrap_or(0))
            ),
        };
        self.continue_with(choice, &why)
    }

    /// Continues with less memory after a failed allocation on the device.
    pub(super) fn shrink(&mut self, why: &str) -> Result<(), TrainError> {
        self.job.compute.device.memory_cleanup();
        match self.workload.smaller(&self.choice) {
            Some(choice) => self.continue_with(choice, why),
            None => Err(self.workload.refusal(&self.choice)),
        }
    }

    fn continue_with(&mut self, choice: Choice, why: &str) -> Result<(), TrainError> {
        self.sampler = self.sampler.clone().in_micro_batches_of(choice.micro_batch_size);
        self.state.micro_batch_size = Some(choice.micro_batch_size);
        self.choice = choice;
        let now = self.difference_from_plan().unwrap_or_default();
        self.log_memory(Some(format!("memory is short before step {}: {why}; {now}", self.state.step + 1)))
    }

    /// The differences between run and plan that were made to fit memory.
    pub(super) fn difference_from_plan(&self) -> Option<String> {
        let training = &self.job.plan.training;
        let mut differences = Vec::new();
        let (size, planned) = (self.choice.micro_batch_size, training.micro_batch_size);
        if size != planned {
            differences.push(format!(
                "micro-batches of {size} instead of {planned} sequences, {} instead of {} of them a step: a step has the same \
                 sequences",
                self.micro_batches(),
                training.gradient_accumulation_steps
            ));
        }
        if training.recompute == Recompute::Auto && self.choice.activations.again() {
            let stored = match self.choice.activations {
                Activations::Offloaded => ", from layer inputs stored in host memory",
                _ => "",
            };
            differences.push(format!("activations are recomputed in the backward pass{stored}"));
        }
        let (slots, most) = (self.choice.estimate.slots, self.workload.most_slots());
        if slots < most {
            differences.push(format!("{slots} instead of {most} held-out prompts are answered at a time"));
        }
        (!differences.is_empty()).then(|| differences.join("; "))
    }

    /// Micro-batches per optimizer step.
    fn micro_batches(&self) -> usize {
        let training = &self.job.plan.training;
        (training.micro_batch_size * training.gradient_accumulation_steps).div_ceil(self.choice.micro_batch_size)
    }

    pub(super) fn log_memory(&mut self, reason: Option<String>) -> Result<(), TrainError> {
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
