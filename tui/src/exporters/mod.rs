//! A run's numbers for other tools.
//!
//! Responsible for: the event log as TensorBoard event files, as Prometheus text and as a picture of the curves.
//! Must not depend on: terminals, sockets.

pub mod picture;
pub mod prometheus;
pub mod tensorboard;
