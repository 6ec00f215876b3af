//! `tonfall report RUN --out FILE`: a run as one HTML page for people.
//!
//! Responsible for: finding the runs and writing the page; `tonfall_report` reads and draws.

use std::path::Path;

use jiff::Timestamp;
use tonfall_durable as durable;
use tonfall_report::Published;

use crate::args::Report;
use crate::diagnostics::{Failure, Result};
use crate::output;
use crate::runs;
use crate::summary;

pub(crate) fn run(args: &Report) -> Result<()> {
    let place = runs::place(&args.run)?;
    let published = args.published.as_deref().map(published).transpose()?;
    let made = Timestamp::now().strftime("%Y-%m-%d %H:%M:%S UTC").to_string();
    let reading = tonfall_report::read(&place, &made, published)?;
    durable::write_file(&args.out, tonfall_report::page(&reading.view).as_bytes())?;
    output::note(&format!("wrote {}", summary::shown(&args.out)));
    if reading.view.status.is_alive() {
        output::note("note: the run has not ended; the page shows it as it is now");
    }
    // A damaged run has a page that names the damage; the exit code names it too.
    match Failure::all(reading.faults.into_iter().map(Failure::from).collect()) {
        Some(damage) => Err(damage),
        None => Ok(()),
    }
}

fn published(name: &Path) -> Result<Published> {
    let run = runs::open(name)?;
    Ok(tonfall_report::read_published(run.path(), &run.id())?)
}
