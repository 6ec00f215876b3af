//! The numbers of a run for other tools.
//!
//! Responsible for: the event log as TensorBoard event files and as Prometheus text.
//! Must not depend on: terminals, sockets.

pub mod prometheus;
pub mod tensorboard;
