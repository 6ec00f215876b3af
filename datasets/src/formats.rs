//! Rows → samples: conversations, plain texts, preference pairs.
//!
//! Responsible for: recognising the format of a row, and building samples from its columns.
//! Must not depend on: tokenizers, templates, polars.

pub(crate) mod content;
pub(crate) mod conversation;
pub(crate) mod entry;
pub(crate) mod format;
pub(crate) mod roles;
pub(crate) mod samples;
pub(crate) mod tasks;
pub(crate) mod term_columns;
pub(crate) mod term_tasks;
pub(crate) mod thinking;
