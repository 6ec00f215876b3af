//! `pages RUN FILE.html`: the page of a run, without the rest of tonfall.
#![expect(clippy::disallowed_methods, reason = "a page can be made again")]

use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [run, out] = &arguments[..] else { return Err("usage: pages RUN FILE.html".into()) };
    let reading = tonfall_report::read(run, "2026-12-01 06:00:00 UTC", None)?;
    std::fs::write(out, tonfall_report::page(&reading.view))?;
    Ok(())
}
