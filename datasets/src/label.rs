//! Token ids → labels.
//!
//! Responsible for: which tokens carry loss.
//! Must not depend on: data files, polars.

pub(crate) mod mask;
pub(crate) mod traces;
