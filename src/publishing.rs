//! From a finished run to a version of the store.
//!
//! Responsible for: which files of a run are published, the checks before that, and logging it in the run. The store
//! decides the order of writes.
//! Must not depend on: commands, how runs are trained.

use std::path::{Path, PathBuf};

use tonfall_adapters::peft;
use tonfall_recipes::Plan;
use tonfall_recipes::plan::AdapterKind;
use tonfall_runs::store::{Contents, Hook, Store, StoreLock};
use tonfall_runs::{EventKind, EventLog, RunDir, RunLock, RunState};

use crate::diagnostics::{ExitCode, Failure, Result};
use crate::evaluating::{BASE_FILE, TRAINED_FILE};
use crate::gating::VERDICT;
use crate::hooks::{ADAPTER, PlannedHook};
use crate::lineage;
use crate::progress::Reporter;
use crate::runs::{self, Made};
use crate::summary;

/// A version that is current now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Published {
    pub(crate) number: u64,
    pub(crate) before: Option<u64>,
    pub(crate) path: PathBuf,
    /// Old versions that were removed.
    pub(crate) removed: Vec<u64>,
}

/// The store of a plan; `root` replaces the plan's directory.
pub(crate) fn store(plan: &Plan, root: Option<&Path>) -> Result<Store> {
    at(root.unwrap_or(&plan.publish.store), plan.published_name())
}

/// The store of a name. Hooks need absolute paths.
pub(crate) fn at(root: &Path, name: &str) -> Result<Store> {
    Ok(Store::at(&std::path::absolute(root)?, name)?)
}

/// Refuses a run that is not finished.
pub(crate) fn refuse_unfinished(run: &RunDir) -> Result<()> {
    match run.logged_state()? {
        RunState::Finished => Ok(()),
        state => {
            let place = summary::in_shell(run.path());
            let message = format!("the run is {}\nhint: `tonfall resume {place}` continues it", state.name());
            Err(Failure::new(ExitCode::Invalid, message))
        }
    }
}

/// Makes the adapter of a finished run the current version. A version that an earlier call has written is used again.
pub(crate) fn publish(
    run: &RunDir,
    plan: &Plan,
    store: &Store,
    locks: (&RunLock, &StoreLock),
    reporter: &mut Reporter,
) -> Result<Published> {
    let (run_lock, lock) = locks;
    let written = store.list()?.into_iter().rev().find(|listed| {
        let of_run = listed.version.as_ref().is_ok_and(|version| version.run == run.id());
        of_run && store.verify(listed.number).is_ok()
    });
    let is_current = written.as_ref().is_some_and(|listed| listed.is_current);
    let number = match written {
        Some(listed) => listed.number,
        None => store.add(lock, &contents(run, plan)?)?,
    };
    let before = match is_current {
        // An earlier call was killed after the switch.
        true => {
            settle(store, lock, plan, reporter)?;
            store.version(number)?.previous
        }
        false => switch(store, lock, number, plan, reporter)?,
    };
    let name = format!("{} version {number}", store.name());
    EventLog::open_afterwards(run, run_lock)?.append(EventKind::Published { name })?;
    let removed = store.prune(lock, plan.publish.keep)?;
    Ok(Published { number, before, path: store.path(number), removed })
}

/// Makes a version the current one, with the hooks of a plan. Returns the version that was current.
pub(crate) fn switch(
    store: &Store,
    lock: &StoreLock,
    number: u64,
    plan: &Plan,
    reporter: &mut Reporter,
) -> Result<Option<u64>> {
    with_hooks(plan, reporter, |hooks| store.switch(lock, number, hooks).map_err(Failure::from))
}

/// Ends a publication that was killed.
pub(crate) fn settle(store: &Store, lock: &StoreLock, plan: &Plan, reporter: &mut Reporter) -> Result<()> {
    let pending = with_hooks(plan, reporter, |hooks| store.settle(lock, hooks).map_err(Failure::from))?;
    if let Some(pending) = pending {
        reporter.record(&format!(
            "note: the publication of version {} did not end; servers have the current version again",
            pending.to
        ));
    }
    Ok(())
}

fn with_hooks<T>(plan: &Plan, reporter: &mut Reporter, work: impl FnOnce(&[&dyn Hook]) -> Result<T>) -> Result<T> {
    let hooks = PlannedHook::all(&plan.hook);
    let seams: Vec<&dyn Hook> = hooks.iter().map(|hook| hook as &dyn Hook).collect();
    let done = work(&seams);
    for line in hooks.iter().flat_map(PlannedHook::take_printed) {
        reporter.record(&line);
    }
    done
}

/// The files of a version: the adapter, the other exports, and where they come from.
fn contents(run: &RunDir, plan: &Plan) -> Result<Contents> {
    if plan.adapter.kind == AdapterKind::Full {
        let message = "full training has no adapter to publish\nhint: copy its export to the place that servers load";
        return Err(Failure::new(ExitCode::Invalid, message));
    }
    let Made::Adapter(adapter) = runs::made(run, plan)? else {
        return Err(Failure::new(ExitCode::Invalid, "the run has no adapter"));
    };
    // Reads all tensors; an adapter without effect or with NaN is refused.
    peft::read(&adapter)?;
    let mut contents = Contents {
        run: run.id(),
        key: run.info().key.clone(),
        lineage: lineage::of_run(run, plan).into_iter().collect(),
        ..Contents::default()
    };
    contents.add_dir(ADAPTER, &adapter)?;
    for entry in std::fs::read_dir(run.exports())? {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        // Refused exports and scratch directories are not published.
        let is_export = plan.export.to.iter().any(|export| export_directory(export) == Some(name.as_str()));
        if path != adapter && path.is_dir() && is_export {
            contents.add_dir(&format!("exports/{name}"), &path)?;
        }
    }
    for name in ["recipe.toml", "plan.toml", "run.json"] {
        contents.files.insert(name.to_owned(), run.path().join(name));
    }
    for name in [TRAINED_FILE, BASE_FILE, VERDICT] {
        let path = run.eval().join(name);
        if path.is_file() {
            contents.files.insert(name.to_owned(), path);
        }
    }
    Ok(contents)
}

/// The directory of an export in `exports/` of a run.
fn export_directory(name: &str) -> Option<&'static str> {
    tonfall_adapters::export::find(name)?.directory(false)
}
