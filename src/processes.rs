//! Processes that train together. A launcher starts each of them with the same command.
//!
//! Responsible for: connecting the processes, and opening the inputs in order: only the first process downloads and
//! prepares.
//! Must not depend on: how the processes were started.

use jiff::Zoned;
use tonfall_recipes::Plan;
use tonfall_trainer::{Compute, DistributedEnv, Group};

use crate::args::DeviceArgs;
use crate::diagnostics::Result;
use crate::inputs::{self, Inputs};
use crate::progress::Reporter;

/// Waits for the other processes, if there are any, and opens this process's device. Only the first process prints.
pub(crate) fn meet(device: &DeviceArgs, reporter: &mut Reporter) -> Result<(Group, Compute)> {
    let Some(env) = DistributedEnv::from_env()? else {
        return Ok((Group::alone(), inputs::compute(device.device, 0, reporter)?));
    };
    if env.rank > 0 {
        reporter.silence();
    }
    let compute = inputs::compute(device.device, env.gpu, reporter)?;
    reporter.note(&format!("waiting for {} processes at {}:{}", env.size, env.address, env.port));
    let group = Group::meet(&env)?;
    reporter.note(&format!("{} processes train together", group.size()));
    Ok((group, compute))
}

/// Opens the inputs of a plan; `now` is the time that a chat template may print. The first process opens its inputs
/// first: it downloads and prepares them for all processes that share its disk.
pub(crate) fn open(plan: &Plan, now: &Zoned, group: &mut Group, reporter: &mut Reporter) -> Result<Inputs> {
    let first = group.is_first().then(|| inputs::open_at(plan, now, reporter)).transpose()?;
    group.agree("plan", plan.hash().as_bytes())?;
    let inputs = first.map_or_else(|| inputs::open_at(plan, now, reporter), Ok)?;
    if group.size() > 1 {
        let base = inputs.base.config_fingerprint() + &inputs.base.weights_fingerprint();
        group.agree("base model", base.as_bytes())?;
    }
    let lengths = inputs.data.train.lengths();
    group.agree("dataset", &lengths.into_iter().flat_map(usize::to_le_bytes).collect::<Vec<u8>>())?;
    Ok(inputs)
}
