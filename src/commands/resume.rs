//! `tonfall resume RUN`: go on where a run was interrupted.
//!
//! Responsible for: finding the newest checkpoint that verifies, and saying which do not.

use tonfall_recipes::checkpoint::latest_verified;
use tonfall_recipes::{LockError, RunState};

use crate::args::Resume;
use crate::diagnostics::{ExitCode, Failure, Result};
use crate::inputs;
use crate::launch::{Launch, launch};
use crate::metrics_server::{MetricsServer, Scrape};
use crate::progress::Reporter;
use crate::runs;
use crate::summary;

pub(crate) fn run(args: &Resume, reporter: &mut Reporter) -> Result<i32> {
    let run = runs::open(&args.run)?;
    let place = summary::shown(run.path());
    match run.state()? {
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
    let compute = inputs::compute(args.device.device, reporter)?.deterministic(plan.training.deterministic);
    let metrics = MetricsServer::bind(&args.metrics)?;
    let inputs = inputs::open(&plan, reporter)?;
    if let Some(server) = metrics {
        server.serve_beside(Scrape::runs(vec![run.clone()]))?;
    }
    let resume_from = checkpoint.map(|found| found.path);
    let launched =
        Launch { compute: &compute, plan: &plan, inputs: &inputs, run: &run, resume_from, grace: args.grace.grace };
    launch(launched, reporter)
}
