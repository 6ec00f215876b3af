//! The progress of a command.
//!
//! Responsible for: showing events and phases on stderr as a bar, plain lines, or lines of JSON.
//! Must not depend on: the source of the events.

use std::io::IsTerminal;
use std::path::Path;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tonfall_recipes::counted;
use tonfall_recipes::printable::escaped;
use tonfall_runs::events::Packing;
use tonfall_runs::numbers::{bytes, duration, grouped, short};
use tonfall_runs::{EventKind, EventReader};
use tonfall_trainer::Observation;

use crate::args::{Global, LogFormat, ProgressMode};
use crate::output;

/// Minimum time between two plain lines of one phase.
const PHASE_INTERVAL: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Bar,
    Plain,
    Silent,
    Json,
}

/// Shows progress. Each command creates one.
pub(crate) struct Reporter {
    style: Style,
    verbose: bool,
    json: bool,
    bar: Option<ProgressBar>,
    phase: Option<(String, Instant)>,
    steps: Option<Steps>,
    log: Option<EventReader>,
    quiet: bool,
    recorded: Vec<String>,
}

/// Progress of training.
struct Steps {
    total: u64,
    first: u64,
    log_every: u64,
    since: Instant,
}

impl Reporter {
    pub(crate) fn new(global: &Global) -> Self {
        let json = global.log_format == LogFormat::Json;
        let style = match global.progress {
            _ if json => Style::Json,
            _ if global.quiet => Style::Silent,
            ProgressMode::None => Style::Silent,
            ProgressMode::Bar => Style::Bar,
            ProgressMode::Plain => Style::Plain,
            ProgressMode::Auto if terminal() => Style::Bar,
            ProgressMode::Auto => Style::Plain,
        };
        Self {
            style,
            verbose: global.verbose,
            json,
            bar: None,
            phase: None,
            steps: None,
            log: None,
            quiet: global.quiet,
            recorded: Vec::new(),
        }
    }

    /// Prints nothing from now on.
    pub(crate) fn silence(&mut self) {
        self.style = Style::Silent;
    }

    /// Whether the result is also printed as JSON.
    pub(crate) fn json(&self) -> bool {
        self.json
    }

    /// Follows the event log of a run from its end, and prints a plain line every `log_every` steps.
    pub(crate) fn follow(&mut self, events: &Path, log_every: u64) {
        let mut reader = EventReader::new(events);
        // Earlier attempts have shown their own events, so these are read and dropped.
        reader.poll().ok();
        self.log = Some(reader);
        self.steps = Some(Steps { total: 0, first: 0, log_every: log_every.max(1), since: Instant::now() });
    }

    pub(crate) fn observe(&mut self, observation: Observation<'_>) {
        match observation {
            Observation::Progress { phase, done, total } => self.phase(phase.name(), done, total),
            Observation::Event(kind) => self.event(kind),
        }
    }

    /// Prints a line if `--verbose` is set.
    pub(crate) fn detail(&mut self, text: &str) {
        if self.verbose {
            self.note(text);
        }
    }

    /// Prints a line even without progress, unless `--quiet` is set, and keeps it for [`Self::take_recorded`].
    pub(crate) fn record(&mut self, text: &str) {
        match self.style {
            _ if self.quiet => {}
            Style::Silent => output::note(text),
            _ => self.note(text),
        }
        self.recorded.push(text.to_owned());
    }

    /// The recorded lines since the last call.
    pub(crate) fn take_recorded(&mut self) -> Vec<String> {
        std::mem::take(&mut self.recorded)
    }

    /// Prints a line above the bar. Control characters are escaped.
    pub(crate) fn note(&mut self, text: &str) {
        match (self.style, &self.bar) {
            (Style::Silent, _) => {}
            (Style::Json, _) => output::note_json(&serde_json::json!({"kind": "notice", "message": text}).to_string()),
            (Style::Bar, Some(bar)) => bar.suspend(|| output::note(text)),
            _ => output::note(text),
        }
    }

    /// Work outside training steps; a `total` of 0 means that it is unknown.
    pub(crate) fn phase(&mut self, name: &str, done: u64, total: u64) {
        // A phase's name contains file names, which may come from a server.
        let name = &escaped(name);
        match self.style {
            Style::Bar => self.phase_bar(name, done, total),
            Style::Plain => self.phase_line(name, done, total),
            Style::Silent | Style::Json => {}
        }
    }

    /// Removes the bar.
    pub(crate) fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        self.phase = None;
    }

    fn phase_bar(&mut self, name: &str, done: u64, total: u64) {
        let training = self.steps.as_ref().is_some_and(|steps| steps.total > 0);
        if training && let Some(bar) = &self.bar {
            bar.set_message(format!("{name} {done}/{total}"));
            return;
        }
        let new = self.phase.as_ref().is_none_or(|(phase, _)| phase != name);
        if new {
            self.clear();
            self.bar = Some(bar("{prefix} {wide_bar} {pos}/{len} {eta}"));
            self.phase = Some((name.to_owned(), Instant::now()));
        }
        if let Some(bar) = &self.bar {
            bar.set_prefix(name.to_owned());
            bar.set_length(total);
            bar.set_position(done);
        }
        if done >= total {
            self.clear();
        }
    }

    fn phase_line(&mut self, name: &str, done: u64, total: u64) {
        match &mut self.phase {
            Some((phase, last)) if phase == name => {
                if last.elapsed() >= PHASE_INTERVAL {
                    *last = Instant::now();
                    output::note(&format!("{name} {done}/{total}"));
                }
            }
            _ => {
                self.phase = Some((name.to_owned(), Instant::now()));
                output::note(name);
            }
        }
    }

    fn event(&mut self, kind: &EventKind) {
        if self.style == Style::Json {
            let events = self.log.as_mut().and_then(|log| log.poll().ok()).unwrap_or_default();
            for line in events.iter().filter_map(|event| serde_json::to_string(event).ok()) {
                output::note_json(&line);
            }
            return;
        }
        // The `Progress` observation of the same phase is shown instead of this event.
        if matches!(kind, EventKind::Phase { .. }) {
            return;
        }
        self.phase = None;
        match kind {
            EventKind::AttemptStarted { from_step, total_steps, trainable_parameters, .. } => {
                self.begin(*from_step, *total_steps);
                let parameters = counted(*trainable_parameters, "trainable parameter");
                self.note(&format!("{}, {parameters}", counted(*total_steps, "optimizer step")));
            }
            EventKind::Data { train_examples, eval_examples, dropped, tokens, trained_tokens, packing, .. } => {
                self.note(&format!(
                    "{}, {}, {} with loss; {} held out",
                    counted(*train_examples, "example"),
                    counted(*tokens, "token"),
                    grouped(*trained_tokens),
                    counted(*eval_examples, "example")
                ));
                if let Some(Packing { sequences, filled }) = packing {
                    let sequences = counted(*sequences, "sequence");
                    self.detail(&format!("packed into {sequences}, {:.1} % filled", 100.0 * filled));
                }
                for (reason, count) in dropped {
                    self.note(&format!("warning: {} left out: {reason}", counted(*count, "row")));
                }
            }
            EventKind::Notice { message } => self.detail(message),
            EventKind::Memory { predicted_bytes, limit_bytes, reason, .. } => {
                let of = limit_bytes.map_or_else(String::new, |limit| format!(" of {}", bytes(limit as f64)));
                self.detail(&format!("memory: about {}{of}", bytes(*predicted_bytes as f64)));
                if let Some(reason) = reason {
                    self.note(reason);
                }
            }
            EventKind::Step { .. } => self.step(kind),
            EventKind::Eval { step, loss, .. } => self.note(&format!("step {step}  eval loss {loss:.4}")),
            EventKind::Checkpoint { path, .. } => self.detail(&format!("saved {path}")),
            EventKind::Interrupted { .. } | EventKind::Diverged { .. } | EventKind::Failed { .. } => self.clear(),
            EventKind::Finished { .. } => self.clear(),
            EventKind::Gate { passed, reasons } => {
                let verdict = if *passed { "passed" } else { "failed" };
                self.note(&format!(
                    "gate {verdict}{}",
                    reasons.iter().map(|why| format!("; {why}")).collect::<String>()
                ));
            }
            EventKind::Published { name } => self.note(&format!("published as {name}")),
            EventKind::Sample { .. } | EventKind::Device { .. } | EventKind::Phase { .. } => {}
        }
    }

    fn begin(&mut self, from_step: u64, total: u64) {
        if let Some(steps) = &mut self.steps {
            *steps = Steps { total, first: from_step, log_every: steps.log_every, since: Instant::now() };
        }
        if self.style == Style::Bar {
            self.clear();
            let bar = bar("{prefix} {wide_bar} {msg}");
            bar.set_length(total);
            bar.set_position(from_step);
            self.bar = Some(bar);
        }
    }

    fn step(&mut self, kind: &EventKind) {
        let EventKind::Step { step, epoch, loss, lr, grad_norm, tokens_per_second, seconds, .. } = kind else { return };
        let Some(steps) = &mut self.steps else { return };
        if *step == steps.first + 1 {
            // The time before the first step was spent on evaluation, so it does not count.
            steps.since = Instant::now() - Duration::from_secs_f64(seconds.clamp(0.0, 1e6));
        }
        let done = step.saturating_sub(steps.first).max(1);
        let eta = steps.since.elapsed().as_secs_f64() / done as f64 * steps.total.saturating_sub(*step) as f64;
        let numbers = format!(
            "loss {loss:.4}  lr {lr:.2e}  |g| {grad_norm:.3}  {} tok/s  eta {}",
            short(*tokens_per_second),
            duration(eta)
        );
        let place = format!("step {step}/{}", steps.total);
        let due = *step == 1 || step % steps.log_every == 0 || *step == steps.total;
        match (self.style, &self.bar) {
            (Style::Bar, Some(bar)) => {
                bar.set_prefix(place);
                bar.set_message(numbers);
                bar.set_position(*step);
            }
            (Style::Plain, _) if due => output::note(&format!("{place}  epoch {epoch:.2}  {numbers}")),
            _ => {}
        }
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.clear();
    }
}

fn terminal() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

fn bar(template: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style.progress_chars("━╸─"));
    bar
}
