//! The command line of tonfall.
//!
//! Responsible for: parsing, dispatching, and the exit code. Each command is a file in `commands`.
//! Must not depend on: tensors; no module of this crate names one.

mod allocator;
mod args;
mod calibration;
mod commands;
mod diagnostics;
mod evaluating;
mod evaluation_cache;
mod exit_code;
mod exporting;
mod fit;
mod gating;
mod hooks;
mod http;
mod hub;
mod inputs;
mod launch;
mod lineage;
mod look;
mod metrics_server;
mod nightly;
mod notifying;
mod output;
mod processes;
mod progress;
mod publishing;
mod quickstart;
mod run_inputs;
mod runs;
mod served_model;
mod shell;
mod signals;
mod summary;
mod template_variables;
mod training;
mod user_cache;
mod verification;
mod verifying;
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
        // The training loop catches this panic and reports it.
        if !tonfall_trainer::is_out_of_memory(&text) {
            output::note(&format!("error: unexpected: {text}\nhint: this is a bug in tonfall; please report it"));
        }
    }));
    let cli = Cli::parse();
    let color = cli.global.color.on();
    let result = panic::catch_unwind(|| dispatch(cli));
    let code = match result {
        Ok(Ok(code)) => code,
        Ok(Err(failure)) => {
            output::painted_note(&failure.render(color, output::stderr_width()));
            failure.code.number()
        }
        // The panic hook has printed the message.
        Err(_) => ExitCode::Unexpected.number(),
    };
    process::exit(code);
}

/// Runs a command and returns its exit code; a failure has a code of its own.
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
        Command::Eval(args) => done(commands::eval::run(&args, reporter)),
        Command::Merge(args) => commands::merge::run(&args, reporter),
        Command::Export(args) => commands::export::run(&args, reporter),
        Command::Verify(args) => commands::verify::run(&args, reporter),
        Command::Publish(args) => commands::publish::run(&args, reporter),
        Command::Rollback(args) => commands::rollback::run(&args, reporter),
        Command::Store(args) => done(commands::store::run(&args)),
        Command::Nightly(args) => commands::nightly::run(&args, reporter),
        Command::Inspect(args) => done(commands::inspect::run(&args)),
        Command::Runs(args) => done(commands::runs::run(&args)),
        Command::Watch(args) => done(commands::watch::run(&args, &cli.global)),
        Command::Plot(args) => done(commands::plot::run(&args)),
        Command::Report(args) => done(commands::report::run(&args)),
        Command::Metrics(args) => done(commands::metrics::run(&args)),
        Command::Doctor(args) => done(commands::doctor::run(&args)),
        Command::Completions(args) => done(commands::completions::run(&args)),
        Command::Man => done(commands::man::run()),
    }
}
