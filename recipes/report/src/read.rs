//! Reading a run for its page.
//!
//! Responsible for: filling a [`View`] with everything of a run directory that can be read. A part that can't be read
//! is a fault of the view, so that a damaged run has a page too.
//! Must not depend on: HTML.

use std::io::ErrorKind;
use std::path::Path;

use tonfall_recipes::counted;
use tonfall_runs::evaluation::Report;
use tonfall_runs::events::EventReadError;
use tonfall_runs::history::RunData;
use tonfall_runs::{EventReader, RunDir, RunDirError, Summary};

use crate::facts::Facts;
use crate::view::{Published, Skipped, View};

/// Evaluation reports below `eval/`.
const BASE: &str = "base.json";
const ADAPTER: &str = "adapter.json";

/// A run, and why parts of it can't be read.
#[derive(Debug)]
pub struct Reading {
    pub view: View,
    pub faults: Vec<RunDirError>,
}

/// Reads the run in the directory `path` for a page that is made at `made` (UTC).
///
/// # Errors
/// If there is no run.
pub fn read(path: &Path, made: &str, published: Option<Published>) -> Result<Reading, RunDirError> {
    let mut faults = Vec::new();
    let run = match RunDir::open(path) {
        Err(error @ RunDirError::NotFound { .. }) => return Err(error),
        other => kept(other, &mut faults),
    };
    // The lock is checked before the log: once the lock is free, the log is complete.
    let held = kept(tonfall_runs::lock::is_held(path).map_err(RunDirError::from), &mut faults).unwrap_or(false);
    let mut view = View {
        name: path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
        made: made.to_owned(),
        info: run.as_ref().map(|run| run.info().clone()),
        plan: run.as_ref().and_then(|run| kept(run.plan(), &mut faults)),
        status: Summary::default().status(held),
        summary: Summary::default(),
        data: RunData::default(),
        facts: Facts::default(),
        skipped: Skipped::default(),
        base: None,
        adapter: None,
        published,
        faults: Vec::new(),
    };
    kept(log(path, &mut view), &mut faults);
    view.status = view.summary.status(held);
    view.base = report(path, BASE, &mut faults);
    view.adapter = report(path, ADAPTER, &mut faults);
    view.faults = faults.iter().map(ToString::to_string).collect();
    Ok(Reading { view, faults })
}

/// Reads the run in the directory `path` as the published version `name`.
///
/// # Errors
/// If it can't be read.
pub fn read_published(path: &Path, name: &str) -> Result<Published, RunDirError> {
    let run = RunDir::open(path)?;
    let reading = read(path, "", None)?;
    match reading.faults.into_iter().next() {
        Some(fault) => Err(fault),
        None => Ok(Published {
            name: name.to_owned(),
            created: Some(run.info().created.clone()),
            plan: reading.view.plan,
            inputs: run.info().inputs.clone(),
            report: reading.view.adapter,
            data: reading.view.data.data,
            eval_loss: reading.view.summary.eval.map(|(_, loss)| loss),
        }),
    }
}

/// Reads a version of a store, in the directory `path`, as the published version `name`.
///
/// # Errors
/// If its record or its plan can't be read.
pub fn read_version(path: &Path, name: &str) -> Result<Published, RunDirError> {
    // A version keeps `run.json` and `plan.toml` of its run.
    let run = RunDir::open(path)?;
    let report = path.join(ADAPTER);
    Ok(Published {
        name: name.to_owned(),
        created: Some(run.info().created.clone()),
        plan: Some(run.plan()?),
        inputs: run.info().inputs.clone(),
        report: report.exists().then(|| Report::read(&report)).transpose()?,
        data: None,
        eval_loss: None,
    })
}

fn kept<T>(result: Result<T, RunDirError>, faults: &mut Vec<RunDirError>) -> Option<T> {
    result.map_err(|fault| faults.push(fault)).ok()
}

fn log(path: &Path, view: &mut View) -> Result<(), RunDirError> {
    let events = path.join(tonfall_runs::run_dir::EVENTS);
    let mut reader = EventReader::new(&events);
    let read = reader.scan(|event| {
        view.summary.observe(&event);
        view.facts.observe(&event);
        view.data.observe(event);
    });
    read.map_err(|error| match error {
        EventReadError::Io { path, source } => RunDirError::Read { path, source },
        EventReadError::Shrunk { .. } => RunDirError::Damaged { path: events.clone(), why: error.to_string() },
    })?;
    view.skipped = Skipped { damaged: reader.damaged(), unknown: reader.unknown() };
    match view.skipped.damaged {
        0 => Ok(()),
        count => {
            let why = format!("{} skipped because they are no events", counted(count, "line"));
            Err(RunDirError::Damaged { path: events, why })
        }
    }
}

fn report(path: &Path, name: &str, faults: &mut Vec<RunDirError>) -> Option<Report> {
    match Report::read(&path.join("eval").join(name)) {
        // A run without an evaluation.
        Err(RunDirError::Read { source, .. }) if source.kind() == ErrorKind::NotFound => None,
        other => kept(other, faults),
    }
}
