//! Faults that point into a text.
//!
//! Responsible for: message, place and printed form of faults in a text.
//! Must not depend on: what the text means, terminals. The caller decides about colours.

use std::fmt;
use std::ops::Range;
use std::path::Path;

/// Severity of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Error,
    Warning,
}

/// A text that faults point into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file by its name.
    File { name: String, text: String },
    /// The text after `--set`.
    Override(String),
}

/// Place of a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index into [`Diagnostics::sources`].
    pub source: usize,
    /// Byte range in its text.
    pub span: Range<usize>,
}

impl Place {
    pub fn new(source: usize, span: Range<usize>) -> Self {
        Self { source, span }
    }
}

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    pub severity: Severity,
    /// What is wrong.
    pub message: String,
    /// Text next to the carets, ideally the fix.
    pub label: Option<String>,
    /// `None` if something is missing.
    pub place: Option<Place>,
    /// How to go on, on a line of its own.
    pub hint: Option<String>,
}

impl Diagnostic {
    /// An error without a place.
    pub fn error(message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, message: message.into(), label: None, place: None, hint: None }
    }

    pub fn at(self, place: Place) -> Self {
        Self { place: Some(place), ..self }
    }

    pub fn label(self, label: impl Into<String>) -> Self {
        Self { label: Some(label.into()), ..self }
    }

    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

/// All faults, and the texts they point into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostics {
    /// The file first, then the overrides in their order.
    pub sources: Vec<Source>,
    pub items: Vec<Diagnostic>,
}

impl Diagnostics {
    /// Faults of a file without overrides.
    pub fn of_file(path: &Path, text: &str, items: Vec<Diagnostic>) -> Self {
        let file = Source::File { name: path.display().to_string(), text: text.to_owned() };
        Self { sources: vec![file], items }
    }

    /// The printed faults, one paragraph each; every line ends with a line break.
    pub fn render(&self, color: bool) -> String {
        let paint = if color { Paint::COLOR } else { Paint::PLAIN };
        let mut out = String::new();
        for (index, item) in self.items.iter().enumerate() {
            if index > 0 {
                out.push('\n');
            }
            self.render_item(item, &paint, &mut out);
            // A hint that several faults share is printed once, after the last of them.
            let again = self.items[index + 1..].iter().any(|later| later.hint == item.hint);
            if let Some(hint) = item.hint.as_ref().filter(|_| !again) {
                out.push_str(&format!("{}hint{}: {}\n", paint.hint, paint.reset, printable(hint)));
            }
        }
        out
    }

    fn render_item(&self, item: &Diagnostic, paint: &Paint, out: &mut String) {
        let (word, strong) = match item.severity {
            Severity::Error => ("error", paint.error),
            Severity::Warning => ("warning", paint.warning),
        };
        let (frame, reset) = (paint.frame, paint.reset);
        out.push_str(&format!("{strong}{word}{reset}: {}\n", printable(&item.message)));
        let Some(place) = &item.place else {
            if let Some(Source::File { name, .. }) = self.sources.first() {
                out.push_str(&format!(" {frame}-->{reset} {}\n", printable(name)));
            }
            return;
        };
        let (name, text, number, shift) = match self.sources.get(place.source) {
            Some(Source::File { name, text }) => (name.as_str(), text.clone(), true, 0),
            Some(Source::Override(text)) => ("command line", format!("--set {text}"), false, "--set ".len()),
            None => return,
        };
        let found = Excerpt::find(&text, place.span.start + shift..place.span.end + shift);
        let (position, gutter) = match number {
            true => (format!("{name}:{}:{}", found.line, found.column), found.line.to_string()),
            false => (name.to_owned(), " ".to_owned()),
        };
        let margin = " ".repeat(gutter.len());
        let carets = format!("{}{}", " ".repeat(found.indent), "^".repeat(found.carets));
        let label = item.label.as_deref().map(printable).unwrap_or_default();
        out.push_str(&format!("{margin}{frame}-->{reset} {}\n", printable(&position)));
        out.push_str(&format!("{margin} {frame}|{reset}\n"));
        out.push_str(&format!("{frame}{gutter} |{reset} {}\n", found.text));
        out.push_str(format!("{margin} {frame}|{reset} {strong}{carets} {label}{reset}").trim_end());
        out.push('\n');
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnostics {}

/// Escapes for the parts of a paragraph.
struct Paint {
    error: &'static str,
    warning: &'static str,
    frame: &'static str,
    hint: &'static str,
    reset: &'static str,
}

impl Paint {
    const PLAIN: Self = Self { error: "", warning: "", frame: "", hint: "", reset: "" };
    const COLOR: Self =
        Self { error: "\x1b[1;31m", warning: "\x1b[1;33m", frame: "\x1b[34m", hint: "\x1b[36m", reset: "\x1b[0m" };
}

/// A longer line is printed in part.
const WIDEST: usize = 160;
/// Characters before the place in a line that is printed in part.
const BEFORE: usize = 60;
const TAB: &str = "    ";

/// The printed line of a place.
struct Excerpt {
    /// From 1.
    line: usize,
    /// From 1, in characters.
    column: usize,
    text: String,
    /// Columns before the carets.
    indent: usize,
    carets: usize,
}

impl Excerpt {
    /// Accepts any span, also one after the end or inside a character. Prints the first of several lines.
    fn find(text: &str, span: Range<usize>) -> Self {
        let start = floor_boundary(text, span.start);
        let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let line = text[line_start..].lines().next().unwrap_or_default();
        let line_end = line_start + line.len();
        // A span may start after the last character of the line.
        let start_in_line = start.min(line_end);
        let end = floor_boundary(text, span.end).clamp(start_in_line, line_end);

        let before = &text[line_start..start_in_line];
        let column = before.chars().count();
        let skip = if line.chars().count() > WIDEST { column.saturating_sub(BEFORE) } else { 0 };
        let shown = |text: &str, skip: usize, take: usize| -> String {
            text.chars()
                .skip(skip)
                .take(take)
                .map(|c| if c == '\t' { TAB.to_owned() } else { printable_char(c).to_string() })
                .collect()
        };
        let ellipsis = if skip > 0 { "…" } else { "" };
        let cut = if line.chars().count() > skip + WIDEST { "…" } else { "" };
        let indent = ellipsis.chars().count() + shown(before, skip, usize::MAX).chars().count();
        let visible = WIDEST.saturating_sub(column - skip);
        let carets = shown(&text[start_in_line..end], 0, visible).chars().count().max(1);
        Self {
            line: text[..line_start].matches('\n').count() + 1,
            column: column + 1,
            text: format!("{ellipsis}{}{cut}", shown(line, skip, WIDEST)),
            indent,
            carets,
        }
    }
}

/// The last character boundary that is not after `index`.
fn floor_boundary(text: &str, index: usize) -> usize {
    let index = index.min(text.len());
    (0..=index).rev().find(|index| text.is_char_boundary(*index)).unwrap_or(0)
}

/// Replaces characters that would move the cursor or change colours.
fn printable(text: &str) -> String {
    text.chars().map(printable_char).collect()
}

fn printable_char(c: char) -> char {
    // Besides control characters: those that change the direction of writing.
    let turns = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if c.is_control() || turns { char::REPLACEMENT_CHARACTER } else { c }
}

#[cfg(test)]
mod tests;
