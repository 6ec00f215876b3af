//! The command line of tonfall.
//!
//! Responsible for: parsing, dispatching, and the exit code. What a command does stands in its file in `commands`.
//! Must not depend on: tensors; nothing in this crate names one.

mod allocator;
mod args;
mod commands;
mod diagnostics;
mod hub;
mod inputs;
mod launch;
mod metrics_server;
mod output;
mod processes;
mod progress;
mod quickstart;
mod run_inputs;
mod runs;
mod signals;
mod summary;
mod user_cache;
mod watched;

use std::panic;
use std::process;

use clap::Parser;

use crate::args::{Cli, Command};
use crate::diagnostics::{ExitCode, Result};
use crate::progress::Reporter;

fn main() {
    allocator::keep_less();
    panic::set_hook(Box::new(|fault| {
        let text = fault.to_string();
        // The training loop takes it up and says what becomes of it.
        if !tonfall_trainer::is_out_of_memory(&text) {
            output::note(&format!("error: unexpected: {text}\nhint: this is a fault of tonfall; please report it"));
        }
    }));
    let cli = Cli::parse();
    let color = cli.global.color.on();
    let result = panic::catch_unwind(|| dispatch(cli));
    let code = match result {
        Ok(Ok(code)) => code,
        Ok(Err(failure)) => {
            output::note(&failure.render(color));
            failure.code.number()
        }
        // The hook has said what happened.
        Err(_) => ExitCode::Unexpected.number(),
    };
    process::exit(code);
}

/// Runs a command; the number is the exit code of what did not fail.
fn dispatch(cli: Cli) -> Result<i32> {
    let mut reporter = Reporter::new(&cli.global);
    let reporter = &mut reporter;
    let done = |result: Result<()>| result.map(|()| ExitCode::Done.number());
    match cli.command {
        Command::Init(args) => done(commands::init::run(&args, reporter)),
        Command::Check(args) => done(commands::check::run(&args, reporter)),
        Command::Estimate(args) => done(commands::estimate::run(&args, reporter)),
        Command::Data(args) => done(commands::data::run(&args, reporter)),
        Command::Train(args) if args.watch => watched::train(&args, &cli.global),
        Command::Train(args) => commands::train::run(&args, reporter),
        Command::Resume(args) => commands::resume::run(&args, reporter),
        Command::Chat(args) => done(commands::chat::run(&args, reporter)),
        Command::Merge(args) => done(commands::merge::run(&args, reporter)),
        Command::Runs(args) => done(commands::runs::run(&args)),
        Command::Watch(args) => done(commands::watch::run(&args, &cli.global)),
        Command::Plot(args) => done(commands::plot::run(&args)),
        Command::Metrics(args) => done(commands::metrics::run(&args)),
        Command::Doctor(args) => done(commands::doctor::run(&args)),
        Command::Completions(args) => done(commands::completions::run(&args)),
        Command::Man => done(commands::man::run()),
    }
}
