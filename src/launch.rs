//! A run from its directory to its summary, for `train` and `resume`.
//!
//! Responsible for: event log, signals, calling the trainer, and logging its failure.
//! Must not depend on: recipes; the caller makes the plan and holds the lock.

use std::path::PathBuf;
use std::time::Duration;

use tonfall_adapters::export;
use tonfall_adapters::peft;
use tonfall_durable as durable;
use tonfall_recipes::Plan;
use tonfall_recipes::plan::AdapterKind;
use tonfall_runs::{EventKind, EventLog, RunDir, RunLock};
use tonfall_trainer::{Compute, Exported, Group, Job, Outcome, Record, StopReason, train};

use crate::diagnostics::{ExitCode, Failure, Result};
use crate::exporting;
use crate::inputs::Inputs;
use crate::lineage;
use crate::output;
use crate::progress::Reporter;
use crate::runs::{self, Made};
use crate::signals::{self, Signals};
use crate::summary;
use crate::verifying::{self, Reference};

/// The arguments of a run.
pub(crate) struct Launch<'a> {
    pub(crate) compute: &'a Compute,
    pub(crate) plan: &'a Plan,
    pub(crate) inputs: &'a Inputs,
    pub(crate) group: &'a mut Group,
    pub(crate) resume_from: Option<PathBuf>,
    /// Notices to log.
    pub(crate) notices: Vec<String>,
    pub(crate) grace: Duration,
}

impl<'a> Launch<'a> {
    fn job(
        self,
        lineage: &'a [(String, String)],
        record: Option<Record<'a>>,
        memory: &'a dyn Fn() -> Option<u64>,
        stop: &'a dyn Fn() -> Option<StopReason>,
    ) -> Job<'a> {
        let Self { compute, plan, inputs, group, resume_from, .. } = self;
        let Inputs { base, tokenizer, chat, data, prompts } = inputs;
        Job { compute, plan, base, tokenizer, chat, lineage, data, prompts, group, record, resume_from, memory, stop }
    }
}

/// The end of a training.
pub(crate) struct Launched {
    pub(crate) code: i32,
    /// For stdout, if the run is finished.
    pub(crate) summary: Option<String>,
}

/// Trains while `lock`, the lock of `run`, is held.
pub(crate) fn launch(
    mut launch: Launch<'_>,
    run: &RunDir,
    lock: &RunLock,
    reporter: &mut Reporter,
) -> Result<Launched> {
    let plan = launch.plan;
    run.clear_stop_request()?;
    // An earlier attempt may have been killed while it wrote exports; they are written again.
    for directory in export::directories() {
        durable::remove_dir(&run.exports().join(directory))?;
    }
    let mut log = EventLog::open(run, lock)?;
    for message in std::mem::take(&mut launch.notices) {
        log.append(EventKind::Notice { message })?;
    }
    reporter.note(&launch.inputs.length(plan, launch.group.size()).to_string());
    reporter.follow(&run.events(), plan.training.log_every);
    let signals = Signals::install(launch.grace)?;
    let stop = || {
        let requested = || run.stop_requested().then_some(StopReason::Requested);
        signals.received().map(StopReason::Signal).or_else(requested)
    };
    let (compute, inputs) = (launch.compute, launch.inputs);
    let memory = || compute.memory();
    let record = Record { run, log: &mut log, observe: &mut |observation| reporter.observe(observation) };
    let lineage = lineage::of_inputs(plan, &run.info().inputs.clone().unwrap_or_default());
    let outcome = train(launch.job(&lineage, Some(record), &memory, &stop));
    reporter.clear();
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(error) => return Err(failed(Failure::from(error), &mut log)),
    };
    let mut summary = None;
    if outcome.stopped.is_none() {
        let verified = verify(plan, run, inputs, &outcome, compute, reporter);
        verified.map_err(|failure| failed(failure, &mut log))?;
        summary = Some(summary::text(plan, run, &outcome, reporter.json()));
    } else {
        let place = summary::in_shell(run.path());
        output::note(&format!(
            "stopped after step {} of {}; its checkpoint is saved\nhint: `tonfall resume {place}` continues the run",
            outcome.step, outcome.total_steps
        ));
    }
    Ok(Launched { code: exit_code(outcome.stopped), summary })
}

/// Compares each export of an adapter with what the trained model computes. An export that differs is renamed.
fn verify(
    plan: &Plan,
    run: &RunDir,
    inputs: &Inputs,
    outcome: &Outcome,
    compute: &Compute,
    reporter: &mut Reporter,
) -> Result<()> {
    let nothing = outcome.exports.is_empty() || plan.adapter.kind == AdapterKind::Full;
    if nothing || !plan.export.verify {
        return Ok(());
    }
    let Made::Adapter(adapter) = runs::made(run, plan)? else { return Ok(()) };
    let adapter = peft::read(&adapter)?;
    let conversations = verifying::conversations(plan.evaluation.prompts.as_deref())?;
    let (base, tokenizer) = (&inputs.base, &inputs.tokenizer);
    let limit = verifying::MAX_NEW_TOKENS;
    let reference = Reference::measure(base, Some(&adapter), tokenizer, &conversations, limit, compute, reporter)?;
    for Exported { name, path } in &outcome.exports {
        let Some(export) = export::find(name) else { continue };
        let verification = reference.check(export, path, base, compute, reporter)?;
        verification.write(path)?;
        let failures = verification.failures();
        if !failures.is_empty() {
            let kept = exporting::refused(path);
            durable::remove_dir(&kept)?;
            durable::publish_dir(path, &kept)?;
            return Err(verifying::failure(export, &failures, &kept));
        }
    }
    Ok(())
}

/// Trains together with the first process, which logs the run.
pub(crate) fn join_in(launch: Launch<'_>) -> Result<Launched> {
    let signals = Signals::install(launch.grace)?;
    let stop = || signals.received().map(StopReason::Signal);
    let compute = launch.compute;
    let memory = || compute.memory();
    let outcome = train(launch.job(&[], None, &memory, &stop))?;
    Ok(Launched { code: exit_code(outcome.stopped), summary: None })
}

fn exit_code(stopped: Option<StopReason>) -> i32 {
    match stopped {
        None => ExitCode::Done.number(),
        Some(StopReason::Signal(signal)) => signals::exit_code(signal),
        Some(StopReason::Requested) => signals::exit_code(signal_hook::consts::SIGINT),
    }
}

/// Logs the failure, if the log can still be written.
fn failed(failure: Failure, log: &mut EventLog) -> Failure {
    if failure.code != ExitCode::Diverged {
        let exit_code = failure.code.number() as u8;
        // The disk may be the cause; the error itself is printed anyway.
        log.append(EventKind::Failed { message: failure.message(), exit_code }).ok();
    }
    failure
}
