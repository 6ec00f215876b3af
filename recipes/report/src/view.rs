//! What the page of a run shows, as plain data.
//!
//! Responsible for: the input of the page. [`crate::read()`] fills it from a run directory.
//! Must not depend on: files, HTML.

use tonfall_recipes::Plan;
use tonfall_runs::evaluation::Report;
use tonfall_runs::history::{DataFacts, RunData};
use tonfall_runs::run_dir::RunInfo;
use tonfall_runs::{RunInputs, Status, Summary};

use crate::facts::Facts;

/// A run, as far as it could be read.
#[derive(Clone, Debug)]
pub struct View {
    /// The name of the run directory.
    pub name: String,
    /// When the page was made: UTC, to the second.
    pub made: String,
    /// The content of `run.json`.
    pub info: Option<RunInfo>,
    pub plan: Option<Plan>,
    pub status: Status,
    pub summary: Summary,
    pub data: RunData,
    pub facts: Facts,
    pub skipped: Skipped,
    /// Evaluations of base and adapter; `None` if the run has none.
    pub base: Option<Report>,
    pub adapter: Option<Report>,
    /// What the run is compared with.
    pub published: Option<Published>,
    /// Why parts of the run can't be read.
    pub faults: Vec<String>,
}

/// Lines of the event log that were skipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    pub damaged: u64,
    /// Of a newer version.
    pub unknown: u64,
}

/// The version that is published now.
#[derive(Clone, Debug, Default)]
pub struct Published {
    pub name: String,
    /// When its run began.
    pub created: Option<String>,
    pub plan: Option<Plan>,
    pub inputs: Option<RunInputs>,
    pub report: Option<Report>,
    pub data: Option<DataFacts>,
    /// The newest eval loss in its log.
    pub eval_loss: Option<f64>,
}
