//! `tonfall watch [RUN…]`: the dashboard, for live and finished runs.
//!
//! Responsible for: finding the runs; the dashboard itself is `tonfall_tui`.

use std::path::Path;

use tonfall_tui::{Still, Watch as What};

use crate::args::{Global, Watch};
use crate::diagnostics::Result;
use crate::look;
use crate::output;
use crate::runs;
use crate::watched::SignalHost;

pub(crate) fn run(args: &Watch, global: &Global) -> Result<()> {
    if !args.once {
        look::need_terminal("--once prints one frame as text")?;
    }
    let found = runs::named_or_newest(&args.runs)?;
    let paths: Vec<_> = found.iter().map(|run| run.path().to_owned()).collect();
    let directory = paths.first().and_then(|path| path.parent()).filter(|parent| *parent != Path::new(""));
    let look = if args.once { look::of_environment(&args.look, global) } else { look::of_terminal(&args.look, global) };
    let what = What { directory: directory.map(Path::to_owned), runs: paths, look };
    if args.once {
        let (width, height) = args.size;
        return Ok(output::data(&Still::read(&what).draw(width, height))?);
    }
    Ok(tonfall_tui::watch(&what, &SignalHost::new()?)?)
}
