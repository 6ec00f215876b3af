//! Everything that can end a training run.

use std::path::PathBuf;

use thiserror::Error;

use crate::estimate::Estimate;

/// Why training, loading or generating failed.
#[derive(Debug, Error)]
pub enum TrainError {
    #[error(
        "the run diverged at step {step}: {what}; lower `training.learning_rate`, or look at the data of this step"
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
    Merge(#[from] tonfall_adapters::merge::MergeError),

    #[error(transparent)]
    Save(#[from] tonfall_adapters::save_model::SaveError),

    #[error(transparent)]
    Data(#[from] tonfall_datasets::DataError),

    #[error(
        "no linear layer is named {0}; `lora.target_modules` knows q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, or \"all-linear\""
    )]
    TargetModules(String),

    #[error("{0}: an adapter can't be put on a weight that is trained itself; use `adapter.kind = \"lora\"`")]
    AdapterOnTrainable(String),

    #[error("the adapter has no tensor {0}; it was made for another model")]
    AdapterTensorMissing(String),

    #[error(
        "the adapter's tensor {name} has shape {found:?}, this model needs {expected:?}; it was made for another model"
    )]
    AdapterShape { name: String, expected: [usize; 2], found: [usize; 2] },

    #[error(
        "a sequence of {tokens} tokens is longer than the base model's context of {context}; lower `data.max_seq_len`"
    )]
    Context { tokens: usize, context: usize },

    #[error("the prompt has {tokens} tokens; it needs at least one and fewer than the context of {context}")]
    Prompt { tokens: usize, context: usize },

    #[error("checkpoint {} does not fit this run: {why}", path.display())]
    CheckpointMismatch { path: PathBuf, why: String },

    #[error(transparent)]
    Group(#[from] crate::group::GroupError),

    #[error(
        "the checkpoint was made by {made_by} processes, these are {size}: a step would hold other examples; start {made_by}, or train anew"
    )]
    Processes { made_by: usize, size: usize },

    #[error("the device failed: {0}")]
    Device(String),

    #[error("the device ran out of memory: {0}")]
    DeviceMemory(String),

    #[error("not enough memory: {}\nhint: {ways}", shortage(needed, *limit))]
    OutOfMemory { needed: Box<Estimate>, limit: Option<u64>, ways: String },
}

/// What is needed, by part, and what there is.
fn shortage(needed: &Estimate, limit: Option<u64>) -> String {
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let parts = needed.at_peak().filter(|part| part.bytes > 0);
    let parts: Vec<String> = parts.map(|part| format!("{} {}", part.name, mib(part.bytes))).collect();
    let doing = needed.highest().map_or("", |stage| stage.name);
    let there = limit.map_or_else(
        || "it is not known how much is there".to_owned(),
        |limit| format!("{} MiB are there", mib(limit)),
    );
    let peak = mib(needed.peak());
    format!("the run needs about {peak} MiB while {doing}, and a tenth in reserve; {there} (MiB: {})", parts.join(", "))
}
