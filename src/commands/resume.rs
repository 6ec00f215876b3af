//! `tonfall resume RUN`: continue an interrupted run.

use crate::args::Resume;
use crate::diagnostics::Result;
use crate::output;
use crate::progress::Reporter;
use crate::runs;
use crate::training::{self, Options};

pub(crate) fn run(args: &Resume, reporter: &mut Reporter) -> Result<i32> {
    let run = runs::open(&args.run)?;
    let options = Options { device: &args.device, metrics: &args.metrics, grace: args.grace.grace };
    let launched = training::resume(&run, args.accept_changes, options, reporter)?;
    if let Some(summary) = launched.summary {
        output::data(&summary)?;
    }
    Ok(launched.code)
}
