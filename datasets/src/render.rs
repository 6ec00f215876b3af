//! Samples → text → token ids, and token ids → text.
//!
//! Responsible for: chat templates, the tokenizer, the fast BPE encoder.
//! Must not depend on: data files, polars.

mod containers;
pub(crate) mod encoder;
pub(crate) mod forms;
pub(crate) mod growth;
pub(crate) mod python;
pub(crate) mod show;
pub(crate) mod template;
pub(crate) mod tokenizer;
