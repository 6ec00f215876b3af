//! `tonfall plot [RUN…] --out FILE`: the loss curves of runs as SVG or PNG.
//!
//! Responsible for: choosing the format by the file's extension, and writing it; `tonfall_tui` draws.

use tonfall_durable as durable;
use tonfall_tui::picture;

use crate::args::Plot;
use crate::diagnostics::{ExitCode, Failure, Result};
use crate::output;
use crate::runs;
use crate::summary;

pub(crate) fn run(args: &Plot) -> Result<()> {
    let extension = args.out.extension().map(|extension| extension.to_string_lossy().to_lowercase());
    let draw = match extension.as_deref() {
        Some("svg") => |runs: &[_]| picture::svg(runs).map(String::into_bytes),
        Some("png") => picture::png,
        _ => {
            let message = format!(
                "{} is neither SVG nor PNG\nhint: --out takes a name that ends in .svg or .png",
                args.out.display()
            );
            return Err(Failure::new(ExitCode::Usage, message));
        }
    };
    let runs = runs::named_or_newest(&args.runs)?;
    durable::write_file(&args.out, &draw(&runs)?)?;
    output::note(&format!("wrote {}", summary::shown(&args.out)));
    Ok(())
}
