//! Everything that can be known about a run before its directory exists, except its memory.
//!
//! Responsible for: the checks that `tonfall check` and `tonfall train` share. If one of them passes, the other passes
//! too.
//! Must not depend on: devices; no weights are loaded.

use std::path::Path;

use tonfall_adapters::{BaseModel, ModelDescription};
use tonfall_datasets::{ChatTokenizer, HeldOutPrompt, PreparedDataset, Sampler};
use tonfall_recipes::Plan;
use tonfall_recipes::plan::AdapterKind;

use crate::error::TrainError;
use crate::eval_suite::rendered;
use crate::lora;
use crate::run_length::RunLength;

/// Checks a run and returns its length, for `processes` processes that train together.
///
/// # Errors
/// Everything that is known now and would end the run later.
pub fn preflight(
    plan: &Plan,
    base: &BaseModel,
    data: &PreparedDataset,
    (tokenizer, prompts): (&ChatTokenizer, &[HeldOutPrompt]),
    processes: usize,
) -> Result<RunLength, Vec<TrainError>> {
    let length = RunLength::of(plan, Sampler::new(&data.train, plan, processes).steps_per_epoch());
    let model = base.description();
    let checks = [
        length.check(plan),
        check_context(data, model),
        rendered(tokenizer, prompts, model.max_position_embeddings).map(drop),
        check_adapter(plan, plan.lora.init.as_deref(), model),
    ];
    let faults: Vec<TrainError> = checks.into_iter().filter_map(Result::err).collect();
    if faults.is_empty() { Ok(length) } else { Err(faults) }
}

/// # Errors
/// If an example is longer than the model's context.
pub(crate) fn check_context(data: &PreparedDataset, model: &ModelDescription) -> Result<(), TrainError> {
    let context = model.max_position_embeddings;
    let longest = data.train.lengths().into_iter().chain(data.eval.lengths()).max();
    match longest.filter(|tokens| *tokens > context) {
        Some(tokens) => Err(TrainError::Context { tokens, context }),
        None => Ok(()),
    }
}

/// # Errors
/// If the model can't have the adapter: the one at `init`, or a new one on the plan's target modules.
fn check_adapter(plan: &Plan, init: Option<&Path>, model: &ModelDescription) -> Result<(), TrainError> {
    match (plan.adapter.kind, init) {
        (AdapterKind::Full, _) => Ok(()),
        (AdapterKind::Lora, None) => lora::check_targets(model, &plan.lora.target_modules),
        (AdapterKind::Lora, Some(path)) => lora::check_existing(model, &tonfall_adapters::peft::read(path)?),
    }
}
