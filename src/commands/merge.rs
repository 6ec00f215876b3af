//! `tonfall merge RUN|ADAPTER --out DIR`: merges an adapter into its base model.

use std::ops::ControlFlow;

use tonfall_adapters::export::{self, ExportSettings};

use crate::args::Merge;
use crate::diagnostics::{ExitCode, Failure, Result};
use crate::exporting::{Source, publish};
use crate::output;
use crate::progress::Reporter;
use crate::summary;

/// Returns the exit code: 0, or the code of the signal that stopped the merge.
pub(crate) fn run(args: &Merge, reporter: &mut Reporter) -> Result<i32> {
    if args.out.exists() {
        let message = format!("{} exists already; give a new directory", args.out.display());
        return Err(Failure::new(ExitCode::Invalid, message));
    }
    let source = Source::open(&args.adapter, &args.options, reporter)?;
    if !source.has_adapter() {
        let place = summary::shown(&args.adapter);
        let message = format!("{place} is a whole model already; there is nothing to merge");
        return Err(Failure::new(ExitCode::Invalid, message));
    }
    let safetensors = export::find("safetensors").unwrap_or_else(|| unreachable!("a row of the table"));
    let settings = ExportSettings { max_ram: args.options.max_ram, ..ExportSettings::default() };
    match source.export(safetensors, &settings, &args.out, None, reporter)? {
        ControlFlow::Break(code) => return Ok(code),
        ControlFlow::Continue(written) => publish(written, reporter)?,
    }
    output::data(&format!("merged, read back and compared: {}", summary::shown(&args.out)))?;
    Ok(ExitCode::Done.number())
}
