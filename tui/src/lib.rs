//! The dashboard: shows the event log of a run on a terminal.
//!
//! Responsible for: [`watch()`], which follows run directories on a terminal, [`Still`], which draws them once as text,
//! and [`picture`], which draws their curves to a file.
//! Must not depend on: the trainer, Burn, polars. It reads run directories and writes only stop requests.

mod app;
mod chart;
mod feed;
mod input;
mod keys;
mod layout;
pub mod picture;
mod plot;
mod screen;
mod theme;
mod update;
mod view;
mod watch;

pub use theme::{Depth, Environment, Look, Symbols};
pub use watch::{Host, Still, Watch, WatchError, watch};

#[cfg(test)]
mod tests;
