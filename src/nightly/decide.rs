//! What a night has to do, from what earlier nights have done.
//!
//! Responsible for: [`decide`], a pure function of the newest run and the newest version with tonight's key.
//! Must not depend on: clocks, how stages work.

use tonfall_recipes::Plan;
use tonfall_runs::gate::{Rule, Verdict};
use tonfall_runs::store::Store;
use tonfall_runs::summary::{self, Status};
use tonfall_runs::{LockError, RunDir, RunDirError};

use crate::diagnostics::{Failure, Result};
use crate::gating;

/// Earlier work on the same recipe, base and data.
#[derive(Default)]
pub(crate) struct Past {
    /// The newest run.
    run: Option<(RunDir, Status, Option<Verdict>)>,
    /// The newest version: its number, and whether it is current.
    version: Option<(u64, bool)>,
}

/// The work of a night.
pub(crate) enum Todo {
    Train,
    Resume {
        run: RunDir,
    },
    /// The run is trained, but neither refused nor published.
    Judge {
        run: RunDir,
    },
    Nothing {
        reason: String,
    },
    /// The gate has refused the same adapter before.
    Rejected {
        run: RunDir,
        reasons: Vec<String>,
    },
    Diverged {
        run: RunDir,
    },
}

impl Past {
    /// The past of the key.
    ///
    /// # Errors
    /// If runs or store can't be read, or another process works on the run.
    pub(crate) fn of(plan: &Plan, store: &Store, key: &str) -> Result<Self> {
        let runs = RunDir::list(&plan.output_dir)?.runs;
        let run = runs.into_iter().rev().find(|run| run.info().key.as_deref() == Some(key));
        let run = match run {
            None => None,
            Some(run) => {
                let (_, status) = summary::read(&run)?;
                if run.is_held()? {
                    let busy = LockError::Busy { run: run.path().to_owned() };
                    return Err(Failure::from(RunDirError::from(busy)));
                }
                let verdict = gating::verdict(&run)?;
                Some((run, status, verdict))
            }
        };
        let versions = store.list()?.into_iter().rev();
        let version =
            versions.filter(|listed| listed.version.as_ref().is_ok_and(|version| version.key.as_deref() == Some(key)));
        let version = version.map(|listed| (listed.number, listed.is_current)).next();
        Ok(Self { run, version })
    }
}

/// What has to be done. A verdict holds for the rules that it follows from. `force` trains whatever happened before.
pub(crate) fn decide(past: Past, rules: &[Rule], force: bool) -> Todo {
    let published = |version: Option<(u64, bool)>| match version {
        Some((number, true)) => Some(format!("version {number} was made from the same recipe, base and data")),
        Some((number, false)) => Some(format!(
            "version {number} was made from the same recipe, base and data, and is no longer current; --force trains again"
        )),
        None => None,
    };
    match (past.run, past.version) {
        _ if force => Todo::Train,
        (Some((run, Status::Interrupted | Status::Failed | Status::Waiting, _)), _) => Todo::Resume { run },
        (Some((run, Status::Diverged, _)), _) => Todo::Diverged { run },
        (Some((run, Status::GateFailed, Some(verdict))), _) if verdict.is_of(rules) => {
            Todo::Rejected { run, reasons: verdict.reasons }
        }
        (Some((run, Status::Published, _)), version) => Todo::Nothing {
            reason: published(version).unwrap_or_else(|| {
                format!("run {} was made from the same recipe, base and data, and published", run.id())
            }),
        },
        // Killed before the run was logged as published: it is published again, which writes no second version. Or the gate has
        // other rules tonight.
        (Some((run, _, _)), _) => Todo::Judge { run },
        (None, version) => published(version).map_or(Todo::Train, |reason| Todo::Nothing { reason }),
    }
}

impl Todo {
    /// For people.
    pub(crate) fn words(&self) -> String {
        match self {
            Self::Train => "yes, a new run".to_owned(),
            Self::Resume { run } => format!("run {} is continued", run.id()),
            Self::Judge { run } => format!("run {} is trained, and goes on with its evaluation", run.id()),
            Self::Nothing { reason } => format!("no: {reason}"),
            Self::Rejected { run, .. } => {
                format!("no: the gate has refused run {}, and nothing has changed since", run.id())
            }
            Self::Diverged { run } => format!("no: run {} has diverged", run.id()),
        }
    }
}
