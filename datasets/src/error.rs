//! Errors of data, tokenizers and chat templates. Each text names the place and the solution.
//!
//! Responsible for: the error types of this crate.
//! Must not depend on: how errors are detected.

use std::path::{Path, PathBuf};

use thiserror::Error;
use tonfall_terms::TermsError;

/// Why data can't be prepared.
#[derive(Debug, Error)]
pub enum DataError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },

    #[error("{}: not a data file this program reads; use .jsonl, .jsonlines, .ndjson, .json, .parquet, .csv, .tsv, .tbx, .txt or .md, also with .gz or .zst", path.display())]
    UnknownKind { path: PathBuf },

    #[error("{}: the file changed while it was prepared; run the command again when it is complete", path.display())]
    Changed { path: PathBuf },

    #[error(
        "the prepared data has no example {index}, though it counts {count}; run the command again, and report it if this text comes back"
    )]
    MissingExample { index: usize, count: usize },

    #[error("{}: no rows", path.display())]
    Empty { path: PathBuf },

    #[error("{}: no data file is there", pattern.display())]
    NoFiles { pattern: PathBuf },

    #[error(
        "{}: no column `{column}`; the file has {}; name the right one: `columns = {{ {field} = \"…\" }}`",
        path.display(),
        list(present)
    )]
    MissingColumn { path: PathBuf, column: String, field: String, present: Vec<String> },

    #[error(
        "{}: `columns` names the field `{field}`, which the format {format} doesn't have; its fields are {}",
        path.display(),
        fields.join(", ")
    )]
    UnknownField { path: PathBuf, field: String, format: &'static str, fields: Vec<&'static str> },

    #[error("the filter `{filter}` can't be used: {why}")]
    Filter { filter: String, why: String },

    #[error("{count} rows are faulty, more than `data.max_bad_rows` = {limit}:\n  {}", rows.join("\n  "))]
    BadRows { count: u64, limit: u64, rows: Vec<String> },

    #[error("the audit of the data found what may not be trained on:\n{findings}")]
    Audit { findings: String },

    #[error("the cache of prepared data: {0}")]
    Cache(#[from] tonfall_durable::DurableError),

    /// Not a failure: stops a reader after it has returned enough rows.
    #[error("enough was read")]
    Enough,

    #[error(
        "{}: the format is not recognisable; the file has {}; formats and the columns they need: {}; set `format`, and \
         `columns` where names differ: `columns = {{ prompt = \"…\", completion = \"…\" }}`, or `columns = {{ en = \"…\", de = \"…\" }}` \
         for a list of terms in two languages",
        path.display(),
        list(present),
        crate::formats::format::known()
    )]
    UnknownFormat { path: PathBuf, present: Vec<String> },

    #[error("{}: the columns fit several formats ({}); set its `format`", path.display(), formats.join(", "))]
    AmbiguousFormat { path: PathBuf, formats: Vec<&'static str> },

    #[error("{}: {why}", path.display())]
    Unreadable { path: PathBuf, why: String },

    /// A fault in a row. `row` is the line in JSON lines, CSV and TBX, and the row number from 1 in Parquet and JSON
    /// lists.
    #[error("{}:{row}: {fault}", path.display())]
    Row { path: PathBuf, row: u64, fault: RowFault },

    #[error(
        "{}:{row}: {tokens} tokens, more than `data.max_seq_len` = {limit}; {count} of {rows} rows are too long; \
         raise the limit, or set `data.overflow` to \"drop\", \"truncate\" or, for plain texts, \"split\"",
        path.display()
    )]
    TooLong { path: PathBuf, row: u64, tokens: usize, limit: usize, count: usize, rows: usize },

    #[error("nothing is left to {what}: {why}")]
    NothingLeft { what: &'static str, why: String },

    #[error("`data.eval_fraction` = {fraction} of {rows} examples leaves one side empty; add rows or change it{hint}")]
    Split { fraction: f64, rows: usize, hint: &'static str },

    /// A term base without any task.
    #[error("{}:{row}: {why}; no row of this term base gives a task", path.display())]
    NoTask { path: PathBuf, row: u64, why: String },

    #[error("the term bases: {0}")]
    Terms(#[from] TermsError),

    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),

    #[error(transparent)]
    Template(#[from] TemplateError),
}

impl DataError {
    /// An error about one row.
    pub(crate) fn row(path: &Path, row: u64, fault: impl Into<RowFault>) -> Self {
        Self::Row { path: path.to_owned(), row, fault: fault.into() }
    }
}

/// A fault in one row.
#[derive(Debug, Error)]
pub enum RowFault {
    #[error("{0}")]
    Syntax(String),

    #[error("the line is not UTF-8: invalid byte at column {column}; save the file as UTF-8")]
    Encoding { column: usize },

    #[error("no column `{0}`")]
    Missing(String),

    #[error("column `{0}` is null")]
    Null(String),

    #[error("the cell in column `{0}` is empty")]
    EmptyCell(String),

    #[error("`messages` of the row is empty")]
    NoMessages,

    #[error("message {index}: {why}")]
    Message { index: usize, why: String },

    #[error("`tools` must be a list, or a string that holds a JSON list")]
    Tools,

    #[error(
        "the conversation has no assistant turn, so there is nothing to learn from it; its roles are {roles}, and the \
         one to learn from must be named assistant"
    )]
    NoAssistant { roles: String },

    #[error("the row has a column `system` and a system message that says something else; keep one of them")]
    TwoSystems,

    #[error("message {index}: the arguments of its tool call are a text that is no JSON object")]
    Arguments { index: usize },

    #[error(
        "message {index} has no text (`content` is null), which the chat template can't write ({error}); \
         write \"content\": \"\" instead"
    )]
    NullContent { index: usize, error: TemplateError },

    #[error("`{0}` is empty, and needs text")]
    EmptyText(&'static str),

    #[error("no [[template]] of kind \"{kind}\" fits the row, which has {available}; add one that names nothing else")]
    NoTemplateFits { kind: &'static str, available: String },

    #[error(transparent)]
    Terms(#[from] TermsError),

    #[error(
        "a conversation, but the base model has no chat template; set `data.chat_template` to a Jinja file, use a base that has one, or train on plain text"
    )]
    NoTemplate,

    #[error("the tokenizer names no end-of-sequence token, so a text could never end; use a base that has one")]
    NoEndToken,

    #[error(transparent)]
    Template(#[from] TemplateError),

    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),

    #[error(
        "the assistant's turn {turn} can't be located exactly in what the chat template renders ({why}); \
         use a template with {{% generation %}} blocks, or train_on = \"all\""
    )]
    Turn { turn: usize, why: &'static str },
}

impl From<String> for RowFault {
    fn from(why: String) -> Self {
        Self::Syntax(why)
    }
}

/// Why a tokenizer can't be used.
#[derive(Debug, Error)]
pub enum TokenizerError {
    #[error("tokenizer.json: {0}")]
    Parse(String),

    #[error(
        "the tokenizer does not fit the base: token {token:?} has id {id}, but the base has {vocab_size} embeddings"
    )]
    Misfit { token: String, id: u32, vocab_size: usize },

    #[error("the {role} {token:?} is not in the tokenizer's vocabulary")]
    UnknownSpecial { role: &'static str, token: String },

    #[error("tokenizing failed: {0}")]
    Encode(String),

    #[error("decoding failed: {0}")]
    Decode(String),
}

/// Why a chat template can't be used, or why it refused a conversation. `place` is its file, if known.
#[derive(Debug, Error)]
pub enum TemplateError {
    #[error("{place}, line {line}: {why}")]
    Syntax { place: String, line: usize, why: String },

    #[error("{place}, line {line}: {why}")]
    Render { place: String, line: usize, why: String },

    #[error("the {place} refuses the conversation: {message}")]
    Raised { place: String, message: String },

    #[error("{place}, line {line}: rendering was stopped because it takes too many steps; does it loop?")]
    Fuel { place: String, line: usize },

    #[error("the {place} writes more than {limit} bytes for one conversation")]
    Output { place: String, limit: usize },

    #[error("the {{% generation %}} blocks of the {place} can't be found in its output")]
    Marks { place: String },
}

fn list(names: &[String]) -> String {
    match names {
        [] => "no columns".to_owned(),
        names => names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
    }
}
