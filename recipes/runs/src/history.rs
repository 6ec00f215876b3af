//! The history of one run, as the dashboard shows it.
//!
//! Responsible for: folding events into series, lines, samples and facts, in bounded memory. Dropped lines and samples
//! are counted.
//! Must not depend on: terminals, files, clocks.

use std::collections::{BTreeMap, VecDeque};

use crate::events::{Event, EventKind, Lengths, Packing};
use crate::numbers::{duration, grouped, measure};
use crate::series::Series;
use tonfall_recipes::counted;
use tonfall_recipes::printable::escaped;

/// Steps in the moving average of the speed.
const RECENT: usize = 20;
/// Maximum length of the list of events.
const LINES: usize = 500;
/// Held-out prompts whose generations are stored.
const SAMPLES: usize = 200;
/// Maximum characters of a line, a prompt or a generation.
const TEXT: usize = 4000;

/// A value measured at every step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    Loss,
    LearningRate,
    GradNorm,
    Throughput,
    HostMemory,
    AcceleratorMemory,
}

impl Metric {
    const COUNT: usize = 6;

    pub fn index(self) -> usize {
        self as usize
    }
}

/// Importance of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    Plain,
    Good,
    Bad,
}

/// A line of the list of events.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// Unix time in seconds.
    pub t: f64,
    pub weight: Weight,
    pub text: String,
}

/// The generation for a held-out prompt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    pub prompt: String,
    pub text: String,
    pub expected: Vec<String>,
    pub missing: Vec<String>,
    pub violations: Vec<String>,
}

/// The generations of one evaluation.
#[derive(Clone, Debug, Default)]
pub struct Answers {
    pub step: u64,
    pub answers: Vec<Answer>,
    /// Number of generations beyond [`SAMPLES`].
    pub left_out: u64,
}

/// Counts of the prepared data.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DataFacts {
    pub train_examples: u64,
    pub eval_examples: u64,
    pub dropped: BTreeMap<String, u64>,
    pub tokens: u64,
    pub trained_tokens: u64,
    pub lengths: Option<Lengths>,
    pub packing: Option<Packing>,
}

/// The device of the run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DeviceFacts {
    pub name: String,
    pub flops_per_token: Option<f64>,
    pub peak_flops: Option<f64>,
    pub memory_bytes: Option<u64>,
    pub host_memory_bytes: Option<u64>,
}

/// The history of one run.
#[derive(Clone, Debug, Default)]
pub struct RunData {
    pub steps: Series<{ Metric::COUNT }>,
    pub evals: Series<1>,
    pub lines: VecDeque<Line>,
    /// Number of older lines that were dropped.
    pub lines_left_out: u64,
    /// The first evaluation with generations; `after` is the newest one.
    pub before: Answers,
    pub after: Answers,
    pub data: Option<DataFacts>,
    pub device: Option<DeviceFacts>,
    pub trainable_parameters: Option<u64>,
    /// Predicted peak memory.
    pub predicted_bytes: Option<u64>,
    /// Tokens and tokens with loss of the newest step.
    pub step_tokens: Option<(u64, u64)>,
    recent: VecDeque<f64>,
    tokens: f64,
    seconds: f64,
}

impl RunData {
    /// Adds the next event of the log.
    pub fn observe(&mut self, event: Event) {
        let t = event.t;
        match event.kind {
            EventKind::AttemptStarted { from_step, total_steps, trainable_parameters, .. } => {
                self.restart(from_step);
                self.trainable_parameters = Some(trainable_parameters);
                let from = if from_step > 0 { format!(" from step {from_step}") } else { String::new() };
                self.line(
                    t,
                    Weight::Plain,
                    format!("attempt {}{from}, {}", event.attempt, counted(total_steps, "step")),
                );
            }
            EventKind::Step {
                step,
                loss,
                lr,
                grad_norm,
                tokens,
                trained_tokens,
                tokens_per_second,
                seconds,
                peak_rss_bytes,
                accelerator_bytes,
                ..
            } => {
                let seconds = if seconds.is_finite() { seconds.max(0.0) } else { 0.0 };
                self.tokens += tokens as f64;
                self.seconds += seconds;
                self.recent.push_back(seconds);
                if self.recent.len() > RECENT {
                    self.recent.pop_front();
                }
                self.step_tokens = Some((tokens, trained_tokens));
                let bytes = |bytes: Option<u64>| bytes.map_or(f64::NAN, |bytes| bytes as f64);
                let host = bytes(peak_rss_bytes);
                let values = [loss, lr, grad_norm, tokens_per_second, host, bytes(accelerator_bytes)];
                self.steps.push(step, self.tokens, self.seconds, values);
            }
            EventKind::Eval { step, loss, .. } => {
                let best = loss.is_finite() && self.evals.lowest(0).is_none_or(|lowest| (loss as f32) < lowest);
                // Only in a damaged log does an evaluation come before its training step.
                self.evals.push(step, self.tokens, self.seconds, [loss]);
                let best = if best { " (best)" } else { "" };
                self.line(t, Weight::Plain, format!("eval {} at step {step}{best}", measure(loss)));
            }
            EventKind::Sample { step, prompt, text, expected, missing, violations } => {
                let answer = Answer { prompt: cut(prompt), text: cut(text), expected, missing, violations };
                self.sample(step, answer);
            }
            EventKind::Data { train_examples, eval_examples, dropped, tokens, trained_tokens, lengths, packing } => {
                let lost: u64 = dropped.values().fold(0, |sum, count| sum.saturating_add(*count));
                let lost = if lost > 0 { format!(", {} dropped", grouped(lost)) } else { String::new() };
                let weight = if lost.is_empty() { Weight::Plain } else { Weight::Bad };
                self.line(
                    t,
                    weight,
                    format!("{}, {} held out{lost}", counted(train_examples, "example"), grouped(eval_examples)),
                );
                self.data = Some(DataFacts {
                    train_examples,
                    eval_examples,
                    dropped,
                    tokens,
                    trained_tokens,
                    lengths,
                    packing,
                });
            }
            EventKind::Device { name, flops_per_token, peak_flops, memory_bytes, host_memory_bytes } => {
                self.device = Some(DeviceFacts { name, flops_per_token, peak_flops, memory_bytes, host_memory_bytes });
            }
            EventKind::Memory { predicted_bytes, reason, .. } => {
                self.predicted_bytes = Some(predicted_bytes);
                if let Some(reason) = reason {
                    self.line(t, Weight::Plain, reason);
                }
            }
            EventKind::Notice { message } => self.line(t, Weight::Plain, message),
            EventKind::Checkpoint { path, .. } => self.line(t, Weight::Plain, format!("checkpoint {path}")),
            EventKind::Interrupted { step, .. } => {
                self.line(t, Weight::Bad, format!("interrupted at step {step}, checkpoint saved"));
            }
            EventKind::Diverged { step, what } => self.line(t, Weight::Bad, format!("diverged at step {step}: {what}")),
            EventKind::Failed { message, exit_code } => {
                self.line(t, Weight::Bad, format!("failed with exit code {exit_code}: {message}"));
            }
            EventKind::Finished { step, seconds, tokens, .. } => {
                let text = format!(
                    "finished: {} in {}, {}",
                    counted(step, "step"),
                    duration(seconds),
                    counted(tokens, "token")
                );
                self.line(t, Weight::Good, text);
            }
            EventKind::Gate { passed, reasons } => {
                let (weight, verdict) = if passed { (Weight::Good, "passed") } else { (Weight::Bad, "failed") };
                let reasons = if reasons.is_empty() { String::new() } else { format!(": {}", reasons.join("; ")) };
                self.line(t, weight, format!("gate {verdict}{reasons}"));
            }
            EventKind::Published { name } => self.line(t, Weight::Good, format!("published as {name}")),
            EventKind::Phase { .. } => {}
        }
    }

    /// Removes the superseded values after `step`.
    fn restart(&mut self, step: u64) {
        self.steps.truncate(step);
        self.evals.truncate(step);
        (self.tokens, self.seconds) = self.steps.sums_at(step);
        self.recent.clear();
        for answers in [&mut self.before, &mut self.after] {
            // An attempt from step 0 generates all samples again.
            if answers.step > step || step == 0 {
                *answers = Answers::default();
            }
        }
    }

    fn sample(&mut self, step: u64, answer: Answer) {
        let first = self.before.answers.is_empty() || self.before.step == step;
        let answers = if first { &mut self.before } else { &mut self.after };
        if answers.step != step {
            *answers = Answers::default();
        }
        answers.step = step;
        match answers.answers.len() < SAMPLES {
            true => answers.answers.push(answer),
            false => answers.left_out += 1,
        }
    }

    /// Adds a line to the list of events.
    pub fn line(&mut self, t: f64, weight: Weight, text: String) {
        self.lines.push_back(Line { t, weight, text: cut(text) });
        if self.lines.len() > LINES {
            self.lines.pop_front();
            self.lines_left_out += 1;
        }
    }

    /// Mean seconds per step over the newest steps.
    pub fn seconds_per_step(&self) -> Option<f64> {
        (!self.recent.is_empty()).then(|| self.recent.iter().sum::<f64>() / self.recent.len() as f64)
    }

    /// Floating-point operations per second, and their fraction of the device's peak, if known.
    pub fn flops(&self, tokens_per_second: f64) -> (Option<f64>, Option<f64>) {
        let device = self.device.as_ref();
        let rate = device.and_then(|device| device.flops_per_token).map(|flops| flops * tokens_per_second);
        let peak = device.and_then(|device| device.peak_flops).filter(|peak| *peak > 0.0);
        (rate, rate.zip(peak).map(|(rate, peak)| rate / peak))
    }
}

/// The first [`TEXT`] characters, with a mark where the text was cut. Control characters are escaped: ratatui drops
/// most of them silently, but prints those that reorder text.
fn cut(text: String) -> String {
    let mut text = escaped(&text).into_owned();
    if let Some((end, _)) = text.char_indices().nth(TEXT) {
        text.truncate(end);
        text.push_str(" […]");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_a_log_is_escaped_and_cut() {
        assert_eq!(cut("clear\u{1b}[2J\u{9b}\u{202e}\n".to_owned()), "clear\\x1b[2J\\x9b\\u202e\n");
        let long = cut("é".repeat(TEXT + 1));
        assert!(long.starts_with(&"é".repeat(TEXT)) && long.ends_with(" […]"));
    }
}
