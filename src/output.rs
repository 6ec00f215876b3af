//! The two streams of the program.
//!
//! Responsible for: data on stdout, everything else on stderr, escaping text from files, and handling closed streams.
//! Must not depend on: the content that is printed.

use std::io::{self, ErrorKind, IsTerminal, Write};

use tonfall_recipes::diagnostics::DEFAULT_WIDTH;
use tonfall_recipes::printable::{escaped, escaped_json};

/// Writes a line of data to stdout; control characters are escaped. A closed pipe is no error: its reader needs no more
/// data.
pub(crate) fn data(line: &str) -> io::Result<()> {
    painted(&escaped(line))
}

/// Writes a JSON value as a line to stdout; control characters inside its strings are escaped as in JSON.
pub(crate) fn json(value: &serde_json::Value) -> io::Result<()> {
    painted(&escaped_json(&value.to_string()))
}

/// Writes a line with colours to stdout. The caller escapes the text between the colours.
pub(crate) fn painted(line: &str) -> io::Result<()> {
    ignore_closed_pipe(|stdout| {
        stdout.write_all(line.as_bytes())?;
        stdout.write_all(b"\n")
    })
}

/// Writes a piece of a generation to stdout immediately, without a line feed. On a terminal, control characters are
/// escaped; a file or a program receives the text unchanged.
pub(crate) fn piece(text: &str) -> io::Result<()> {
    ignore_closed_pipe(|stdout| match stdout.is_terminal() {
        true => stdout.write_all(escaped(text).as_bytes()),
        false => stdout.write_all(text.as_bytes()),
    })
}

fn ignore_closed_pipe(write: impl FnOnce(&mut io::StdoutLock<'static>) -> io::Result<()>) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match write(&mut stdout).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

/// Writes a line to stderr; control characters are escaped.
pub(crate) fn note(line: &str) {
    painted_note(&escaped(line));
}

/// Writes a line of JSON to stderr; control characters inside its strings are escaped as in JSON.
pub(crate) fn note_json(json: &str) {
    painted_note(&escaped_json(json));
}

/// Writes a line with colours to stderr. The caller escapes the text between the colours. A closed stderr must never
/// stop a run, so this function, and no other, drops the error.
pub(crate) fn painted_note(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Whether escapes may be written to stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Color {
    /// When stderr is a terminal, unless NO_COLOR is set or TERM is dumb
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

/// Columns of the terminal on stderr; [`DEFAULT_WIDTH`] if stderr is no terminal.
pub(crate) fn stderr_width() -> usize {
    let size = terminal_size::terminal_size_of(io::stderr());
    size.map_or(DEFAULT_WIDTH, |(terminal_size::Width(columns), _)| usize::from(columns))
}
