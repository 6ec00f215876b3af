//! The two streams of the program.
//!
//! Responsible for: data on stdout, everything else on stderr, and what happens when either is gone.
//! Must not depend on: what is printed.

use std::io::{self, ErrorKind, IsTerminal, Write};

/// Writes a line of data to stdout. A reader that has left (a broken pipe) is no error: it has seen what it wanted.
pub(crate) fn data(line: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(line.as_bytes()).and_then(|()| stdout.write_all(b"\n")).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

/// Writes a piece of an answer to stdout as it comes, without a line's end.
pub(crate) fn piece(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

/// Writes a line to stderr. A closed stderr must never stop a run, so errors are dropped here and only here.
pub(crate) fn note(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Whether escapes may be written to stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Color {
    /// When stderr is a terminal, unless NO_COLOR is set or TERM is dumb.
    Auto,
    Always,
    Never,
}

impl Color {
    pub(crate) fn on(self) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => io::stderr().is_terminal() && escapes_welcome(),
        }
    }
}

/// `NO_COLOR` (<https://no-color.org>) and `TERM=dumb`.
pub(crate) fn escapes_welcome() -> bool {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
    !no_color && !dumb
}
