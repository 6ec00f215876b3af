//! Errors as users see them.
//!
//! Responsible for: the output of a failed command; exit codes are in `exit_code.rs`.
//! Must not depend on: commands.

use tonfall_recipes::Diagnostics;
use tonfall_recipes::diagnostics::{ERROR, HINT};
use tonfall_recipes::printable::escaped;

pub(crate) use crate::exit_code::ExitCode;
use crate::exit_code::HasExitCode;

pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// The failure of a command: at least one report.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: ExitCode,
    reports: Vec<Report>,
}

#[derive(Debug)]
enum Report {
    /// A message; further lines, such as `hint: …`, follow it.
    Message(String),
    /// Faults that point into a recipe.
    Recipe(Diagnostics),
}

impl Failure {
    pub(crate) fn new(code: ExitCode, message: impl Into<String>) -> Self {
        Self { code, reports: vec![Report::Message(message.into())] }
    }

    /// Several failures as one: all reports, the code of the first.
    pub(crate) fn all(failures: Vec<Self>) -> Option<Self> {
        let code = failures.first()?.code;
        Some(Self { code, reports: failures.into_iter().flat_map(|failure| failure.reports).collect() })
    }

    /// The first message, on one line.
    pub(crate) fn message(&self) -> String {
        let text = match self.reports.first() {
            Some(Report::Message(text)) => text.as_str(),
            Some(Report::Recipe(diagnostics)) => diagnostics.items.first().map_or("", |item| &item.message),
            None => "",
        };
        text.lines().next().unwrap_or_default().to_owned()
    }

    /// The text that is printed to a terminal of `width` columns, without a line feed at the end.
    pub(crate) fn render(&self, color: bool, width: usize) -> String {
        let texts = self.reports.iter().map(|report| match report {
            Report::Message(text) => paint(&escaped(text), color),
            Report::Recipe(diagnostics) => diagnostics.render(color, width).trim_end().to_owned(),
        });
        texts.collect::<Vec<_>>().join("\n\n")
    }
}

impl<E: HasExitCode> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(error.exit_code(), error.to_string())
    }
}

impl From<Diagnostics> for Failure {
    fn from(faults: Diagnostics) -> Self {
        Self { code: ExitCode::Invalid, reports: vec![Report::Recipe(faults)] }
    }
}

/// A message with its mark, in the colours of [`Diagnostics::render`] if `color` is set.
fn paint(text: &str, color: bool) -> String {
    let [[error, end], [hint, _]] = if color { [ERROR, HINT] } else { [["", ""]; 2] };
    let mut lines = text.lines();
    let mut painted = format!("{error}error{end}: {}", lines.next().unwrap_or_default());
    for line in lines {
        painted.push('\n');
        match line.strip_prefix("hint:") {
            Some(rest) => painted += &format!("{hint}hint{end}:{rest}"),
            None => painted += line,
        }
    }
    painted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_only_add_escapes() {
        let failure = Failure::new(ExitCode::Invalid, "no run at x\nhint: `tonfall runs` lists them");
        assert_eq!(failure.render(false, 80), "error: no run at x\nhint: `tonfall runs` lists them");
        let painted = failure.render(true, 80);
        assert!(painted.starts_with(&format!("{}error{}: no run", ERROR[0], ERROR[1])));
        let plain = [ERROR, HINT].concat().iter().fold(painted, |text, code| text.replace(code, ""));
        assert_eq!(plain, failure.render(false, 80));
    }

    #[test]
    fn errors_that_quote_data_are_escaped() {
        let failure = Failure::new(ExitCode::Invalid, "unknown role \u{1b}[2J\u{9b}\u{202e}\nhint: \u{7}");
        assert_eq!(failure.render(false, 80), "error: unknown role \\x1b[2J\\x9b\\u202e\nhint: \\x07");
    }

    #[test]
    fn combined_failures_keep_all_texts() {
        let all = Failure::all(vec![Failure::new(ExitCode::Refused, "one"), Failure::new(ExitCode::Invalid, "two")]);
        let all = all.expect("two failures");
        assert_eq!((all.code, all.message()), (ExitCode::Refused, "one".to_owned()));
        assert_eq!(all.render(false, 80), "error: one\n\nerror: two");
        assert!(Failure::all(Vec::new()).is_none());
    }
}
