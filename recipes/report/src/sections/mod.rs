//! The sections of the page of a run.
//!
//! Responsible for: one file per section, each a function from the view to HTML. A section without content prints the reason.
//! Must not depend on: files.

pub(crate) mod about;
pub(crate) mod changes;
pub(crate) mod curves;
pub(crate) mod data;
pub(crate) mod evaluation;
pub(crate) mod lineage;
pub(crate) mod memory;
pub(crate) mod notices;
pub(crate) mod samples;
pub(crate) mod verdict;
