//! Modelfiles: writing.
//!
//! Responsible for: the text of a Modelfile, such that Ollama reads exactly the given values. Must not depend on:
//! templates, other files.
//!
//! Format: `docs/modelfile.mdx` and `parser/parser.go` of Ollama. There are no escapes: a value ends at the first line
//! that ends with its closing quotes, and characters that Go doesn't count as printable are dropped. So some texts
//! can't be written; they are refused.

use std::fmt::Write as _;

use thiserror::Error;

use super::modelfile_reader::{Instruction, parse_modelfile};
use crate::regular_file::OpenError;

/// Why a Modelfile was not written or read.
#[derive(Debug, Error)]
pub enum ModelfileError {
    #[error(
        "{what} of the Modelfile contains {character:?} at byte {at}, which Ollama drops when it reads the file; remove or \
         replace the character"
    )]
    Dropped { what: &'static str, character: char, at: usize },

    #[error(
        "{what} of the Modelfile contains \"\"\", which ends a text there; Modelfiles have no escapes, so remove it"
    )]
    TripleQuote { what: &'static str },

    #[error("{what} of the Modelfile is {value:?}; it must be one line without quotes and without spaces at its ends")]
    Line { what: &'static str, value: String },

    #[error("{what} of the Modelfile would be read as another text by Ollama")]
    ReadBack { what: String },

    #[error("Modelfile line {line}: {what}")]
    Syntax { line: usize, what: String },

    #[error("the Modelfile has more than {limit} {of}")]
    Limit { limit: usize, of: &'static str },

    #[error(transparent)]
    Open(#[from] OpenError),
}

/// The content of a Modelfile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Modelfile {
    /// A path relative to the Modelfile (`./model.gguf`), or the name of a model.
    pub from: String,
    /// Path of a GGUF adapter relative to the Modelfile.
    pub adapter: Option<String>,
    /// A Go template.
    pub template: Option<String>,
    pub system: Option<String>,
    /// Texts at which generation stops.
    pub stops: Vec<String>,
    /// Context length in tokens.
    pub num_ctx: Option<u32>,
    /// Texts of licences.
    pub licences: Vec<String>,
}

impl Modelfile {
    /// The text of the file, parsed and compared with the values before it is returned.
    ///
    /// # Errors
    /// If a value can't be written in a Modelfile.
    pub fn text(&self) -> Result<String, ModelfileError> {
        let mut text = format!("FROM {}\n", line("FROM", &self.from)?);
        let mut expected = vec![("from", None, self.from.clone())];
        let mut add =
            |text: &mut String, keyword: &'static str, key: Option<&'static str>, value: &str, written: String| {
                let keys = key.map(|key| format!(" {key}")).unwrap_or_default();
                let _ = writeln!(text, "{}{keys} {written}", keyword.to_uppercase());
                expected.push((keyword, key, value.to_owned()));
            };
        if let Some(adapter) = &self.adapter {
            add(&mut text, "adapter", None, adapter, line("ADAPTER", adapter)?.to_owned());
        }
        if let Some(template) = &self.template {
            add(&mut text, "template", None, template, block("TEMPLATE", template)?);
        }
        if let Some(system) = &self.system {
            add(&mut text, "system", None, system, block("SYSTEM", system)?);
        }
        for stop in &self.stops {
            let written = match stop.contains(['"', '\n', '\r']) {
                true => block("PARAMETER stop", stop)?,
                false => block("PARAMETER stop", stop)?.replace("\"\"\"", "\""),
            };
            add(&mut text, "parameter", Some("stop"), stop, written);
        }
        if let Some(tokens) = self.num_ctx {
            add(&mut text, "parameter", Some("num_ctx"), &tokens.to_string(), tokens.to_string());
        }
        for licence in &self.licences {
            add(&mut text, "license", None, licence, block("LICENSE", licence)?);
        }
        let read = parse_modelfile(&text)?;
        let same = |read: &Instruction, (keyword, key, value): &(&str, Option<&str>, String)| {
            read.keyword == *keyword && read.key.as_deref() == *key && read.value == *value
        };
        match expected.iter().enumerate().find(|(at, wanted)| !read.get(*at).is_some_and(|read| same(read, wanted))) {
            Some((_, (keyword, ..))) => Err(ModelfileError::ReadBack { what: keyword.to_uppercase() }),
            None if read.len() != expected.len() => Err(ModelfileError::ReadBack { what: "the end".to_owned() }),
            None => Ok(text),
        }
    }
}

/// A value without quotes.
fn line<'a>(what: &'static str, value: &'a str) -> Result<&'a str, ModelfileError> {
    check(what, value)?;
    match value.is_empty() || value.trim() != value || value.contains(['"', '\n', '\r']) {
        true => Err(ModelfileError::Line { what, value: value.to_owned() }),
        false => Ok(value),
    }
}

/// A value in three quotes.
fn block(what: &'static str, value: &str) -> Result<String, ModelfileError> {
    check(what, value)?;
    match value.contains("\"\"\"") {
        true => Err(ModelfileError::TripleQuote { what }),
        false => Ok(format!("\"\"\"{value}\"\"\"")),
    }
}

fn check(what: &'static str, value: &str) -> Result<(), ModelfileError> {
    match value.char_indices().find(|(_, character)| is_dropped(*character)) {
        Some((at, character)) => Err(ModelfileError::Dropped { what, character, at }),
        None => Ok(()),
    }
}

/// Whether Ollama drops a character of a value: Go's `strconv.IsPrint` is false, and the character is not a space, a
/// tab or a line break.
///
/// Rust's `escape_debug` uses the same definition (control, format, private and unassigned characters, and spaces
/// other than U+0020). After another character, it escapes no combining marks.
pub(super) fn is_dropped(character: char) -> bool {
    match character.is_ascii() {
        true => character.is_ascii_control() && !matches!(character, '\t' | '\n' | '\r'),
        false => ['a', character].iter().collect::<String>().escape_debug().nth(1) != Some(character),
    }
}
