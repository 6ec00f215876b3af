//! `tonfall resume RUN`: go on where a run was interrupted.
//!
//! Responsible for: finding the newest checkpoint that verifies, and saying which do not.

use tonfall_runs::checkpoint_dir::latest_verified;
use tonfall_runs::{LockError, RunState};

use crate::args::Resume;
use crate::diagnostics::{ExitCode, Failure, Result};
use crate::launch::{Launch, join_in, launch};
use crate::metrics_server::{MetricsServer, Scrape};
use crate::processes;
use crate::progress::Reporter;
use crate::runs;
use crate::summary;

pub(crate) fn run(args: &Resume, reporter: &mut Reporter) -> Result<i32> {
    let run = runs::open(&args.run)?;
    let place = summary::shown(run.path());
    let (mut group, compute) = processes::meet(&args.device, reporter)?;
    match run.state()? {
        _ if !group.is_first() => {}
        RunState::Finished => {
            let message = format!("the run {place} is finished\nhint: `tonfall train` begins a new one");
            return Err(Failure::new(ExitCode::Invalid, message));
        }
        RunState::Running => return Err(LockError::Busy { run: run.path().to_owned() }.into()),
        RunState::Created | RunState::Interrupted | RunState::Diverged | RunState::Failed => {}
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
    let inputs = processes::open(&plan, &mut group, reporter)?;
    if let Some(server) = metrics {
        server.serve_beside(Scrape::runs(vec![run.clone()]))?;
    }
    let (first, resume_from) = (group.is_first(), checkpoint.map(|found| found.path));
    let launched = Launch {
        compute: &compute,
        plan: &plan,
        inputs: &inputs,
        group: &mut group,
        resume_from,
        grace: args.grace.grace,
    };
    if first { launch(launched, &run, reporter) } else { join_in(launched) }
}
