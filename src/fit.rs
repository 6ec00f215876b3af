//! Whether a run fits into the memory of its device, and on its disk.
//!
//! Responsible for: the memory estimate of a plan with its open inputs, and refusing a run that can't fit.
//! `tonfall_trainer::estimate` computes the numbers.
//! Must not depend on: how the estimate is shown.

use tonfall_durable as durable;
use tonfall_recipes::Plan;
use tonfall_trainer::Compute;
use tonfall_trainer::estimate::{Choice, Workload};

use crate::diagnostics::Result;
use crate::inputs::Inputs;

/// The estimate for an opened device.
pub(crate) fn estimated(plan: &Plan, inputs: &Inputs, compute: &Compute) -> Result<(Workload, Choice)> {
    let workload = inputs.workload(plan, compute.kind())?;
    let choice = choose(plan, &workload, compute.memory());
    Ok((workload, choice))
}

/// Micro-batch size and recomputation that fit in `limit` bytes; with `None`, the values of the recipe.
pub(crate) fn choose(plan: &Plan, workload: &Workload, limit: Option<u64>) -> Choice {
    workload.choose(plan.training.micro_batch_size, workload.asked(), limit)
}

/// Refuses a run that can't fit, before anything is written.
pub(crate) fn refuse_too_much(plan: &Plan, inputs: &Inputs, compute: &Compute) -> Result<()> {
    let (workload, choice) = estimated(plan, inputs, compute)?;
    match choice.fits() {
        true => Ok(()),
        false => Err(workload.refusal(&choice).into()),
    }
}

/// Refuses a run whose checkpoints would not fit on the disk. Exports check the space that they need themselves.
pub(crate) fn refuse_full_disk(plan: &Plan, inputs: &Inputs, compute: &Compute) -> Result<()> {
    let workload = inputs.workload(plan, compute.kind())?;
    // A new checkpoint is complete before an old one is removed, and there is the best one.
    let checkpoints = plan.training.keep_checkpoints as u64 + 2;
    Ok(durable::check_space(&plan.output_dir, checkpoints.saturating_mul(workload.checkpoint_bytes()))?)
}
