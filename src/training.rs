//! Starting a run and continuing one, for the commands `train`, `resume` and `nightly`.
//!
//! Responsible for: plan → open inputs → run directory → [`crate::launch`]. Nothing is written before all inputs are open and pass
//! all checks of `tonfall check`.
//! Must not depend on: commands.

use std::time::Duration;

use jiff::Zoned;
use tonfall_recipes::{Plan, RecipeFile};
use tonfall_runs::checkpoint_dir::latest_verified;
use tonfall_runs::{RunDir, RunLock, RunState, StartedWith};
use tonfall_trainer::{Compute, Group};

use crate::args::{DeviceArgs, MetricsArgs};
use crate::diagnostics::{ExitCode, Failure, Result};
use crate::fit;
use crate::inputs::Inputs;
use crate::launch::{Launch, Launched, join_in, launch};
use crate::metrics_server::{MetricsServer, Scrape};
use crate::processes;
use crate::progress::Reporter;
use crate::run_inputs;
use crate::summary;

/// How a run is started or continued, on the command line.
#[derive(Clone, Copy)]
pub(crate) struct Options<'a> {
    pub(crate) device: &'a DeviceArgs,
    pub(crate) metrics: &'a MetricsArgs,
    pub(crate) grace: Duration,
}

/// A new run.
pub(crate) struct New<'a> {
    pub(crate) recipe: &'a RecipeFile,
    pub(crate) plan: &'a Plan,
    /// The `--set` options.
    pub(crate) overrides: &'a [String],
    pub(crate) run_name: Option<&'a str>,
}

/// Everything that training needs, opened and checked.
pub(crate) struct Opened {
    now: Zoned,
    group: Group,
    compute: Compute,
    pub(crate) inputs: Inputs,
    metrics: Option<MetricsServer>,
}

/// Opens the inputs of a new run and checks everything that can be known before training.
pub(crate) fn open(plan: &Plan, options: Options<'_>, reporter: &mut Reporter) -> Result<Opened> {
    let now = Zoned::now();
    let (mut group, compute) = processes::meet(options.device, reporter)?;
    let compute = compute.deterministic(plan.training.deterministic);
    let metrics = if group.is_first() { MetricsServer::bind(options.metrics)? } else { None };
    let inputs = processes::open(plan, &now, &mut group, reporter)?;
    inputs.preflight(plan, group.size())?;
    fit::refuse_too_much(plan, &inputs, &compute)?;
    Ok(Opened { now, group, compute, inputs, metrics })
}

impl Opened {
    /// Refuses a run whose checkpoints would not fit on the disk.
    pub(crate) fn refuse_full_disk(&self, plan: &Plan) -> Result<()> {
        fit::refuse_full_disk(plan, &self.inputs, &self.compute)
    }

    /// The device.
    pub(crate) fn compute(&self) -> &Compute {
        &self.compute
    }
}

/// Trains a new run. `key` is stored in the run; `created` is called with its directory before training.
pub(crate) fn start(
    new: &New<'_>,
    opened: Opened,
    key: Option<String>,
    created: &mut dyn FnMut(&RunDir),
    options: Options<'_>,
    reporter: &mut Reporter,
) -> Result<Launched> {
    let Opened { now, mut group, compute, inputs, metrics } = opened;
    let New { recipe, plan, overrides, run_name } = new;
    let first = group.is_first();
    let launched = Launch {
        compute: &compute,
        plan,
        inputs: &inputs,
        group: &mut group,
        resume_from: None,
        notices: Vec::new(),
        grace: options.grace,
    };
    if !first {
        return join_in(launched);
    }
    let fingerprints = run_inputs::fingerprints(plan, &inputs, plan.lora.init.as_deref())?;
    let started = StartedWith { inputs: fingerprints, now, key };
    let run = RunDir::create_started(plan, recipe, overrides, *run_name, Some(started))?;
    let lock = RunLock::acquire(run.path())?;
    reporter.note(&format!("run {}", summary::shown(run.path())));
    if let Some(server) = metrics {
        server.serve_beside(Scrape::runs(vec![run.clone()]))?;
    }
    created(&run);
    launch(launched, &run, &lock, reporter)
}

/// Continues an interrupted run from its newest checkpoint that verifies. Refuses if its inputs have changed, unless
/// `accept_changes` is true.
pub(crate) fn resume(
    run: &RunDir,
    accept_changes: bool,
    options: Options<'_>,
    reporter: &mut Reporter,
) -> Result<Launched> {
    let place = summary::shown(run.path());
    let (mut group, compute) = processes::meet(options.device, reporter)?;
    // The lock is acquired before anything is read. So no other process can change log or checkpoints meanwhile.
    let lock = group.is_first().then(|| RunLock::acquire(run.path())).transpose()?;
    if lock.is_some() && run.logged_state()? == RunState::Finished {
        let message = format!("the run {place} is finished\nhint: `tonfall train` begins a new one");
        return Err(Failure::new(ExitCode::Invalid, message));
    }
    let plan = run.plan()?;
    let (checkpoint, damaged) = latest_verified(run)?;
    for fault in damaged {
        reporter.note(&format!("warning: {fault}"));
    }
    match &checkpoint {
        Some(found) => reporter.note(&format!("run {place}, from step {}", found.manifest.step)),
        None => reporter.note(&format!("run {place} has no checkpoint yet: from the beginning")),
    }
    let compute = compute.deterministic(plan.training.deterministic);
    let step = checkpoint.as_ref().map_or(0, |found| found.manifest.step);
    group.agree("newest checkpoint", &step.to_le_bytes())?;
    let metrics = if group.is_first() { MetricsServer::bind(options.metrics)? } else { None };
    let inputs = processes::open(&plan, &run.now()?, &mut group, reporter)?;
    let resume_from = checkpoint.map(|found| found.path);
    let notices = match group.is_first() {
        true => run_inputs::compare(run, &plan, &inputs, resume_from.as_deref(), accept_changes, reporter)?,
        false => Vec::new(),
    };
    if let Some(server) = metrics {
        server.serve_beside(Scrape::runs(vec![run.clone()]))?;
    }
    let launched = Launch {
        compute: &compute,
        plan: &plan,
        inputs: &inputs,
        group: &mut group,
        resume_from,
        notices,
        grace: options.grace,
    };
    match &lock {
        Some(lock) => launch(launched, run, lock, reporter),
        None => join_in(launched),
    }
}
