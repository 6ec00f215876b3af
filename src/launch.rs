//! A run from its directory to its summary: what `train` and `resume` share.
//!
//! Responsible for: lock, event log, signals, the call of the trainer, and what is written down when it fails.
//! Must not depend on: how the plan came about.

use std::path::PathBuf;
use std::time::Duration;

use tonfall_recipes::{EventKind, EventLog, Plan, RunDir, RunLock, durable};
use tonfall_trainer::{Compute, Job, StopReason, train};

use crate::diagnostics::{ExitCode, Failure, Result};
use crate::inputs::Inputs;
use crate::output;
use crate::progress::Reporter;
use crate::signals::{self, Signals};
use crate::summary;

/// What is to be trained, and where it is written down.
pub(crate) struct Launch<'a> {
    pub(crate) compute: &'a Compute,
    pub(crate) plan: &'a Plan,
    pub(crate) inputs: &'a Inputs,
    pub(crate) run: &'a RunDir,
    pub(crate) resume_from: Option<PathBuf>,
    pub(crate) grace: Duration,
}

/// Trains under the run's lock; returns the exit code.
pub(crate) fn launch(launch: Launch<'_>, reporter: &mut Reporter) -> Result<i32> {
    let Launch { compute, plan, inputs, run, resume_from, grace } = launch;
    let lock = RunLock::acquire(run)?;
    run.clear_stop_request()?;
    // An earlier attempt may have been killed while it exported; what it left is made again.
    for export in ["adapter", "merged", "model"] {
        durable::remove_dir(&run.exports().join(export))?;
    }
    let mut log = EventLog::open(run, &lock)?;
    reporter.follow(&run.events(), plan.training.log_every);
    let signals = Signals::install(grace)?;
    let stop = || match signals.received() {
        Some(signal) => Some(StopReason::Signal(signal)),
        None => run.stop_requested().then_some(StopReason::Requested),
    };
    let outcome = train(Job {
        compute,
        plan,
        base: &inputs.base,
        tokenizer: &inputs.tokenizer,
        data: &inputs.data,
        prompts: &inputs.prompts,
        run,
        log: &mut log,
        resume_from,
        memory: &|| compute.memory(),
        stop: &stop,
        observe: &mut |observation| reporter.observe(observation),
    });
    reporter.clear();
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(error) => return Err(failed(Failure::from(error), &mut log)),
    };
    match outcome.stopped {
        None => {
            output::data(&summary::text(plan, run, &outcome, reporter.json()))?;
            Ok(ExitCode::Done.number())
        }
        Some(reason) => {
            let place = summary::shown(run.path());
            output::note(&format!(
                "stopped after step {} of {}; its checkpoint is saved\nhint: `tonfall resume {place}` goes on",
                outcome.step, outcome.total_steps
            ));
            Ok(match reason {
                StopReason::Signal(signal) => signals::exit_code(signal),
                StopReason::Requested => signals::exit_code(signal_hook::consts::SIGINT),
            })
        }
    }
}

/// Writes the failure into the log, as far as that is still possible.
fn failed(failure: Failure, log: &mut EventLog) -> Failure {
    if failure.code != ExitCode::Diverged {
        let exit_code = failure.code.number() as u8;
        // The disk may be what failed; the error itself is printed in any case.
        log.append(EventKind::Failed { message: failure.message(), exit_code }).ok();
    }
    failure
}
