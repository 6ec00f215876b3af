//! Processes that train together, each started by a launcher with this same command.
//!
//! Responsible for: meeting, and opening the inputs so that only the first process downloads and prepares.
//! Must not depend on: how the processes were started.

use tonfall_recipes::Plan;
use tonfall_trainer::{Compute, Group, Launch};

use crate::args::DeviceArgs;
use crate::diagnostics::Result;
use crate::inputs::{self, Inputs};
use crate::progress::Reporter;

/// Waits for the other processes, if there are any, and opens this one's device. The first process alone reports.
pub(crate) fn meet(device: &DeviceArgs, reporter: &mut Reporter) -> Result<(Group, Compute)> {
    let Some(launch) = Launch::from_env()? else {
        return Ok((Group::alone(), inputs::compute(device.device, 0, reporter)?));
    };
    if launch.rank > 0 {
        reporter.silence();
    }
    let compute = inputs::compute(device.device, launch.gpu, reporter)?;
    reporter.note(&format!("waiting for {} processes at {}:{}", launch.size, launch.address, launch.port));
    let group = Group::meet(&launch)?;
    reporter.note(&format!("{} processes train together", group.size()));
    Ok((group, compute))
}

/// Opens the inputs of a plan; those of the first process first, which downloads and prepares for those that share its
/// disk.
pub(crate) fn open(plan: &Plan, group: &mut Group, reporter: &mut Reporter) -> Result<Inputs> {
    let first = group.is_first().then(|| inputs::open(plan, reporter)).transpose()?;
    group.agree("plan", plan.hash().as_bytes())?;
    let inputs = first.map_or_else(|| inputs::open(plan, reporter), Ok)?;
    group.agree("base model", inputs.base.fingerprint().as_bytes())?;
    let lengths = inputs.data.train.lengths();
    group.agree("dataset", &lengths.into_iter().flat_map(usize::to_le_bytes).collect::<Vec<u8>>())?;
    Ok(inputs)
}
