//! Data files → rows.
//!
//! Responsible for: finding the files of a source, and reading each of them row by row, whatever its format.
//! Must not depend on: what a row means (`formats`), tokenizers, templates.

pub(crate) mod cells;
pub(crate) mod delimited;
pub(crate) mod files;
pub(crate) mod filter;
pub(crate) mod jsonl;
pub(crate) mod parquet;
pub(crate) mod parquet_headers;
pub(crate) mod prompts;
pub(crate) mod rows;
pub(crate) mod tbx;
pub(crate) mod tbx_concept;
pub(crate) mod term_status;
pub(crate) mod xml_text;
