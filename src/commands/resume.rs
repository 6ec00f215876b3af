//! `tonfall resume RUN`: continue an interrupted run.
//!
//! Responsible for: locking the run, finding the newest checkpoint that verifies, naming those that don't, and refusing
//! to continue if the inputs changed since the first start.

use tonfall_runs::checkpoint_dir::latest_verified;
use tonfall_runs::{RunLock, RunState};

use crate::args::Resume;
use crate::diagnostics::{ExitCode, Failure, Result};
use crate::launch::{Launch, join_in, launch};
use crate::metrics_server::{MetricsServer, Scrape};
use crate::processes;
use crate::progress::Reporter;
use crate::run_inputs;
use crate::runs;
use crate::summary;

pub(crate) fn run(args: &Resume, reporter: &mut Reporter) -> Result<i32> {
    let run = runs::open(&args.run)?;
    let place = summary::shown(run.path());
    let (mut group, compute) = processes::meet(&args.device, reporter)?;
    // The lock is acquired before anything is read. So no other process can change log or checkpoints meanwhile.
    let lock = group.is_first().then(|| RunLock::acquire(run.path())).transpose()?;
    if lock.is_some() && run.logged_state()? == RunState::Finished {
        let message = format!("the run {place} is finished\nhint: `tonfall train` begins a new one");
        return Err(Failure::new(ExitCode::Invalid, message));
    }
    let plan = run.plan()?;
    let (checkpoint, damaged) = latest_verified(&run)?;
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
    let metrics = if group.is_first() { MetricsServer::bind(&args.metrics)? } else { None };
    let inputs = processes::open(&plan, &run.now()?, &mut group, reporter)?;
    let resume_from = checkpoint.map(|found| found.path);
    let notices = match group.is_first() {
        true => run_inputs::compare(&run, &plan, &inputs, resume_from.as_deref(), args.accept_changes, reporter)?,
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
        grace: args.grace.grace,
    };
    match &lock {
        Some(lock) => launch(launched, &run, lock, reporter),
        None => join_in(launched),
    }
}
