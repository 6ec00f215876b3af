//! `tonfall watch [RUN]`: the view of a run, live or finished.
//!
//! Responsible for: finding the run; the view itself is `tonfall_tui`.

use std::io::{self, IsTerminal};
use std::path::Path;

use tonfall_recipes::RunDir;

use crate::args::Watch;
use crate::diagnostics::{ExitCode, Failure, Result};
use crate::output;
use crate::runs;

/// Size of the frame that `--once` prints.
const ONCE: (u16, u16) = (100, 30);

pub(crate) fn run(args: &Watch) -> Result<()> {
    let run = match &args.run {
        Some(name) => runs::open(name)?,
        None => RunDir::latest(Path::new(runs::DIRECTORY))?
            .ok_or_else(|| Failure::new(ExitCode::Invalid, "there are no runs in ./runs; `tonfall train` makes one"))?,
    };
    if !args.once && !io::stdout().is_terminal() {
        return Err(Failure::new(ExitCode::Usage, "stdout is not a terminal\nhint: --once prints one frame as text"));
    }
    match args.once {
        true => Ok(output::data(tonfall_tui::frame(&run, ONCE.0, ONCE.1)?.trim_end())?),
        false => Ok(tonfall_tui::watch(&run)?),
    }
}
