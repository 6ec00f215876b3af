//! The decoder: one architecture, described by data.
//!
//! Responsible for: weights on a device and the forward pass.
//! Must not depend on: optimisation, runs, data sets.

mod decoder;
mod layer;
mod linear;
mod load;
mod pass;

pub use decoder::{Decoder, Documents, Hidden};
pub use linear::LoraSite;
pub use load::{LoadOptions, Loader};
pub use pass::{DropoutKey, Pass, self_segments};

pub(crate) use linear::Matrix;
