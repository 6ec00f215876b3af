//! Asks running servers: which models they serve, and what these models generate.
//!
//! Responsible for: HTTP with limits on time and size, the differences between the servers ([`Kind`]), and comparing
//! generations with expected ones ([`compare`]).
//! Must not depend on: tensors, weight files, any other crate of ours.
//!
//! A server is asked for greedy generations: temperature 0, no penalties, a fixed seed. A server that cannot do what is
//! asked is not an error: the answer is then [`Offer::NotOffered`].

mod answers;
mod base_url;
mod client;
pub mod compare;
mod error;
mod kinds;
mod requests;
mod server;
mod switching;
pub mod webhook;

pub use answers::{AdapterSlot, Completion, Finish};
pub use client::{ApiKey, Limits};
pub use error::ServingError;
pub use kinds::Kind;
pub use requests::{Message, Prompt, ToTokenize};
pub use server::{NotOffered, Offer, Server};
pub use switching::AdapterFiles;
