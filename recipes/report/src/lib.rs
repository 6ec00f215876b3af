//! A run as one HTML page for people.
//!
//! Responsible for: what the page of a run and the list of nights contain, and how they look. The page is one file: it
//! needs no network and no script.
//! Must not depend on: how a run is trained, measured or judged, tensors, terminals. It writes no files.

mod chart;
mod difference;
mod facts;
mod html;
mod limits;
mod marks;
mod nights;
mod page;
mod read;
mod sections;
mod view;

pub use facts::Facts;
pub use nights::{Night, Outcome, nights};
pub use page::page;
pub use read::{Reading, read, read_published, read_version};
pub use view::{Published, Skipped, View};

#[cfg(test)]
mod tests;
