//! `tonfall report RUN --out FILE`: a run, or the nights of a store, as one HTML page for people.
//!
//! Responsible for: finding the runs and writing the page; `tonfall_report` reads and draws.

use std::path::Path;

use jiff::Timestamp;
use tonfall_durable as durable;
use tonfall_recipes::counted;
use tonfall_report::Published;
use tonfall_runs::RunDir;
use tonfall_runs::nights;

use crate::args::Report;
use crate::diagnostics::{ExitCode, Failure, Result};
use crate::output;
use crate::publishing;
use crate::runs;
use crate::summary;

const STORE: &str = "store";

pub(crate) fn run(args: &Report) -> Result<()> {
    match (&args.run, &args.nights) {
        (Some(run), _) => of_run(args, run),
        (None, Some(name)) => of_nights(args, name),
        (None, None) => Err(Failure::new(ExitCode::Usage, "give a run or --nights NAME")),
    }
}

fn of_run(args: &Report, name: &Path) -> Result<()> {
    let place = runs::place(name)?;
    let published = match &args.published {
        Some(other) => Some(published(other)?),
        // A damaged run has no plan, and so no store.
        None => RunDir::open(&place).ok().map(|run| current(&run, args.store.as_deref())).transpose()?.flatten(),
    };
    let made = Timestamp::now().strftime("%Y-%m-%d %H:%M:%S UTC").to_string();
    let reading = tonfall_report::read(&place, &made, published)?;
    write(&args.out, &tonfall_report::page(&reading.view))?;
    if reading.view.status.is_alive() {
        output::note("note: the run has not ended; the page shows it as it is now");
    }
    // A damaged run has a page that names the damage; the exit code names it too.
    match Failure::all(reading.faults.into_iter().map(Failure::from).collect()) {
        Some(damage) => Err(damage),
        None => Ok(()),
    }
}

fn of_nights(args: &Report, name: &str) -> Result<()> {
    let root = args.store.as_deref().unwrap_or(Path::new(STORE));
    let store = publishing::at(root, name)?;
    let (records, damaged) = nights::read(store.directory())?;
    if damaged > 0 {
        output::note(&format!("warning: {} skipped because they are no nights", counted(damaged, "line")));
    }
    if records.is_empty() {
        let message = format!("there are no nights of {name} in {}", summary::shown(root));
        return Err(Failure::new(ExitCode::Invalid, message));
    }
    let nights: Vec<_> = records.into_iter().map(Into::into).collect();
    write(&args.out, &tonfall_report::nights(&nights))
}

fn write(out: &Path, page: &str) -> Result<()> {
    durable::write_file(out, page.as_bytes())?;
    output::note(&format!("wrote {}", summary::shown(out)));
    Ok(())
}

fn published(name: &Path) -> Result<Published> {
    let run = runs::open(name)?;
    Ok(tonfall_report::read_published(run.path(), &run.id())?)
}

/// The current version of the store of a run. If the run made it, the version before. `None` if there is none.
fn current(run: &RunDir, root: Option<&Path>) -> Result<Option<Published>> {
    let Ok(plan) = run.plan() else { return Ok(None) };
    let store = publishing::store(&plan, root)?;
    let Some(current) = store.current()? else { return Ok(None) };
    let version = store.version(current)?;
    let number = if version.run == run.id() { version.previous } else { Some(current) };
    let Some(number) = number.filter(|number| store.path(*number).is_dir()) else { return Ok(None) };
    let name = format!("{} version {number}", store.name());
    Ok(Some(tonfall_report::read_version(&store.path(number), &name)?))
}
