//! `tonfall export RUN|ADAPTER|MODEL --to NAME,… --out DIR`: writes what servers load.

use tonfall_adapters::export::ExportSettings;

use crate::args::ExportArgs;
use crate::calibration;
use crate::diagnostics::{ExitCode, Failure, Result};
use crate::exporting::Source;
use crate::inputs;
use crate::output;
use crate::progress::Reporter;
use crate::summary;

/// Returns the exit code: 0, or the code of the signal that stopped an export.
pub(crate) fn run(args: &ExportArgs, reporter: &mut Reporter) -> Result<i32> {
    let source = Source::open(&args.source, &args.options, reporter)?;
    for export in &args.to {
        let Some(directory) = export.directory(false) else { continue };
        let out = args.out.join(directory);
        if out.exists() {
            let message = format!("{} exists already; remove it or give another --out", summary::shown(&out));
            return Err(Failure::new(ExitCode::Invalid, message));
        }
    }
    let importance = calibration::importance(&source, args, reporter)?;
    let settings = ExportSettings {
        types: args.types.clone(),
        dtype: args.dtype,
        importance,
        max_ram: args.options.max_ram,
        ..ExportSettings::default()
    };
    let reference = match args.no_verify {
        true => None,
        false => {
            let compute = inputs::compute(args.device.device, 0, reporter)?;
            Some((source.reference(args.max_new_tokens as usize, &compute, reporter)?, compute))
        }
    };
    for export in &args.to {
        let Some(directory) = export.directory(false) else { continue };
        let out = args.out.join(directory);
        let reference = reference.as_ref().map(|(reference, compute)| (reference, compute));
        if let Some(code) = source.export(export, &settings, &out, reference, reporter)? {
            return Ok(code);
        }
        output::data(&format!("{:<13}{}", export.name, summary::shown(&out)))?;
    }
    Ok(ExitCode::Done.number())
}
