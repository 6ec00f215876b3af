//! A run as one row of numbers.
//!
//! Responsible for: folding events into the numbers and the status of a run, in bounded memory.
//! Must not depend on: terminals, clocks.

use crate::events::{Event, EventKind, Phase};
use crate::run_dir::{RunDir, RunDirError};
use crate::state::{self, LoggedState, RunState};

/// Maximum number of stored improvements of the eval loss. A later attempt may supersede the newest ones.
const IMPROVEMENTS: usize = 1 << 10;

/// The current activity of a run, or how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The log is empty.
    Waiting,
    Preparing,
    Loading,
    Quantizing,
    Running,
    Evaluating,
    Saving,
    Exporting,
    /// Stopped before the end, by request or a kill.
    Interrupted,
    Diverged,
    Failed,
    GateFailed,
    Published,
    Finished,
}

impl Status {
    pub const ALL: [Self; 14] = [
        Self::Waiting,
        Self::Preparing,
        Self::Loading,
        Self::Quantizing,
        Self::Running,
        Self::Evaluating,
        Self::Saving,
        Self::Exporting,
        Self::Interrupted,
        Self::Diverged,
        Self::Failed,
        Self::GateFailed,
        Self::Published,
        Self::Finished,
    ];

    /// The name shown to users, which filters match.
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Preparing => "preparing",
            Self::Loading => "loading",
            Self::Quantizing => "quantizing",
            Self::Running => "running",
            Self::Evaluating => "evaluating",
            Self::Saving => "saving",
            Self::Exporting => "exporting",
            Self::Interrupted => "interrupted",
            Self::Diverged => "diverged",
            Self::Failed => "failed",
            Self::GateFailed => "gate failed",
            Self::Published => "published",
            Self::Finished => "finished",
        }
    }

    /// Whether a process is working on the run.
    pub fn is_alive(self) -> bool {
        !matches!(
            self,
            Self::Interrupted | Self::Diverged | Self::Failed | Self::GateFailed | Self::Published | Self::Finished
        )
    }
}

/// Verdict of the quality gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub passed: bool,
    pub reasons: Vec<String>,
}

/// The values of the newest step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Now {
    pub epoch: f64,
    pub loss: f64,
    pub lr: f64,
    pub grad_norm: f64,
    pub tokens_per_second: f64,
    pub peak_rss_bytes: Option<u64>,
    pub accelerator_bytes: Option<u64>,
}

/// The summary of a run.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    logged: LoggedState,
    pub attempt: u32,
    pub step: u64,
    pub total_steps: u64,
    pub now: Option<Now>,
    /// Step and loss of the newest evaluation.
    pub eval: Option<(u64, f64)>,
    /// Step and loss of each evaluation with a new lowest loss.
    improvements: Vec<(u64, f64)>,
    pub phase: Option<(Phase, u64, u64)>,
    pub verdict: Option<Verdict>,
    pub published: Option<String>,
    /// Why the run diverged, failed or was interrupted.
    pub end: Option<String>,
    /// Unix time of the newest event, in seconds.
    pub t: Option<f64>,
    /// Tokens of all steps in the log, including superseded ones.
    pub tokens_processed: u64,
    /// Checkpoints written.
    pub checkpoints: u64,
}

impl Summary {
    /// Adds the next event of the log.
    pub fn observe(&mut self, event: &Event) {
        self.logged.observe(event);
        if event.attempt > self.attempt && !event.kind.is_afterwards() {
            self.end = None;
        }
        self.attempt = self.attempt.max(event.attempt);
        self.t = Some(event.t).filter(|t| t.is_finite()).or(self.t);
        self.phase = match event.kind {
            EventKind::Phase { phase, done, total } => Some((phase, done, total)),
            _ => None,
        };
        match &event.kind {
            EventKind::AttemptStarted { from_step, total_steps, .. } => {
                (self.step, self.total_steps) = (*from_step, *total_steps);
                self.improvements.retain(|(step, _)| step <= from_step);
                self.eval = self.eval.filter(|(step, _)| step <= from_step);
                (self.verdict, self.published) = (None, None);
            }
            EventKind::Step {
                step,
                epoch,
                loss,
                lr,
                grad_norm,
                tokens,
                tokens_per_second,
                peak_rss_bytes,
                accelerator_bytes,
                ..
            } => {
                self.step = *step;
                self.tokens_processed = self.tokens_processed.saturating_add(*tokens);
                self.now = Some(Now {
                    epoch: *epoch,
                    loss: *loss,
                    lr: *lr,
                    grad_norm: *grad_norm,
                    tokens_per_second: *tokens_per_second,
                    peak_rss_bytes: *peak_rss_bytes,
                    accelerator_bytes: *accelerator_bytes,
                });
            }
            EventKind::Eval { step, loss, .. } => {
                self.eval = Some((*step, *loss));
                if loss.is_finite() && self.best().is_none_or(|(_, best)| *loss < best) {
                    self.improvements.push((*step, *loss));
                    if self.improvements.len() > IMPROVEMENTS {
                        self.improvements.remove(0);
                    }
                }
            }
            EventKind::Checkpoint { .. } => self.checkpoints += 1,
            EventKind::Interrupted { step, signal } => {
                let by = signal.map_or_else(|| "on request".to_owned(), |signal| format!("by signal {signal}"));
                self.end = Some(format!("stopped {by} after step {step}; its checkpoint is saved"));
            }
            EventKind::Diverged { step, what } => self.end = Some(format!("step {step}: {what}")),
            // The failure after a divergence repeats its text.
            EventKind::Failed { message, .. } if self.logged.state() == RunState::Failed => {
                self.end = Some(message.clone());
            }
            EventKind::Gate { passed, reasons } => {
                self.verdict = Some(Verdict { passed: *passed, reasons: reasons.clone() });
            }
            EventKind::Published { name } => self.published = Some(name.clone()),
            EventKind::Finished { step, .. } => self.step = *step,
            EventKind::Failed { .. }
            | EventKind::Notice { .. }
            | EventKind::Device { .. }
            | EventKind::Memory { .. }
            | EventKind::Phase { .. }
            | EventKind::Data { .. }
            | EventKind::Sample { .. } => {}
        }
    }

    /// The lowest eval loss and its step.
    pub fn best(&self) -> Option<(u64, f64)> {
        self.improvements.last().copied()
    }

    /// The current activity of the run if its lock is held, otherwise how it ended.
    pub fn status(&self, held: bool) -> Status {
        if held {
            return match self.phase {
                Some((Phase::Preparing, ..)) => Status::Preparing,
                Some((Phase::Loading, ..)) => Status::Loading,
                Some((Phase::Quantizing, ..)) => Status::Quantizing,
                Some((Phase::Evaluating | Phase::Generating, ..)) => Status::Evaluating,
                Some((Phase::Saving, ..)) => Status::Saving,
                Some((Phase::Merging, ..)) => Status::Exporting,
                Some((Phase::Other, ..)) => Status::Running,
                None if self.attempt == 0 => Status::Waiting,
                None => Status::Running,
            };
        }
        match self.logged.state() {
            RunState::Created => Status::Waiting,
            RunState::Running | RunState::Interrupted => Status::Interrupted,
            RunState::Diverged => Status::Diverged,
            RunState::Failed => Status::Failed,
            RunState::Finished => match &self.verdict {
                _ if self.published.is_some() => Status::Published,
                Some(verdict) if !verdict.passed => Status::GateFailed,
                _ => Status::Finished,
            },
        }
    }
}

/// The summary and status of a run, from its lock and its whole log.
///
/// # Errors
/// If one of them can't be read.
pub fn read(run: &RunDir) -> Result<(Summary, Status), RunDirError> {
    // The lock is checked before the log: once the lock is free, the log is complete.
    let held = run.is_held()?;
    let mut summary = Summary::default();
    state::scan(run, |event| summary.observe(&event))?;
    let status = summary.status(held);
    Ok((summary, status))
}
