//! The subset of Go's `text/template` that Ollama's chat templates use: a parser and an evaluator.
//!
//! Responsible for: the semantics of <https://pkg.go.dev/text/template> for this subset, with limits, because a
//! template may come from a foreign Modelfile. Must not depend on: Ollama, chat formats.
//!
//! Supported: text, `{{-` and `-}}`, comments, `if` / `else if` / `else`, `range` (lists and integers), `with`,
//! `break`, `continue`, `define`, `template`, variables, fields, parentheses, pipes, integers, strings, `true`,
//! `false`, `nil`, and the functions `and or not eq ne lt le gt ge len slice index`. All other syntax is refused by
//! name. It is never rendered in another way than Go renders it.
//!
//! Why not a crate: `gtmpl` 0.7.1 of 2021 is its last version; it has no `slice`, `break`, assignment, `range` over
//! integers, and its `and` evaluates all arguments. `gotmpl` 0.6.1 is complete and limits loops and depth, but not the
//! output. It has one author, and five incompatible versions from April to July 2026. This subset is small, and it
//! refuses what it doesn't know instead of rendering it.
//!
//! Strings are bytes, as in Go: `slice` and `len` count bytes. Functions return parts of their arguments only, so
//! values borrow from the template and from the data, and nothing is copied.

mod execute;
mod functions;
mod lexer;
mod parser;
mod value;

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use parser::Node;
pub use value::Value;

/// Maximum size of a template in bytes. The largest one in Ollama's library has about 12 KB.
const SOURCE_LIMIT: usize = 1 << 20;
/// Maximum number of evaluated nodes and arguments of one rendering.
const STEPS: usize = 5_000_000;
/// Maximum output of one rendering in bytes.
const OUTPUT: usize = 32 << 20;
/// Maximum depth of nested blocks, parentheses and `template` calls.
const DEPTH: usize = 100;

/// Maximum number of variables that are visible at one place. Looking up a variable compares all names.
const VARIABLES: usize = 100;

/// Why a template was not parsed or rendered.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum GoTemplateError {
    #[error("template line {line}: {what}")]
    Syntax { line: usize, what: String },

    #[error("template line {line}: {what} is not supported; render this template with Ollama itself")]
    Unsupported { line: usize, what: String },

    #[error("template line {line}: {what}")]
    Execution { line: usize, what: String },

    #[error("template line {line}: nested deeper than {DEPTH} levels")]
    Depth { line: usize },

    #[error("the template has {0} bytes (at most {SOURCE_LIMIT})")]
    Size(usize),

    #[error("rendering the template takes more than {STEPS} steps")]
    Steps,

    #[error("the template renders more than {OUTPUT} bytes")]
    Output,

    #[error("the rendered text is not UTF-8: the template cuts a character into parts")]
    NotUtf8,
}

/// A parsed template.
#[derive(Clone, Debug)]
pub struct GoTemplate {
    source: String,
    root: Vec<Node>,
    /// Templates of `{{ define "name" }}`.
    defined: BTreeMap<String, Vec<Node>>,
    fields: BTreeSet<String>,
}

impl GoTemplate {
    /// Parses a template of at most 1 MiB.
    ///
    /// # Errors
    /// If the syntax is wrong or not supported. The error names the line.
    pub fn parse(source: &str) -> Result<Self, GoTemplateError> {
        if source.len() > SOURCE_LIMIT {
            return Err(GoTemplateError::Size(source.len()));
        }
        let parser::Parsed { root, defined, fields } = parser::parse(source)?;
        Ok(Self { source: source.to_owned(), root, defined, fields })
    }

    /// The text of the template.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether a field of this name, such as `Messages`, occurs anywhere in the template.
    #[must_use]
    pub fn mentions(&self, field: &str) -> bool {
        self.fields.contains(field)
    }

    /// Renders the template. `data` is the first value of `.` and `$`.
    ///
    /// # Errors
    /// If Go would fail too, if Go would print a value of a type that is not supported, or if a limit is exceeded.
    pub fn execute(&self, data: Value<'_>) -> Result<String, GoTemplateError> {
        let bytes = execute::run(self, data)?;
        String::from_utf8(bytes).map_err(|_| GoTemplateError::NotUtf8)
    }
}

/// The 1-based line of a byte offset.
fn line(source: &str, offset: usize) -> usize {
    1 + source.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

/// Writes `text` in a template so that Go prints it unchanged. `{`, `"""` and whatever `must_escape` selects become
/// string literals of actions. Each `{` does, because another one may follow.
#[must_use]
pub fn literal(text: &str, must_escape: impl Fn(char) -> bool) -> String {
    let mut written = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let special = match rest.starts_with("\"\"\"") {
            true => 3,
            false => rest.find(|next| next != '{' && !must_escape(next)).unwrap_or(rest.len()),
        };
        let (escaped, after) = rest.split_at(special.max(next.len_utf8()));
        rest = after;
        if special == 0 {
            written.push_str(escaped);
            continue;
        }
        written.push_str("{{ \"");
        for character in escaped.chars() {
            match character {
                '{' => written.push('{'),
                character => written.push_str(&format!("\\U{:08x}", u32::from(character))),
            }
        }
        written.push_str("\" }}");
    }
    written
}
