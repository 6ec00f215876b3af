//! One night: from changed data to a published adapter.
//!
//! Responsible for: the order of the stages, and which of them are needed.
//! Must not depend on: how a stage works; each one is a function of another module.
//!
//! data changed? → check and audit → memory and disk → train or resume → evaluate → gate → export, verify and publish → prune
//!
//! Exports are written and verified at the end of the training, before the evaluation. A process that is killed anywhere leaves
//! a state from which the next night goes on: [`decide`] derives it from the runs and the store, and nothing else is stored.

mod decide;
mod evaluate;
mod key;
mod night;
mod prune;

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use tonfall_recipes::plan::{NightlyPlan, StartFrom};
use tonfall_recipes::{Plan, RecipeFile};
use tonfall_runs::store::Store;
use tonfall_runs::{FileLock, RunDir, RunLock};

use crate::args::{DeviceArgs, Nightly};
use crate::diagnostics::{ExitCode, Failure, Result};
use crate::gating;
use crate::hooks::ADAPTER;
use crate::progress::Reporter;
use crate::publishing;
use crate::signals::{self, Signals};
use crate::training::{self, New, Options};

use self::decide::{Past, Todo};
pub(crate) use self::night::{Ended, Night};

/// The part of a night that may fail in the middle.
pub(crate) fn run(
    args: &Nightly,
    (recipe, plan): (&RecipeFile, &Plan),
    night: &mut Night,
    reporter: &mut Reporter,
) -> Result<Ended> {
    let store = publishing::store(plan, None)?;
    give_way(&plan.nightly, reporter);
    // Training has its own handler, which saves a checkpoint. This one ends the other stages, after the one that runs.
    let signals = Signals::stop_early()?;
    let deadline = plan.nightly.max_duration.map(|hours| Instant::now() + Duration::from_secs_f64(3600.0 * hours));
    // Servers get their version back before anything else, because training takes hours.
    publishing::settle(&store, &store.lock()?, plan, reporter)?;

    let options = Options { device: &args.device, metrics: &args.metrics, grace: args.grace.grace };
    let tonight = started_from(plan, &store)?;
    let opened = night.stage("check", reporter, |reporter| training::open(&tonight, options, reporter))?;
    let key = key::of(plan, &opened.inputs)?;
    if let Some(signal) = signals.received() {
        return Ok(Ended::stopped_early(signals::exit_code(signal)));
    }
    let past = Past::of(plan, &store, &key)?;
    let todo = decide::decide(past, &plan.gate, args.force);
    night.note(&format!("changed: {}", todo.words()), reporter);
    let is_over = deadline.is_some_and(|deadline| deadline <= Instant::now());
    let run = match todo {
        Todo::Train | Todo::Resume { .. } if is_over => return Ok(Ended::out_of_time()),
        Todo::Nothing { reason } => return Ok(Ended::unchanged(reason)),
        Todo::Rejected { run, reasons } => return Ok(Ended::rejected(&run, reasons)),
        Todo::Diverged { run } => {
            let message =
                format!("the run {} has diverged with the same recipe and data; change one of them", run.id());
            return Err(Failure::new(ExitCode::Diverged, message));
        }
        Todo::Judge { run } => run,
        Todo::Resume { run } => {
            night.run(&run);
            drop(opened);
            stop_at(deadline, run.clone());
            let launched =
                night.stage("resume", reporter, |reporter| training::resume(&run, false, options, reporter))?;
            match launched.code {
                0 => run,
                code => return Ok(Ended::stopped(&run, code)),
            }
        }
        Todo::Train => {
            opened.refuse_full_disk(plan)?;
            night.note(&format!("train on {}", opened.compute().name()), reporter);
            let mut made: Option<RunDir> = None;
            let mut created = |run: &RunDir| {
                made = Some(run.clone());
                stop_at(deadline, run.clone());
            };
            let new = New { recipe, plan: &tonight, overrides: &args.recipe.set, run_name: None };
            let launched = night.stage("train", reporter, |reporter| {
                training::start(&new, opened, Some(key), &mut created, options, reporter)
            });
            if let Some(run) = &made {
                night.run(run);
            }
            let launched = launched?;
            match (made, launched.code) {
                (Some(run), 0) => run,
                (Some(run), code) => return Ok(Ended::stopped(&run, code)),
                (None, _) => {
                    return Err(Failure::new(ExitCode::Usage, "only the first process of several runs a night"));
                }
            }
        }
    };
    night.run(&run);
    let ended = judge_and_publish(&run, plan, &store, (&args.device, &signals), night, reporter)?;
    // The adapter is published or refused, and that is the result of the night.
    if let Err(failure) = night.stage("prune", reporter, |reporter| prune::runs(plan, &run, reporter)) {
        reporter.record(&format!("warning: {}", failure.message()));
    }
    Ok(ended)
}

/// The run may be an earlier one. The tables that don't change what is trained are tonight's.
fn judge_and_publish(
    run: &RunDir,
    tonight: &Plan,
    store: &Store,
    (device, signals): (&DeviceArgs, &Signals),
    night: &mut Night,
    reporter: &mut Reporter,
) -> Result<Ended> {
    let Plan { gate, publish, hook, .. } = tonight.clone();
    let plan = Plan { gate, publish, hook, ..run.plan()? };
    let reports = night.stage("evaluate", reporter, |reporter| evaluate::run(run, &plan, store, device, reporter))?;
    if let Some(signal) = signals.received() {
        return Ok(Ended::stopped(run, signals::exit_code(signal)));
    }
    let run_lock = RunLock::acquire(run.path())?;
    let verdict = night.stage("gate", reporter, |_| gating::judge(run, &plan, Some(&reports), &run_lock))?;
    let measures = gating::important(&reports.adapter, &verdict);
    if !verdict.passed {
        return Ok(Ended::rejected(run, verdict.reasons).with(measures));
    }
    let lock = store.lock()?;
    let published = night
        .stage("publish", reporter, |reporter| publishing::publish(run, &plan, store, (&run_lock, &lock), reporter))?;
    Ok(Ended::published(run, &published).with(measures))
}

/// The plan of a new run: with `start_from = "published"`, it begins with the published adapter.
fn started_from(plan: &Plan, store: &Store) -> Result<Plan> {
    let mut plan = plan.clone();
    if plan.nightly.start_from == StartFrom::Published
        && let Some(number) = store.current()?
    {
        store.verify(number)?;
        plan.lora.init = Some(store.path(number).join(ADAPTER));
    }
    Ok(plan)
}

/// Requests a stop of the run when its time is over. It saves a checkpoint, and the next night continues.
fn stop_at(deadline: Option<Instant>, run: RunDir) {
    let Some(deadline) = deadline else { return };
    thread::spawn(move || {
        thread::sleep(deadline.saturating_duration_since(Instant::now()));
        // A run that begins at this moment clears the first request.
        for pause in [2, 10, 0] {
            // If the request can't be written, the run goes on until it is finished.
            run.request_stop().ok();
            thread::sleep(Duration::from_secs(pause));
        }
    });
}

/// Threads that are started later have the same niceness.
fn give_way(plan: &NightlyPlan, reporter: &mut Reporter) {
    if plan.nice == 0 {
        return;
    }
    let (nice, process) = (plan.nice.to_string(), std::process::id().to_string());
    let status = std::process::Command::new("renice").args(["-n", &nice, "-p", &process]).output();
    if !status.is_ok_and(|output| output.status.success()) {
        reporter.record("warning: `renice` has failed; the night runs with the usual priority");
    }
}

/// The lock of the nights of a plan.
pub(crate) fn lock(store: &Path) -> Result<FileLock> {
    tonfall_durable::create_dir_all(store)?;
    Ok(FileLock::acquire(&store.join("nightly.lock"), "in a nightly run")?)
}
