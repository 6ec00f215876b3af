//! What is known about a run.
//!
//! Responsible for: `update`, which turns events into numbers. Pure: no clock, no files.
//! Must not depend on: terminals.

use tonfall_recipes::{Event, EventKind, RunState};

/// Share of the past in the smoothed loss.
const SMOOTHING: f64 = 0.95;
/// Steps over which the speed is averaged.
const RECENT: usize = 20;
/// Lines that are kept for the list of events.
const LINES: usize = 200;

/// News.
#[derive(Debug)]
pub(crate) enum Message {
    Events(Vec<Event>),
    State(RunState),
}

/// The numbers of the latest step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Now {
    pub(crate) step: u64,
    pub(crate) epoch: f64,
    pub(crate) loss: f64,
    pub(crate) lr: f64,
    pub(crate) grad_norm: f64,
    pub(crate) tokens_per_second: f64,
    pub(crate) peak_rss_bytes: Option<u64>,
}

/// The state of the view.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) id: String,
    pub(crate) state: RunState,
    pub(crate) attempt: u32,
    pub(crate) total_steps: u64,
    /// Step and loss.
    pub(crate) losses: Vec<(f64, f64)>,
    pub(crate) evals: Vec<(f64, f64)>,
    pub(crate) now: Option<Now>,
    /// Newest last: seconds since 1970 and text.
    pub(crate) lines: Vec<(f64, String)>,
    seconds: Vec<f64>,
}

impl App {
    pub(crate) fn new(id: String) -> Self {
        Self {
            id,
            state: RunState::Created,
            attempt: 0,
            total_steps: 0,
            losses: Vec::new(),
            evals: Vec::new(),
            now: None,
            lines: Vec::new(),
            seconds: Vec::new(),
        }
    }

    pub(crate) fn update(&mut self, message: Message) {
        match message {
            Message::State(state) => self.state = state,
            Message::Events(events) => events.into_iter().for_each(|event| self.event(event)),
        }
        let surplus = self.lines.len().saturating_sub(LINES);
        self.lines.drain(..surplus);
        let surplus = self.seconds.len().saturating_sub(RECENT);
        self.seconds.drain(..surplus);
    }

    fn event(&mut self, event: Event) {
        self.attempt = self.attempt.max(event.attempt);
        let line = match event.kind {
            EventKind::AttemptStarted { from_step, total_steps, .. } => {
                self.total_steps = total_steps;
                self.losses.retain(|(step, _)| *step <= from_step as f64);
                self.evals.retain(|(step, _)| *step <= from_step as f64);
                format!("attempt {} from step {from_step}", event.attempt)
            }
            EventKind::Step {
                step, epoch, loss, lr, grad_norm, tokens_per_second, seconds, peak_rss_bytes, ..
            } => {
                self.losses.push((step as f64, loss));
                self.seconds.push(seconds);
                self.now = Some(Now { step, epoch, loss, lr, grad_norm, tokens_per_second, peak_rss_bytes });
                return;
            }
            EventKind::Eval { step, loss, .. } => {
                self.evals.push((step as f64, loss));
                format!("eval {loss:.4} at step {step}")
            }
            EventKind::Data { train_examples, eval_examples, .. } => {
                format!("{train_examples} examples, {eval_examples} held out")
            }
            EventKind::Notice { message } => message,
            EventKind::Checkpoint { path, .. } => format!("checkpoint {path}"),
            EventKind::Interrupted { step, .. } => format!("interrupted at step {step}"),
            EventKind::Diverged { step, what } => format!("diverged at step {step}: {what}"),
            EventKind::Failed { message, .. } => message,
            EventKind::Finished { step, .. } => format!("finished at step {step}"),
            EventKind::Sample { .. } => return,
        };
        self.lines.push((event.t, line));
    }

    /// Seconds to go, while the run is alive and its speed is known.
    pub(crate) fn eta(&self) -> Option<f64> {
        let now = self.now.filter(|_| self.state == RunState::Running && !self.seconds.is_empty())?;
        let mean = self.seconds.iter().sum::<f64>() / self.seconds.len() as f64;
        Some(mean * self.total_steps.saturating_sub(now.step) as f64)
    }

    /// The exponential moving average of the loss, debiased as Adam's moments are (Kingma and Ba 2015, §3).
    pub(crate) fn smoothed(&self) -> Vec<(f64, f64)> {
        let (mut mean, mut weight) = (0.0, 1.0);
        let finite = self.losses.iter().filter(|(_, loss)| loss.is_finite());
        finite
            .map(|(step, loss)| {
                mean = SMOOTHING * mean + (1.0 - SMOOTHING) * loss;
                weight *= SMOOTHING;
                (*step, mean / (1.0 - weight))
            })
            .collect()
    }

    /// The lowest eval loss and its step.
    pub(crate) fn best(&self) -> Option<(f64, f64)> {
        let finite = self.evals.iter().filter(|(_, loss)| loss.is_finite());
        finite.copied().min_by(|a, b| a.1.total_cmp(&b.1))
    }
}
