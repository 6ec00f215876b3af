//! `tonfall export RUN|ADAPTER|MODEL --to NAME,… --out DIR`: writes what servers load.

use tonfall_adapters::export::ExportSettings;

use crate::args::ExportArgs;
use crate::diagnostics::{ExitCode, Failure, Result};
use crate::exporting::Source;
use crate::output;
use crate::progress::Reporter;
use crate::summary;

/// Returns the exit code: 0, or the code of the signal that stopped an export.
pub(crate) fn run(args: &ExportArgs, reporter: &mut Reporter) -> Result<i32> {
    let source = Source::open(&args.source, args.base.as_deref(), reporter)?;
    let settings = ExportSettings { types: args.types.clone(), dtype: args.dtype, ..ExportSettings::default() };
    for export in &args.to {
        let Some(directory) = export.directory(false) else { continue };
        let out = args.out.join(directory);
        if out.exists() {
            let message = format!("{} exists already; remove it or give another --out", summary::shown(&out));
            return Err(Failure::new(ExitCode::Invalid, message));
        }
    }
    for export in &args.to {
        let Some(directory) = export.directory(false) else { continue };
        let out = args.out.join(directory);
        if let Some(code) = source.export(export, &settings, &out, reporter)? {
            return Ok(code);
        }
        output::data(&format!("{:<13}{}", export.name, summary::shown(&out)))?;
    }
    Ok(ExitCode::Done.number())
}
