//! Faults in a recipe, and how they are shown.
//!
//! Responsible for: pointing at the place, saying what is wrong and the way out. Errors come all at once.
//! Must not depend on: terminals, colours.

use std::fmt;
use std::ops::Range;

/// Where a fault lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// File name, or `--set` for an override.
    pub source_name: String,
    /// The whole text of that source.
    pub text: String,
    /// Bytes of `text`.
    pub span: Range<usize>,
}

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    pub message: String,
    pub place: Option<Place>,
    /// Stands beside the underlined place.
    pub label: String,
    pub help: Option<String>,
}

/// All faults of one recipe.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Diagnostics {
    pub items: Vec<Diagnostic>,
    /// The last line: what to do next.
    pub hint: Option<String>,
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, item) in self.items.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{item}")?;
        }
        match &self.hint {
            Some(hint) => writeln!(f, "hint: {hint}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error: {}", self.message)?;
        if let Some(place) = &self.place {
            place.show(f, &self.label)?;
        }
        match &self.help {
            Some(help) => writeln!(f, "help: {help}"),
            None => Ok(()),
        }
    }
}

impl Place {
    /// The line with the span underlined; columns are counted in characters, from 1.
    fn show(&self, f: &mut fmt::Formatter<'_>, label: &str) -> fmt::Result {
        let start = floor_boundary(&self.text, self.span.start);
        let end = floor_boundary(&self.text, self.span.end).max(start);
        let line_start = self.text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = self.text[start..].find('\n').map_or(self.text.len(), |newline| start + newline);
        let number = self.text[..start].matches('\n').count() + 1;
        let shown = |text: &str| text.replace('\t', "    ").replace('\r', "");
        let before = shown(&self.text[line_start..start]).chars().count();
        let width = shown(&self.text[start..end.min(line_end)]).chars().count().max(1);
        let column = self.text[line_start..start].chars().count() + 1;
        let gutter = " ".repeat(number.to_string().len());
        writeln!(f, "{gutter}--> {}:{number}:{column}", self.source_name)?;
        writeln!(f, "{gutter} |")?;
        writeln!(f, "{number} | {}", shown(&self.text[line_start..line_end]))?;
        let marks = format!("{}{} {label}", " ".repeat(before), "^".repeat(width));
        writeln!(f, "{gutter} | {}", marks.trim_end())
    }
}

fn floor_boundary(text: &str, index: usize) -> usize {
    let mut index = index.min(text.len());
    while !text.is_char_boundary(index) {
        index -= 1;
    }
    index
}
