//! The events of a run, and their format in `events.jsonl`.
//!
//! Responsible for: the schema. A line is `{"v":1,"seq":812,"attempt":1,"t":…,"kind":"step","step":500,"loss":1.8,…}`.
//! Must not depend on: files (that is [`EventLog`] and [`EventReader`]).
//!
//! JSON has no NaN and no infinities. A measured number that isn't finite is written as the string `"NaN"`,
//! `"Infinity"` or `"-Infinity"`, so that a diverged loss stays visible. `null` is read as NaN. Numbers are written
//! exactly and read with about 15 digits, like serde_json.
//!
//! Later versions may add kinds and optional fields. Readers skip kinds and fields that they don't know.

mod log;
mod reader;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::json_number;

pub use self::log::EventLog;
pub use self::reader::{EventReadError, EventReader};

/// Version of the schema, `v` in each line.
pub const VERSION: u32 = 1;

/// One line of the event log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// [`VERSION`].
    pub v: u32,
    /// Number of the event in the log, from 1.
    pub seq: u64,
    /// 1 for the first start of a run, incremented by each resume.
    pub attempt: u32,
    /// Unix time in seconds.
    pub t: f64,
    #[serde(flatten)]
    pub kind: EventKind,
}

/// The kind of an event, with its fields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum EventKind {
    /// Training starts after optimizer step `from_step`. Later steps of earlier attempts are superseded.
    AttemptStarted { from_step: u64, total_steps: u64, plan_hash: String, trainable_parameters: u64 },
    /// A text for users, such as a choice and its reason.
    Notice { message: String },
    /// The device of the attempt, and the FLOPs per token.
    Device {
        name: String,
        /// Floating-point operations per token of a training step.
        #[serde(default, with = "json_number::optional", skip_serializing_if = "Option::is_none")]
        flops_per_token: Option<f64>,
        /// Peak floating-point operations per second from the data sheet: the denominator of MFU.
        #[serde(default, with = "json_number::optional", skip_serializing_if = "Option::is_none")]
        peak_flops: Option<f64>,
        /// Memory of the accelerator.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        memory_bytes: Option<u64>,
        /// Memory of the host.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host_memory_bytes: Option<u64>,
    },
    /// Predicted peak memory from this event on, in total and by part, and the limit.
    Memory {
        predicted_bytes: u64,
        /// `None` if it is unknown.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit_bytes: Option<u64>,
        parts: BTreeMap<String, u64>,
        /// Sequences per micro-batch.
        micro_batch_size: u64,
        /// Micro-batches per optimizer step.
        gradient_accumulation_steps: u64,
        recompute: bool,
        /// Recomputation stores layer inputs in host memory.
        #[serde(default)]
        offload: bool,
        /// Why the values differ from the plan or from earlier values.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// Work outside optimizer steps. `done` is 0 when it begins; `total` is 0 while it is unknown. The next event of
    /// another kind ends the phase.
    Phase { phase: Phase, done: u64, total: u64 },
    /// The prepared data. `dropped` counts rows by reason.
    Data {
        train_examples: u64,
        eval_examples: u64,
        #[serde(default)]
        dropped: BTreeMap<String, u64>,
        tokens: u64,
        trained_tokens: u64,
        /// Lengths of the training examples.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lengths: Option<Lengths>,
        /// Packing of the training examples, if they are packed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        packing: Option<Packing>,
    },
    /// An optimizer step. `loss` is the mean over tokens with loss; `tokens` and `seconds` count this step only.
    Step {
        step: u64,
        #[serde(with = "json_number")]
        epoch: f64,
        #[serde(with = "json_number")]
        loss: f64,
        #[serde(with = "json_number")]
        lr: f64,
        #[serde(with = "json_number")]
        grad_norm: f64,
        tokens: u64,
        trained_tokens: u64,
        #[serde(with = "json_number")]
        tokens_per_second: f64,
        #[serde(with = "json_number")]
        seconds: f64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        peak_rss_bytes: Option<u64>,
        /// Accelerator memory in use.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        accelerator_bytes: Option<u64>,
    },
    /// An evaluation: the mean loss over `tokens` tokens with loss of the eval split.
    Eval {
        step: u64,
        #[serde(with = "json_number")]
        loss: f64,
        tokens: u64,
    },
    /// The generation for a held-out prompt.
    Sample {
        step: u64,
        prompt: String,
        text: String,
        /// Terms that the text should use, and the missing ones among them.
        expected: Vec<String>,
        missing: Vec<String>,
        /// Forbidden terms in the text.
        violations: Vec<String>,
    },
    /// A checkpoint was saved. `path` is its name below `checkpoints/`.
    Checkpoint { step: u64, path: String },
    /// The run is trained, evaluated and exported. `seconds` and `tokens` are sums over all attempts.
    Finished {
        step: u64,
        #[serde(with = "json_number")]
        seconds: f64,
        tokens: u64,
        #[serde(default, with = "json_number::optional", skip_serializing_if = "Option::is_none")]
        eval_loss: Option<f64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        peak_rss_bytes: Option<u64>,
    },
    /// The run was stopped by a signal or by `stop.request`, and saved a checkpoint.
    Interrupted {
        step: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal: Option<i32>,
    },
    /// Loss or gradients are NaN or infinite.
    Diverged { step: u64, what: String },
    /// The attempt ended with an error.
    Failed { message: String, exit_code: u8 },
    /// Verdict of the gate on the finished run, with the reasons for a refusal.
    Gate {
        passed: bool,
        #[serde(default)]
        reasons: Vec<String>,
    },
    /// The artefact of the run was published under `name`.
    Published { name: String },
}

/// Work outside optimizer steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Preparing,
    Loading,
    Quantizing,
    Evaluating,
    Generating,
    Saving,
    Merging,
    /// A phase of a newer version.
    #[serde(other)]
    Other,
}

impl Phase {
    /// The displayed name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Preparing => "preparing the data",
            Self::Loading => "loading the base model",
            Self::Quantizing => "quantizing the base model",
            Self::Evaluating => "evaluating",
            Self::Generating => "generating for held-out prompts",
            Self::Saving => "saving",
            Self::Merging => "merging",
            Self::Other => "working",
        }
    }
}

/// Lengths of the training examples in tokens: median, 90th and 99th percentile, maximum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lengths {
    pub median: u64,
    pub p90: u64,
    pub p99: u64,
    pub max: u64,
}

/// Training examples packed into sequences of `data.max_seq_len` tokens; `filled` is the fraction that isn't padding.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Packing {
    pub sequences: u64,
    pub filled: f64,
}

impl Lengths {
    /// The quantiles of lengths in any order; `None` if there are none.
    pub fn of(mut lengths: Vec<u64>) -> Option<Self> {
        lengths.sort_unstable();
        let max = *lengths.last()?;
        let at = |percent: usize| lengths[(lengths.len() * percent).div_ceil(100).saturating_sub(1)];
        Some(Self { median: at(50), p90: at(90), p99: at(99), max })
    }
}

impl EventKind {
    /// The names of the kinds.
    pub const NAMES: [&'static str; 16] = [
        "attempt_started",
        "notice",
        "device",
        "memory",
        "phase",
        "data",
        "step",
        "eval",
        "sample",
        "checkpoint",
        "finished",
        "interrupted",
        "diverged",
        "failed",
        "gate",
        "published",
    ];

    /// The optimizer step of the event, for kinds that a later attempt can supersede.
    pub fn measured_at(&self) -> Option<u64> {
        match self {
            Self::Step { step, .. }
            | Self::Eval { step, .. }
            | Self::Sample { step, .. }
            | Self::Checkpoint { step, .. } => Some(*step),
            _ => None,
        }
    }

    /// Whether the event ends an attempt.
    pub fn is_end(&self) -> bool {
        matches!(self, Self::Finished { .. } | Self::Interrupted { .. } | Self::Diverged { .. } | Self::Failed { .. })
    }

    /// Whether the event comes after the end of the run, and so starts no attempt.
    pub fn is_afterwards(&self) -> bool {
        matches!(self, Self::Gate { .. } | Self::Published { .. })
    }
}

/// A complete line of an event log.
#[derive(Clone, Debug, PartialEq)]
pub enum Line {
    Event(Event),
    /// An event of a kind or schema version that this build doesn't know.
    Unknown,
    /// Not an event.
    Damaged,
}

impl Line {
    /// Parses one line, without its line break. Accepts any bytes.
    pub fn parse(line: &[u8]) -> Self {
        #[derive(Deserialize)]
        struct Envelope {
            v: u32,
            kind: String,
        }
        match serde_json::from_slice::<Event>(line) {
            Ok(event) if event.v == VERSION => Self::Event(event),
            _ => match serde_json::from_slice::<Envelope>(line) {
                Ok(envelope) if envelope.v != VERSION || !EventKind::NAMES.contains(&envelope.kind.as_str()) => {
                    Self::Unknown
                }
                _ => Self::Damaged,
            },
        }
    }
}

/// Removes events that a later attempt has superseded.
pub fn drop_superseded(events: &mut Vec<Event>) {
    let mut restart = u64::MAX;
    let mut keep = vec![true; events.len()];
    for (event, keep) in events.iter().zip(&mut keep).rev() {
        *keep = event.kind.measured_at().is_none_or(|step| step <= restart);
        if let EventKind::AttemptStarted { from_step, .. } = event.kind {
            restart = restart.min(from_step);
        }
    }
    let mut keep = keep.into_iter();
    events.retain(|_| keep.next().unwrap_or(true));
}

#[cfg(test)]
mod tests;
