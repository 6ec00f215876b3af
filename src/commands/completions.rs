//! `tonfall completions SHELL`: a completion script.
//!
//! Responsible for: calling clap's generator.

use clap::CommandFactory;

use crate::args::{Cli, Completions};
use crate::diagnostics::Result;
use crate::output;

pub(crate) fn run(args: &Completions) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "tonfall", &mut script);
    Ok(output::piece(&String::from_utf8_lossy(&script))?)
}
