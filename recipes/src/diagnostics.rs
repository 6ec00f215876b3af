//! Faults that point into a text.
//!
//! Responsible for: the texts and places of faults, and printing all faults of a text. `annotate-snippets`, rustc's
//! renderer, draws the excerpts; `docs/adr/0013` has the reasons.
//! Must not depend on: the meaning of the text, terminals. The caller chooses colour and width.

use std::fmt;
use std::ops::Range;
use std::path::Path;

use annotate_snippets::{AnnotationKind, Element, Level, Origin, Renderer, Snippet};

use crate::printable::{escaped, is_unsafe};

/// The severity of a fault.
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
    /// A `--set` option: the text after `--set`.
    Override(String),
}

/// The place of a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index into [`Diagnostics::sources`].
    pub source: usize,
    /// Byte range in the source's text.
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
    /// Label at the place: ideally the fix.
    pub label: Option<String>,
    /// `None` if something is missing from the text.
    pub place: Option<Place>,
    /// A second place that is part of the fault, and its label.
    pub context: Option<Box<(Place, String)>>,
    /// How to continue, if this needs its own line.
    pub hint: Option<String>,
}

impl Diagnostic {
    /// An error without a place.
    pub fn error(message: impl Into<String>) -> Self {
        let severity = Severity::Error;
        Self { severity, message: message.into(), label: None, place: None, context: None, hint: None }
    }

    pub fn at(self, place: Place) -> Self {
        Self { place: Some(place), ..self }
    }

    pub fn label(self, label: impl Into<String>) -> Self {
        Self { label: Some(label.into()), ..self }
    }

    pub fn context(self, place: Place, label: impl Into<String>) -> Self {
        Self { context: Some(Box::new((place, label.into()))), ..self }
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

/// Columns assumed for a terminal of unknown width. Longer lines of a recipe are shown in part.
pub const DEFAULT_WIDTH: usize = 140;

/// Escapes around the word "hint", in the colours of the renderer.
pub const HINT: [&str; 2] = ["\x1b[1m\x1b[96m", "\x1b[0m"];
/// Escapes around the word "error", in the colours of the renderer.
pub const ERROR: [&str; 2] = ["\x1b[1m\x1b[91m", "\x1b[0m"];

impl Diagnostics {
    /// Faults of a file without overrides.
    pub fn of_file(path: &Path, text: &str, items: Vec<Diagnostic>) -> Self {
        let file = Source::File { name: path.display().to_string(), text: text.to_owned() };
        Self { sources: vec![file], items }
    }

    /// All faults, one paragraph each, for a terminal of `width` columns. Every line ends with a line feed.
    pub fn render(&self, color: bool, width: usize) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() }.term_width(width);
        let [hint_on, hint_off] = if color { HINT } else { ["", ""] };
        let mut out = String::new();
        for (index, item) in self.items.iter().enumerate() {
            if index > 0 {
                out.push('\n');
            }
            let level = match item.severity {
                Severity::Error => Level::ERROR,
                Severity::Warning => Level::WARNING,
            };
            let report = [level.primary_title(escaped(&item.message)).elements(self.excerpts(item))];
            out.push_str(&renderer.render(&report));
            out.push('\n');
            // A hint that several faults share is printed once, after the last of them.
            let again = self.items[index + 1..].iter().any(|later| later.hint == item.hint);
            if let Some(hint) = item.hint.as_ref().filter(|_| !again) {
                out.push_str(&format!("{hint_on}hint{hint_off}: {}\n", escaped(hint)));
            }
        }
        out
    }

    /// The excerpts of the sources that show a fault; without a place, the file name.
    fn excerpts(&self, item: &Diagnostic) -> Vec<Element<'static>> {
        let label = item.label.as_deref().unwrap_or_default();
        let primary = item.place.as_ref().map(|place| (AnnotationKind::Primary, place, label));
        let context = item.context.as_deref().map(|(place, label)| (AnnotationKind::Context, place, label.as_str()));
        let places: Vec<_> = primary.into_iter().chain(context).collect();
        let mut elements = Vec::new();
        for (index, source) in self.sources.iter().enumerate() {
            let here: Vec<_> = places.iter().filter(|(_, place, _)| place.source == index).collect();
            let (text, shift) = match source {
                Source::File { name, .. } if places.is_empty() && index == 0 => {
                    elements.push(Origin::path(escaped(name).into_owned()).into());
                    continue;
                }
                _ if here.is_empty() => continue,
                Source::File { text, .. } => (text.clone(), 0),
                Source::Override(text) => (format!("--set {text}"), "--set ".len()),
            };
            let annotations = here.iter().map(|(kind, place, label)| {
                let span = shown_span(&text, place.span.start + shift..place.span.end + shift);
                kind.span(span).label((!label.is_empty()).then(|| escaped(label).into_owned()))
            });
            let snippet = Snippet::source(shown(&text)).annotations(annotations);
            elements.push(Element::from(match source {
                Source::File { name, .. } => snippet.path(escaped(name).into_owned()),
                // The excerpt begins with `--set`, so no place is printed above it.
                Source::Override(_) if elements.is_empty() => snippet.line_numbering(false),
                Source::Override(_) => snippet.line_numbering(false).path("command line"),
            }));
        }
        elements
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false, DEFAULT_WIDTH))
    }
}

impl std::error::Error for Diagnostics {}

/// The text without the unsafe characters that the renderer passes through.
fn shown(text: &str) -> String {
    let replaced = |c: char| is_unsafe(c) && !c.is_ascii();
    text.chars().map(|c| if replaced(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// The place of `span` in the text returned by [`shown`]. The renderer panics on spans after the end or inside a
/// character, so both ends are moved to the nearest character boundary before them.
fn shown_span(text: &str, span: Range<usize>) -> Range<usize> {
    let start = text.floor_char_boundary(span.start);
    let end = text.floor_char_boundary(span.end).max(start);
    let before = shown(&text[..start]).len();
    before..before + shown(&text[start..end]).len()
}

#[cfg(test)]
mod tests;
