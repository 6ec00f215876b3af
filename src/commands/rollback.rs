//! `tonfall rollback NAME`: makes an earlier version the current one.

use serde_json::json;
use tonfall_recipes::Plan;
use tonfall_runs::store::Store;

use crate::args::Rollback;
use crate::diagnostics::{ExitCode, Failure, Result};
use crate::output;
use crate::progress::Reporter;
use crate::publishing;
use crate::summary;

pub(crate) fn run(args: &Rollback, reporter: &mut Reporter) -> Result<i32> {
    let store = publishing::at(&args.store, &args.name)?;
    if store.current()?.is_none() {
        let message = format!(
            "no version of {} is published in {}\nhint: `tonfall store` lists what is published; --store names another directory",
            args.name,
            summary::shown(&args.store)
        );
        return Err(Failure::new(ExitCode::Invalid, message));
    }
    let lock = store.lock()?;
    let number = match args.to {
        Some(number) => number,
        None => store.previous()?,
    };
    let plan = plan(&store)?;
    let before = publishing::switch(&store, &lock, number, &plan, reporter)?;
    match args.json {
        true => output::json(&json!({ "name": store.name(), "version": number, "previous": before }))?,
        false => output::data(&format!(
            "{} version {number} is current{}",
            store.name(),
            before.map_or_else(String::new, |before| format!(", instead of {before}"))
        ))?,
    }
    Ok(ExitCode::Done.number())
}

/// The plan of the current version: its hooks are those that published it.
fn plan(store: &Store) -> Result<Plan> {
    let current = store.current()?.unwrap_or_default();
    let path = store.path(current).join("plan.toml");
    let damaged = |why: String| Failure::new(ExitCode::Refused, format!("{}: {why}", summary::shown(&path)));
    let text = std::fs::read_to_string(&path).map_err(|error| damaged(error.to_string()))?;
    Plan::from_toml(&text).map_err(|error| damaged(error.to_string()))
}
