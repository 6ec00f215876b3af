//! Everything that can end a training run.

use std::path::PathBuf;

use thiserror::Error;
use tonfall_recipes::counted;

use crate::estimate::Estimate;
use crate::run_length::RunLength;

/// Why training, loading or generating failed.
#[derive(Debug, Error)]
pub enum TrainError {
    #[error(
        "the run diverged at step {step}: {what}; lower `training.learning_rate`, or examine the data of this step"
    )]
    Diverged { step: u64, what: String },

    #[error(transparent)]
    Durable(#[from] tonfall_durable::DurableError),

    #[error(transparent)]
    Checkpoint(#[from] tonfall_runs::checkpoint_dir::CheckpointError),

    #[error(transparent)]
    Base(#[from] tonfall_adapters::BaseError),

    #[error(transparent)]
    Adapter(#[from] tonfall_adapters::peft::PeftError),

    #[error(transparent)]
    Export(#[from] tonfall_adapters::export::ExportError),

    #[error(transparent)]
    Data(#[from] tonfall_datasets::DataError),

    #[error(
        "`lora.target_modules`: no linear layer of this base is named {unknown}{}; give some of {known}, whole names, or \"all-linear\"",
        did_you_mean(meant)
    )]
    TargetModules { unknown: String, meant: String, known: String },

    #[error(
        "LoRA on `lm_head` can't be trained or used in a conversation here: adapters go on the linear layers of the blocks; {}",
        head_remedy(*tied)
    )]
    AdapterOnHead { tied: bool },

    #[error("the adapter has modules that this base lacks: {unknown}; it was made for another model")]
    AdapterModules { unknown: String },

    #[error("{0}: a weight that is trained itself can't have an adapter; use `adapter.kind = \"lora\"`")]
    AdapterOnTrainable(String),

    #[error("the adapter's `{module}` is {found:?} (out, in), the base's {expected:?}; it was made for another model")]
    AdapterShape { module: String, expected: [usize; 2], found: [usize; 2] },

    #[error(
        "{}: weight `{name}` is {value} at row {row}, column {column} (counted from 0); a model with such a weight computes no numbers: fetch it again, or take another",
        path.display()
    )]
    NotFinite { path: PathBuf, name: String, row: usize, column: usize, value: f32 },

    #[error(
        "the warm-up of {warmup} optimizer steps is not shorter than the run, which has {run}; the learning rate would never stay at its peak: lower `training.warmup_steps` = {warmup}, or train longer"
    )]
    Warmup { warmup: u64, run: RunLength },

    #[error("`training.learning_rate` = {rate:e} is zero in f32, so that no step would change anything; raise it")]
    LearningRate { rate: f64 },

    #[error(
        "the held-out prompt \"{prompt}\" has {tokens} tokens; it needs at least one and fewer than the context of {context}"
    )]
    HeldOutPrompt { prompt: String, tokens: usize, context: usize },

    #[error(
        "the checkpoint is of step {step}, but with this data the run has {steps} steps; restore the data that the run began with, or train anew"
    )]
    BeyondEnd { step: u64, steps: u64 },

    #[error(
        "a sequence of {tokens} tokens is longer than the base model's context of {context}; lower `data.max_seq_len`"
    )]
    Context { tokens: usize, context: usize },

    #[error("{prompt} has {tokens} tokens; it needs at least one and fewer than the context of {context}")]
    Prompt { prompt: String, tokens: usize, context: usize },

    #[error(
        "not enough memory to generate: the keys and values of one sequence of {tokens} tokens need {} MiB with its buffers, and {} MiB are available; give a shorter prompt or a lower `max_new_tokens`, or end other programs",
        needed.div_ceil(1 << 20), available >> 20
    )]
    CacheMemory { needed: u64, available: u64, tokens: usize },

    #[error(
        "the model's logits after {position} tokens of {prompt} are not finite: {value} for token id {id}; the weights or the adapter are damaged: train the adapter again, or fetch the model again"
    )]
    LogitsNotFinite { prompt: String, position: usize, id: usize, value: f32 },

    #[error("there are no texts to calibrate on; give a file with at least one text")]
    NothingToCalibrateOn,

    #[error(
        "the inputs of `{weight}` are not finite numbers on these texts, so that nothing can be calibrated on them"
    )]
    InputsNotFinite { weight: String },

    #[error("checkpoint {} does not fit this run: {why}", path.display())]
    CheckpointMismatch { path: PathBuf, why: String },

    #[error("`style`: rule \"{name}\": {source}")]
    Style { name: String, source: tonfall_measures::rules::RuleError },

    #[error(transparent)]
    Group(#[from] crate::group::GroupError),

    #[error(
        "the checkpoint was made by {}, but this run has {size}: its steps would have other examples; start {made_by} again, or train a new run",
        counted(*made_by as u64, "process")
    )]
    Processes { made_by: usize, size: usize },

    #[error("the device failed: {0}")]
    Device(String),

    #[error("the device ran out of memory: {0}")]
    DeviceMemory(String),

    #[error("not enough memory: {}\nhint: {ways}", shortage(needed, *limit))]
    OutOfMemory { needed: Box<Estimate>, limit: Option<u64>, ways: String },
}

fn did_you_mean(meant: &str) -> String {
    if meant.is_empty() { String::new() } else { format!(" (did you mean {meant}?)") }
}

/// How to continue with an adapter that has LoRA on the head.
fn head_remedy(tied: bool) -> &'static str {
    match tied {
        true => {
            "this base ties its head to the embeddings, so that the adapter can't be merged either: take `lm_head` out \
             of the adapter, or save the base with a head of its own"
        }
        false => "`tonfall merge` merges such an adapter, and the merged model can be trained and used",
    }
}

/// Needed memory by part, and available memory.
fn shortage(needed: &Estimate, limit: Option<u64>) -> String {
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let parts = needed.at_peak().filter(|part| part.bytes > 0);
    let parts: Vec<String> = parts.map(|part| format!("{} {}", part.name, mib(part.bytes))).collect();
    let stage = needed.highest().map_or("", |stage| stage.name);
    let available = limit.map_or_else(
        || "the available memory is not known".to_owned(),
        |limit| format!("{} MiB are available", mib(limit)),
    );
    let peak = mib(needed.peak());
    format!(
        "the run needs about {peak} MiB while {stage}, and a tenth in reserve; {available} (MiB: {})",
        parts.join(", ")
    )
}
