//! The metrics of a run for other tools.
//!
//! Responsible for: converting the event log to TensorBoard event files and to Prometheus text.
//! Must not depend on: terminals, sockets.

pub mod prometheus;
pub mod tensorboard;
