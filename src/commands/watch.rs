//! `tonfall watch [RUN…]`: the view of runs, live or finished.
//!
//! Responsible for: finding the runs and what the terminal can show; the view itself is `tonfall_tui`.

use std::io::{self, IsTerminal};
use std::path::Path;

use terminal_colorsaurus::{QueryOptions, ThemeMode, theme_mode};
use tonfall_tui::{Depth, Environment, Look, Still, Symbols, Watch as What};

use crate::args::{Background, Global, LookArgs, SymbolSet, Watch};
use crate::diagnostics::{ExitCode, Failure, Result};
use crate::output::{self, Color};
use crate::runs;
use crate::watched::Person;

pub(crate) fn run(args: &Watch, global: &Global) -> Result<()> {
    if !args.once {
        terminal("--once prints one frame as text")?;
    }
    let found = runs::named_or_newest(&args.runs)?;
    let paths: Vec<_> = found.iter().map(|run| run.path().to_owned()).collect();
    let directory = paths.first().and_then(|path| path.parent()).filter(|parent| *parent != Path::new(""));
    let look = if args.once { look(&args.look, global) } else { look_of_terminal(&args.look, global) };
    let what = What { directory: directory.map(Path::to_owned), runs: paths, look };
    if args.once {
        let (width, height) = args.size;
        return Ok(output::data(&Still::read(&what).draw(width, height))?);
    }
    Ok(tonfall_tui::watch(&what, &Person::new()?)?)
}

/// An error where there is no terminal to draw on or to read keys from.
pub(crate) fn terminal(hint: &str) -> Result<()> {
    for (stream, is_terminal) in [("stdout", io::stdout().is_terminal()), ("stdin", io::stdin().is_terminal())] {
        if !is_terminal {
            return Err(Failure::new(ExitCode::Usage, format!("{stream} is not a terminal\nhint: {hint}")));
        }
    }
    Ok(())
}

/// [`look`], and the terminal is asked whether its background is light when nobody said it. One that does not answer is
/// taken as dark.
pub(crate) fn look_of_terminal(args: &LookArgs, global: &Global) -> Look {
    let mut look = look(args, global);
    let is_said = args.background != Background::Auto || std::env::var_os("COLORFGBG").is_some();
    if !is_said && look.depth != Depth::Mono {
        look.light = matches!(theme_mode(QueryOptions::default()), Ok(ThemeMode::Light));
    }
    look
}

/// What the environment says, unless the options say otherwise.
fn look(args: &LookArgs, global: &Global) -> Look {
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
