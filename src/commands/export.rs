//! `tonfall export RUN|ADAPTER|MODEL --to NAME,… --out DIR`: writes what servers load.

use std::ops::ControlFlow;

use tonfall_adapters::export::ExportSettings;

use crate::args::ExportArgs;
use crate::calibration;
use crate::diagnostics::{ExitCode, Failure, Result};
use crate::exporting::{Source, publish};
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
    // Nothing appears before all exports are written and compared.
    let mut all = Vec::with_capacity(args.to.len());
    for export in &args.to {
        let Some(directory) = export.directory(false) else { continue };
        let out = args.out.join(directory);
        let reference = reference.as_ref().map(|(reference, compute)| (reference, compute));
        match source.export(export, &settings, &out, reference, reporter)? {
            ControlFlow::Break(code) => return Ok(code),
            ControlFlow::Continue(written) => all.push((export, out, written)),
        }
    }
    for (export, out, written) in all {
        publish(written, reporter)?;
        output::data(&format!("{:<13}{}", export.name, summary::shown(&out)))?;
    }
    Ok(ExitCode::Done.number())
}
