//! The decoder: one architecture, described by data.
//!
//! Responsible for: weights on a device and the forward pass.
//! Must not depend on: optimization, runs, datasets.

mod decoder;
mod embedding;
mod forward_pass;
mod host;
mod layer;
mod linear;
mod load;

pub(crate) use decoder::{Decoder, Documents, Hidden, Placement, SlotCache};
pub(crate) use embedding::embeds_from_host;
pub(crate) use forward_pass::{DropoutKey, ForwardPass, LinearInput, mixed, self_segments};
pub(crate) use host::{HostDecoder, HostLayer, HostLinear, HostNorm};
pub(crate) use linear::LoraSite;
pub(crate) use load::{EMBEDDING, LoadOptions, Loader, NF4_PIECE, Role, kept_format};

pub(crate) use linear::Matrix;
