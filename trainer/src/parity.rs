//! Replaying a reference run step by step.
//!
//! Responsible for: reading the files of `tests/reference/real_reference.py`, computing the same steps, and measuring
//! the differences. Used by the tests and by `examples/parity.rs`.
//! Must not depend on: the training loop (the files define the steps), bounds (the caller decides how close is enough).

use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::Deserialize;
use thiserror::Error;
use tonfall_adapters::BaseModel;
use tonfall_adapters::peft::{self, Adapter};
use tonfall_datasets::{Batch, Example};
use tonfall_recipes::plan::{Quantization, TrainingPlan};

use crate::device::Compute;
use crate::error::TrainError;
use crate::lora;
use crate::micro_batch::{self, Activations, TrainingPass};
use crate::model::{DropoutKey, LoadOptions, Loader};
use crate::optimizer::Optimizer;
use crate::params::{GradientSums, StepReadback};

/// Why a reference can't be replayed.
#[derive(Debug, Error)]
pub enum ParityError {
    #[error("{}: {why}", path.display())]
    Reference { path: PathBuf, why: String },
    #[error(transparent)]
    Train(#[from] TrainError),
    #[error(transparent)]
    Peft(#[from] tonfall_adapters::peft::PeftError),
}

/// A text and its logits from the reference.
#[derive(Debug)]
pub struct ReferenceText {
    pub name: String,
    pub input_ids: Vec<u32>,
    /// Row-major `[tokens, vocab_size]`.
    pub logits: Vec<f32>,
}

/// Difference between two sets of logits.
#[derive(Clone, Copy, Debug)]
pub struct LogitDifference {
    pub largest: f64,
    /// Number of positions with another most likely token.
    pub other_argmax: usize,
}

/// The results of a replay.
#[derive(Debug)]
pub struct Replay {
    /// Our loss and the reference's, by step.
    pub losses: Vec<(f64, f64)>,
    /// Our gradient norm and the reference's, by step.
    pub grad_norms: Vec<(f64, f64)>,
    /// The adapter tensor with the largest relative Frobenius distance, and the distance.
    pub worst: (String, f64),
    pub adapter: Adapter,
}

#[derive(Deserialize)]
struct Steps {
    lr: f64,
    batches: Vec<StepBatch>,
    losses: Vec<f64>,
    grad_norms: Vec<f64>,
}

#[derive(Deserialize)]
struct StepBatch {
    sequences: Vec<Sequence>,
}

#[derive(Deserialize)]
struct Sequence {
    input_ids: Vec<u32>,
    labels: Vec<i32>,
}

/// Reads `text{i}.input_ids` and `text{i}.logits`.
///
/// # Errors
/// If the file doesn't have the format that the script writes.
pub fn reference_logits(path: &Path) -> Result<Vec<ReferenceText>, ParityError> {
    let fail = |why: String| ParityError::Reference { path: path.to_owned(), why };
    let bytes = std::fs::read(path).map_err(|error| fail(error.to_string()))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| fail(error.to_string()))?;
    let mut names: Vec<&str> = file.names().into_iter().filter_map(|name| name.strip_suffix(".input_ids")).collect();
    names.sort_unstable();
    let text = |name: &str| {
        let get = |part: &str| file.tensor(&format!("{name}.{part}")).map_err(|error| fail(error.to_string()));
        let ids = get("input_ids")?;
        let ids = ids.data().as_chunks::<8>().0.iter().map(|bytes| i64::from_le_bytes(*bytes) as u32).collect();
        let logits = bytemuck::pod_collect_to_vec(get("logits")?.data());
        Ok(ReferenceText { name: name.to_owned(), input_ids: ids, logits })
    };
    names.into_iter().map(text).collect()
}

/// Compares logits `[tokens, vocab]` with the reference's.
pub fn compare_logits(ours: &[f32], theirs: &[f32], vocab: usize) -> LogitDifference {
    let argmax = |row: &[f32]| (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b]));
    let differences = ours.iter().zip(theirs).map(|(a, b)| f64::from((a - b).abs()));
    let rows = ours.chunks(vocab).zip(theirs.chunks(vocab));
    LogitDifference {
        largest: if ours.len() == theirs.len() { differences.fold(0.0, f64::max) } else { f64::INFINITY },
        other_argmax: rows.filter(|(a, b)| argmax(a) != argmax(b)).count(),
    }
}

/// Computes the steps of `folder/steps.json` from `folder/init` and compares the result with `folder/final`.
///
/// # Errors
/// If the reference can't be read or a step fails.
pub fn replay(
    base: &BaseModel,
    quantization: Quantization,
    folder: &Path,
    compute: &Compute,
) -> Result<Replay, ParityError> {
    let path = folder.join("steps.json");
    let fail = |why: String| ParityError::Reference { path: path.clone(), why };
    let text = std::fs::read_to_string(&path).map_err(|error| fail(error.to_string()))?;
    let steps: Steps = serde_json::from_str(&text).map_err(|error| fail(error.to_string()))?;
    let initial = peft::read(&folder.join("init"))?;
    let expected = peft::read(&folder.join("final"))?;

    let options = LoadOptions { quantization, trainable: false };
    let mut model = Loader { base, options, compute, progress: &mut |_, _| () }.load()?;
    lora::attach_existing(&mut model, &initial, 0.0, &compute.device)?;
    let plan = TrainingPlan { learning_rate: steps.lr, ..TrainingPlan::default() };
    let mut optimizer = Optimizer::new(&model.params, &plan);

    let (mut losses, mut grad_norms) = (Vec::new(), Vec::new());
    for (step, batch) in steps.batches.iter().enumerate() {
        let examples: Vec<Example> =
            batch.sequences.iter().map(|s| Example::new(s.input_ids.clone(), s.labels.clone())).collect();
        let batch = Batch::new(examples.into_iter());
        let trained = batch.trained_tokens();
        let pass = TrainingPass {
            scale: (trained as f32).recip(),
            activations: [Activations::Kept, Activations::Recomputed, Activations::Offloaded][step % 3],
            dropout: DropoutKey { seed: 0, step: step as u64, micro_batch: 0 },
        };
        let mut sums = GradientSums::new(&model.params);
        let loss = micro_batch::accumulate(&model, &batch, pass, &mut sums);
        let StepReadback { loss, norm } = optimizer.step(&mut model.params, sums, vec![loss], steps.lr);
        losses.push((loss / trained as f64, steps.losses[step]));
        grad_norms.push((norm, steps.grad_norms[step]));
    }
    let adapter = lora::export(&model, expected.config.clone())?;
    let worst = worst_tensor(&adapter, &expected).map_err(fail)?;
    Ok(Replay { losses, grad_norms, worst, adapter })
}

fn worst_tensor(ours: &Adapter, theirs: &Adapter) -> Result<(String, f64), String> {
    if ours.tensors.len() != theirs.tensors.len() {
        return Err(format!("{} adapter tensors, the reference has {}", ours.tensors.len(), theirs.tensors.len()));
    }
    let mut worst = (String::new(), -1.0);
    let theirs = theirs.by_name();
    for tensor in &ours.tensors {
        let reference = theirs.get(tensor.name.as_str()).ok_or_else(|| format!("no tensor {}", tensor.name))?;
        let square = |value: f32| f64::from(value) * f64::from(value);
        let distance: f64 = tensor.values.iter().zip(&reference.values).map(|(a, b)| square(a - b)).sum();
        let size: f64 = reference.values.iter().map(|value| square(*value)).sum();
        let relative = (distance / size).sqrt();
        if relative > worst.1 || relative.is_nan() {
            worst = (tensor.name.clone(), relative);
        }
    }
    Ok(worst)
}

/// Writes `input_ids` (i64 `[tokens]`) and `logits` (f32 `[tokens, vocab]`), which the reference checks.
///
/// # Errors
/// If the file can't be written.
pub fn write_logits(path: &Path, ids: &[u32], logits: &[f32], vocab: usize) -> Result<(), ParityError> {
    let fail = |why: String| ParityError::Reference { path: path.to_owned(), why };
    let wide: Vec<i64> = ids.iter().map(|id| i64::from(*id)).collect();
    let view = |dtype, shape, bytes| TensorView::new(dtype, shape, bytes).map_err(|error| fail(error.to_string()));
    let tensors = [
        ("input_ids", view(Dtype::I64, vec![ids.len()], bytemuck::cast_slice(&wide))?),
        ("logits", view(Dtype::F32, vec![ids.len(), vocab], bytemuck::cast_slice(logits))?),
    ];
    let bytes = safetensors::serialize(tensors, None).map_err(|error| fail(error.to_string()))?;
    tonfall_durable::write_file(path, &bytes).map_err(TrainError::from)?;
    Ok(())
}

/// Loss and gradients of one text.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraGradients {
    /// Mean over the predicted tokens.
    pub loss: f64,
    /// Name without PEFT's prefix, and values in the tensor's shape.
    pub tensors: Vec<(String, Vec<f32>)>,
}

/// Loss of `ids` with an adapter, where labels equal `ids`, and the gradient of every adapter tensor.
///
/// # Errors
/// If the adapter doesn't fit the base.
pub fn lora_gradients(
    base: &BaseModel,
    adapter: &Adapter,
    ids: &[u32],
    activations: Activations,
    compute: &Compute,
) -> Result<LoraGradients, ParityError> {
    let options = LoadOptions { quantization: Quantization::None, trainable: false };
    let mut model = Loader { base, options, compute, progress: &mut |_, _| () }.load()?;
    lora::attach_existing(&mut model, adapter, 0.0, &compute.device)?;
    let labels = ids.iter().map(|id| *id as i32).collect();
    let batch = Batch::new(std::iter::once(Example::new(ids.to_vec(), labels)));
    let trained = batch.trained_tokens();
    let dropout = DropoutKey { seed: 0, step: 0, micro_batch: 0 };
    let pass = TrainingPass { scale: (trained as f32).recip(), activations, dropout };
    let mut sums = GradientSums::new(&model.params);
    let loss = micro_batch::accumulate(&model, &batch, pass, &mut sums);
    let loss = StepReadback::of(vec![loss], None).loss / trained as f64;
    let named = model.params.iter().zip(sums.into_inner());
    let tensors = named.map(|(param, gradient)| {
        let gradient = gradient.map(|gradient| lora::values(&gradient)).transpose()?;
        Ok((format!("{}.weight", param.name), gradient.unwrap_or_default()))
    });
    Ok(LoraGradients { loss, tensors: tensors.collect::<Result<_, TrainError>>()? })
}
