//! Old runs of earlier nights.
//!
//! Must not depend on: the store, which has copies of what it needs.

use std::path::Path;

use tonfall_durable::{self as durable, SCRATCH_PREFIX};
use tonfall_recipes::Plan;
use tonfall_runs::{RunDir, RunLock};

use crate::diagnostics::Result;
use crate::progress::Reporter;

/// Removes all runs of earlier nights but the newest ones. Runs that were started by `tonfall train` are kept.
pub(crate) fn runs(plan: &Plan, tonight: &RunDir, reporter: &mut Reporter) -> Result<()> {
    let mut old = RunDir::list(&plan.output_dir)?.runs;
    old.retain(|run| run.info().key.is_some() && is_named(run, &plan.name));
    old.truncate(old.len().saturating_sub(plan.nightly.keep_runs));
    for run in old.iter().filter(|run| run.path() != tonight.path()) {
        remove(run)?;
        reporter.record(&format!("removed the old run {}", run.id()));
    }
    Ok(())
}

/// Whether the run has the name of a plan and hexadecimal digits, as [`RunDir::create`] gives it.
fn is_named(run: &RunDir, name: &str) -> bool {
    let id = run.id();
    let digits = id.strip_prefix(name).and_then(|rest| rest.strip_prefix('-'));
    digits.is_some_and(|digits| !digits.is_empty() && digits.chars().all(|c| c.is_ascii_hexdigit()))
}

/// Removes a run that no process works on. It gets a scratch name first, so that a kill leaves no half of a run.
fn remove(run: &RunDir) -> Result<()> {
    let _lock = RunLock::acquire(run.path())?;
    let parent = run.path().parent().unwrap_or(Path::new("."));
    let scratch = parent.join(format!("{SCRATCH_PREFIX}{:016x}", durable::nonce()));
    durable::rename(run.path(), &scratch)?;
    Ok(durable::remove_dir(&scratch)?)
}
