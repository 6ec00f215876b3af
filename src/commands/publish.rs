//! `tonfall publish RUN`: makes the adapter of a finished run the current version.
//!
//! Responsible for: gate, store and hooks, in this order.

use serde_json::json;
use tonfall_runs::RunLock;

use crate::args::Publish;
use crate::diagnostics::{ExitCode, Result};
use crate::gating;
use crate::output;
use crate::progress::Reporter;
use crate::publishing;
use crate::runs;
use crate::summary;

pub(crate) fn run(args: &Publish, reporter: &mut Reporter) -> Result<i32> {
    let run = runs::open(&args.run)?;
    let plan = run.plan()?;
    let store = publishing::store(&plan, args.store.as_deref())?;
    let run_lock = RunLock::acquire(run.path())?;
    publishing::refuse_unfinished(&run)?;
    let lock = store.lock()?;
    if args.no_gate {
        reporter.note("warning: published without the gate, because of --no-gate");
    } else {
        let reports = gating::stored(&run, &store)?;
        let verdict = gating::judge(&run, &plan, reports.as_ref(), &run_lock)?;
        if !verdict.passed {
            return Err(gating::failure(&run, &verdict));
        }
        if plan.gate.is_empty() {
            reporter.note("note: the recipe has no [[gate]], so any adapter is published");
        }
    }
    let published = publishing::publish(&run, &plan, &store, (&run_lock, &lock), reporter)?;
    if args.json {
        output::json(&json!({
            "name": store.name(),
            "version": published.number,
            "previous": published.before,
            "path": published.path,
            "removed": published.removed,
        }))?;
    } else {
        let place = summary::shown(&published.path);
        output::data(&format!("{} version {} is current: {place}", store.name(), published.number))?;
    }
    Ok(ExitCode::Done.number())
}
