//! The events of a run and their form as lines of `events.jsonl`.
//!
//! Responsible for: the schema. A line is `{"v":1,"seq":812,"attempt":1,"t":…,"kind":"step","step":500,"loss":1.8,…}`.
//! Must not depend on: where lines come from or go to (that is [`EventLog`] and [`EventReader`]).
//!
//! JSON has no NaN and no infinities. Where a measured number isn't finite, it is written as the string `"NaN"`,
//! `"Infinity"` or `"-Infinity"`, so that a diverged loss stays visible; `null` is read as NaN as well. Numbers are
//! written to the bit and read to about 15 digits, as serde_json does.
//!
//! The schema grows by new kinds and by new optional fields; readers skip kinds and fields that they don't know.

mod log;
mod reader;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::log::EventLog;
pub use self::reader::{EventReadError, EventReader};

/// Version of the schema, `v` in each line.
pub const VERSION: u32 = 1;

/// One line of the event log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// [`VERSION`].
    pub v: u32,
    /// Counts up by one over the whole log, from 1.
    pub seq: u64,
    /// 1 for the first start of a run, one more for each resume.
    pub attempt: u32,
    /// Unix time in seconds.
    pub t: f64,
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum EventKind {
    /// Training starts, behind optimizer step `from_step`. Steps above it from earlier attempts are superseded.
    AttemptStarted { from_step: u64, total_steps: u64, plan_hash: String, trainable_parameters: u64 },
    /// A sentence for people: a choice that was made, and why.
    Notice { message: String },
    /// What the attempt computes on, and what a token costs there.
    Device {
        name: String,
        /// Floating-point operations that a token of a training step needs.
        #[serde(default, with = "optional_number", skip_serializing_if = "Option::is_none")]
        flops_per_token: Option<f64>,
        /// What the device can do in a second, where its maker says so. The denominator of MFU.
        #[serde(default, with = "optional_number", skip_serializing_if = "Option::is_none")]
        peak_flops: Option<f64>,
        /// Memory of the accelerator.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        memory_bytes: Option<u64>,
        /// Memory of the machine.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host_memory_bytes: Option<u64>,
    },
    /// How the run uses memory from here on: its highest use by arithmetic, by part, against what it may have.
    Memory {
        predicted_bytes: u64,
        /// `None` where nobody tells.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit_bytes: Option<u64>,
        parts: BTreeMap<String, u64>,
        /// Sequences.
        micro_batch_size: u64,
        /// Micro-batches of an optimizer step.
        gradient_accumulation_steps: u64,
        recompute: bool,
        /// Layers' inputs, which recomputation keeps, wait in the host's memory.
        #[serde(default)]
        offload: bool,
        /// Why it is not as the plan says, or not as it was before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// Work outside optimizer steps began (`done` is 0) or goes on. `total` is 0 while nobody knows it. The next event
    /// of another kind ends it.
    Phase { phase: Phase, done: u64, total: u64 },
    /// What the data came to. `dropped` counts rows by reason.
    Data {
        train_examples: u64,
        eval_examples: u64,
        #[serde(default)]
        dropped: BTreeMap<String, u64>,
        tokens: u64,
        trained_tokens: u64,
        /// How long the training examples are.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lengths: Option<Lengths>,
        /// How they are packed, where they are.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        packing: Option<Packing>,
    },
    /// An optimizer step was done. `loss` is the mean a trained token; tokens and seconds are those of this step.
    Step {
        step: u64,
        #[serde(with = "number")]
        epoch: f64,
        #[serde(with = "number")]
        loss: f64,
        #[serde(with = "number")]
        lr: f64,
        #[serde(with = "number")]
        grad_norm: f64,
        tokens: u64,
        trained_tokens: u64,
        #[serde(with = "number")]
        tokens_per_second: f64,
        #[serde(with = "number")]
        seconds: f64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        peak_rss_bytes: Option<u64>,
        /// Memory of the accelerator that is in use.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        accelerator_bytes: Option<u64>,
    },
    /// The eval split was measured: mean loss over `tokens` trained tokens.
    Eval {
        step: u64,
        #[serde(with = "number")]
        loss: f64,
        tokens: u64,
    },
    /// A held-out prompt was answered.
    Sample {
        step: u64,
        prompt: String,
        text: String,
        /// Terms that a good answer uses, and those of them that this one doesn't.
        expected: Vec<String>,
        missing: Vec<String>,
        /// Terms to avoid that the answer uses.
        violations: Vec<String>,
    },
    /// A checkpoint is on disk. `path` is its name below `checkpoints/`.
    Checkpoint { step: u64, path: String },
    /// The run is done: trained, evaluated, exported. `seconds` and `tokens` are sums over all attempts.
    Finished {
        step: u64,
        #[serde(with = "number")]
        seconds: f64,
        tokens: u64,
        #[serde(default, with = "optional_number", skip_serializing_if = "Option::is_none")]
        eval_loss: Option<f64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        peak_rss_bytes: Option<u64>,
    },
    /// The run was asked to stop, by a signal's number or by `stop.request`, and has saved a checkpoint.
    Interrupted {
        step: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal: Option<i32>,
    },
    /// Loss or gradients are no numbers any more.
    Diverged { step: u64, what: String },
    /// The attempt ended with an error.
    Failed { message: String, exit_code: u8 },
    /// What the gate said of the finished run; `reasons` are those for a refusal.
    Gate {
        passed: bool,
        #[serde(default)]
        reasons: Vec<String>,
    },
    /// The run's artefact became the current one under `name`.
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
    /// Of a newer tonfall.
    #[serde(other)]
    Other,
}

impl Phase {
    /// As it is shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::Preparing => "preparing the data",
            Self::Loading => "loading the base model",
            Self::Quantizing => "quantizing the base model",
            Self::Evaluating => "evaluating",
            Self::Generating => "answering held-out prompts",
            Self::Saving => "saving",
            Self::Merging => "merging",
            Self::Other => "working",
        }
    }
}

/// Tokens of training examples: half of them are at most `median` long, and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lengths {
    pub median: u64,
    pub p90: u64,
    pub p99: u64,
    pub max: u64,
}

/// Training examples in sequences of `data.max_seq_len` tokens; `filled` is the share of their room that tokens take.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Packing {
    pub sequences: u64,
    pub filled: f64,
}

impl Lengths {
    /// Of lengths in any order; `None` without any.
    pub fn of(mut lengths: Vec<u64>) -> Option<Self> {
        lengths.sort_unstable();
        let max = *lengths.last()?;
        let at = |percent: usize| lengths[(lengths.len() * percent).div_ceil(100).saturating_sub(1)];
        Some(Self { median: at(50), p90: at(90), p99: at(99), max })
    }
}

impl EventKind {
    /// The names under which kinds stand in a line.
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

    /// The optimizer step that something was measured or saved at, for kinds that a later attempt can supersede.
    pub fn measured_at(&self) -> Option<u64> {
        match self {
            Self::Step { step, .. }
            | Self::Eval { step, .. }
            | Self::Sample { step, .. }
            | Self::Checkpoint { step, .. } => Some(*step),
            _ => None,
        }
    }

    /// Whether the event says how an attempt ended.
    pub fn is_end(&self) -> bool {
        matches!(self, Self::Finished { .. } | Self::Interrupted { .. } | Self::Diverged { .. } | Self::Failed { .. })
    }

    /// Whether the event judges or uses a run that has ended, so that it begins no attempt.
    pub fn is_afterwards(&self) -> bool {
        matches!(self, Self::Gate { .. } | Self::Published { .. })
    }
}

/// What a terminated line of an event log turned out to be.
#[derive(Clone, Debug, PartialEq)]
pub enum Line {
    Event(Event),
    /// From a newer tonfall: a kind or a version that this one doesn't know.
    Unknown,
    /// No event at all.
    Damaged,
}

impl Line {
    /// Reads one line, without its end. Any bytes are fine.
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

/// Removes what was measured behind the step from which a later attempt started again.
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

/// Floating-point numbers in JSON, finite or not.
mod number {
    use std::fmt;

    use serde::de::{Deserializer, Error, Unexpected, Visitor};
    use serde::ser::Serializer;

    pub(super) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        match *value {
            value if value.is_finite() => serializer.serialize_f64(value),
            value if value.is_nan() => serializer.serialize_str("NaN"),
            value if value > 0.0 => serializer.serialize_str("Infinity"),
            _ => serializer.serialize_str("-Infinity"),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        deserializer.deserialize_any(Number)
    }

    struct Number;

    impl Visitor<'_> for Number {
        type Value = f64;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("a number, \"NaN\", \"Infinity\" or \"-Infinity\"")
        }

        fn visit_f64<E: Error>(self, value: f64) -> Result<f64, E> {
            Ok(value)
        }

        fn visit_u64<E: Error>(self, value: u64) -> Result<f64, E> {
            Ok(value as f64)
        }

        fn visit_i64<E: Error>(self, value: i64) -> Result<f64, E> {
            Ok(value as f64)
        }

        fn visit_unit<E: Error>(self) -> Result<f64, E> {
            Ok(f64::NAN)
        }

        fn visit_str<E: Error>(self, value: &str) -> Result<f64, E> {
            match value {
                "NaN" => Ok(f64::NAN),
                "Infinity" => Ok(f64::INFINITY),
                "-Infinity" => Ok(f64::NEG_INFINITY),
                other => Err(E::invalid_value(Unexpected::Str(other), &self)),
            }
        }
    }
}

/// [`number`], or nothing.
mod optional_number {
    use serde::de::Deserializer;
    use serde::ser::Serializer;

    pub(super) fn serialize<S: Serializer>(value: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => super::number::serialize(value, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
        super::number::deserialize(deserializer).map(Some)
    }
}

#[cfg(test)]
mod tests;
