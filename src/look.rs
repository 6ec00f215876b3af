//! How the dashboard looks in this terminal.
//!
//! Responsible for: choosing colours, background and symbols from options, environment and terminal.
//! Must not depend on: drawing.

use std::io::{self, IsTerminal};

use terminal_colorsaurus::{QueryOptions, ThemeMode, theme_mode};
use tonfall_tui::{Depth, Environment, Look, Symbols};

use crate::args::{Background, Global, LookArgs, SymbolSet};
use crate::diagnostics::{ExitCode, Failure, Result};
use crate::output::Color;

/// An error unless stdin and stdout are terminals.
pub(crate) fn need_terminal(hint: &str) -> Result<()> {
    for (stream, is_terminal) in [("stdout", io::stdout().is_terminal()), ("stdin", io::stdin().is_terminal())] {
        if !is_terminal {
            return Err(Failure::new(ExitCode::Usage, format!("{stream} is not a terminal\nhint: {hint}")));
        }
    }
    Ok(())
}

/// [`of_environment`], but asks the terminal for the background if neither option nor `COLORFGBG` sets it. A terminal
/// that doesn't answer counts as dark.
pub(crate) fn of_terminal(args: &LookArgs, global: &Global) -> Look {
    let mut look = of_environment(args, global);
    let is_given = args.background != Background::Auto || std::env::var_os("COLORFGBG").is_some();
    if !is_given && look.depth != Depth::Mono {
        look.light = matches!(theme_mode(QueryOptions::default()), Ok(ThemeMode::Light));
    }
    look
}

/// The look that environment variables and options define.
pub(crate) fn of_environment(args: &LookArgs, global: &Global) -> Look {
    let mut environment = Environment::of_process();
    if global.color == Color::Always {
        environment.no_color = None;
    }
    let mut look = Look::detect(&environment);
    if global.color == Color::Never {
        look.depth = Depth::Mono;
    }
    match args.background {
        Background::Auto => {}
        Background::Dark => look.light = false,
        Background::Light => look.light = true,
    }
    match args.symbols {
        SymbolSet::Auto => {}
        SymbolSet::Braille => look.symbols = Symbols::Braille,
        SymbolSet::Block => look.symbols = Symbols::Block,
        SymbolSet::Ascii => look.symbols = Symbols::Ascii,
    }
    look
}
