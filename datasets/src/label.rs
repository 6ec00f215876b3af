//! Token ids → labels.
//!
//! Responsible for: which tokens carry loss.
//! Must not depend on: files of data, polars.

pub(crate) mod mask;
pub(crate) mod traces;
