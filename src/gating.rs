//! The verdict on a run.
//!
//! Responsible for: the evaluation reports of a run and of the published version, [`gate::judge`], and storing the verdict in
//! the run.
//! Must not depend on: how reports are made.

use std::collections::BTreeMap;
use std::path::PathBuf;

use tonfall_durable as durable;
use tonfall_recipes::Plan;
use tonfall_runs::evaluation::Report;
use tonfall_runs::gate::{self, Verdict};
use tonfall_runs::store::Store;
use tonfall_runs::{EventKind, EventLog, RunDir, RunLock};

use crate::diagnostics::{ExitCode, Failure, Result};
use crate::evaluating::{BASE_FILE, TRAINED_FILE};
use crate::summary;

/// In `eval/` of a run and in a version of the store, like the reports.
pub(crate) const VERDICT: &str = "verdict.json";

/// The evaluation of a run.
pub(crate) struct Reports {
    pub(crate) adapter: Report,
    pub(crate) base: Option<Report>,
    /// Of the adapter that is published now; `None` if nothing is published.
    pub(crate) published: Option<Report>,
}

/// The reports that an evaluation has left in a run; `None` if the run was not evaluated.
pub(crate) fn stored(run: &RunDir, store: &Store) -> Result<Option<Reports>> {
    let read = |path: PathBuf| path.is_file().then(|| Report::read(&path)).transpose();
    let Some(adapter) = read(run.eval().join(TRAINED_FILE))? else { return Ok(None) };
    let base = read(run.eval().join(BASE_FILE))?;
    Ok(Some(Reports { adapter, base, published: of_published(store)? }))
}

/// The verdict that a run has stored; `None` if it was not judged.
pub(crate) fn verdict(run: &RunDir) -> Result<Option<Verdict>> {
    let path = run.eval().join(VERDICT);
    if !path.is_file() {
        return Ok(None);
    }
    let text = tonfall_adapters::read_text(&path)?;
    serde_json::from_slice(&text).map(Some).map_err(|error| {
        let message = format!("{} is damaged: {error}; remove it, and the run is judged again", path.display());
        Failure::new(ExitCode::Refused, message)
    })
}

/// The report of the current version, as it was published; `None` if nothing is published, or without a report.
pub(crate) fn of_published(store: &Store) -> Result<Option<Report>> {
    let Some(number) = store.current()? else { return Ok(None) };
    let path = store.path(number).join(TRAINED_FILE);
    Ok(path.is_file().then(|| Report::read(&path)).transpose()?)
}

/// Judges a finished run by the rules of its plan, and stores the verdict in the run. Without rules, the run needs no reports.
///
/// # Errors
/// If there are rules and no reports, or the verdict can't be written.
pub(crate) fn judge(run: &RunDir, plan: &Plan, reports: Option<&Reports>, lock: &RunLock) -> Result<Verdict> {
    let verdict = match reports {
        Some(Reports { adapter, base, published }) => {
            gate::judge(adapter, base.as_ref(), published.as_ref(), &plan.gate)
        }
        None if plan.gate.is_empty() => Verdict { passed: true, ..Verdict::default() },
        None => {
            let place = summary::in_shell(run.path());
            let message = format!(
                "the run was not evaluated, and its recipe has a [[gate]]\nhint: `tonfall eval {place}` evaluates it"
            );
            return Err(Failure::new(ExitCode::Invalid, message));
        }
    };
    durable::write_file(&run.eval().join(VERDICT), &serde_json::to_vec_pretty(&verdict)?)?;
    let (passed, reasons) = (verdict.passed, verdict.reasons.clone());
    EventLog::open_afterwards(run, lock)?.append(EventKind::Gate { passed, reasons })?;
    Ok(verdict)
}

/// Measures that matter without a gate.
const IMPORTANT: [&str; 4] = ["loss", "terms.preferred", "terms.forbidden", "retention.perplexity"];

/// The finite values of the measures that the gate names; without a gate, of the most important ones.
pub(crate) fn important(report: &Report, verdict: &Verdict) -> BTreeMap<String, f64> {
    let named: Vec<&str> = match verdict.conditions.is_empty() {
        true => IMPORTANT.to_vec(),
        false => verdict.conditions.iter().map(|judged| judged.measure.as_str()).collect(),
    };
    let value = |name: &str| report.measure(name)?.value().filter(|value| value.is_finite());
    named.into_iter().filter_map(|name| Some((name.to_owned(), value(name)?))).collect()
}

/// The failure of a command whose gate has not passed.
pub(crate) fn failure(run: &RunDir, verdict: &Verdict) -> Failure {
    let place = summary::shown(run.path());
    let mut message = "the gate has not passed; nothing was published".to_owned();
    for reason in &verdict.reasons {
        message += &format!("\n  {reason}");
    }
    message += &format!("\nhint: the adapter and the verdict are kept in {place}");
    Failure::new(ExitCode::GateFailed, message)
}
