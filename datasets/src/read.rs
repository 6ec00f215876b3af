//! Data files → rows.
//!
//! Responsible for: finding the files of a source, reading each file row by row, and filtering rows.
//! Must not depend on: the meaning of a row (`formats`), tokenizers, templates.

pub(crate) mod cells;
pub(crate) mod delimited;
pub(crate) mod files;
pub(crate) mod filter;
mod filter_syntax;
mod filter_value;
pub(crate) mod folder;
pub(crate) mod jsonl;
pub(crate) mod parquet;
pub(crate) mod parquet_headers;
pub(crate) mod prompts;
pub(crate) mod rows;
pub(crate) mod tbx;
pub(crate) mod tbx_concept;
pub(crate) mod term_status;
pub(crate) mod xml_text;
