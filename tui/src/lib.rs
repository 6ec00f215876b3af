//! What is seen of a run: its event log as frames on a terminal.
//!
//! Responsible for: [`watch`], which follows run directories on a terminal, [`Still`], which draws them once as text, and
//! [`Summary`], a run in a few numbers.
//! Must not depend on: the trainer, Burn, polars. It reads run directories; all it writes is a request to stop.

mod app;
mod chart;
pub mod exporters;
mod feed;
mod input;
mod keys;
mod layout;
mod numbers;
mod plot;
mod run;
mod screen;
mod series;
mod summary;
mod theme;
mod update;
mod view;
mod watch;

pub use summary::{Now, Status, Summary, Verdict, read};
pub use theme::{Depth, Environment, Look, Symbols};
pub use watch::{Host, Still, Watch, WatchError, watch};

#[cfg(test)]
mod tests;
