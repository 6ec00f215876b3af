//! Saving and restoring the state of a training run.
//!
//! Responsible for: the files inside a checkpoint directory and what they mean.
//! Must not depend on: how a directory becomes durable (that is `tonfall_recipes::checkpoint`).
//!
//! A checkpoint holds f32 values to the bit: restoring one and training on equals never having stopped.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use tonfall_recipes::durable;

use crate::error::TrainError;
use crate::evaluate::EvalReport;
use crate::lora::values;
use crate::optimizer::Optimizer;
use crate::params::ParamStore;

const WEIGHTS: &str = "trainable.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "trainer_state.json";

/// What a run has done so far, besides tensors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct TrainerState {
    /// Optimizer steps done.
    pub step: u64,
    /// Updates that the optimizer has applied.
    pub optimizer_steps: u64,
    pub tokens: u64,
    pub trained_tokens: u64,
    /// Processes that train together; their number decides which examples a step has.
    #[serde(default = "one")]
    pub processes: usize,
    /// Seconds spent in training steps, over all attempts.
    pub seconds: f64,
    /// Lowest loss on the eval split so far and its step.
    pub best: Option<(f64, u64)>,
    /// The evaluation before the first step.
    pub before: Option<EvalReport>,
    /// Sequences of a micro-batch, which may be fewer than the plan's where memory was short: sums of gradients are
    /// rounded in its order, so a resumed run keeps it. `None` before the run began.
    #[serde(default)]
    pub micro_batch_size: Option<usize>,
}

/// Checkpoints from before there were several processes.
fn one() -> usize {
    1
}

/// Writes trainable tensors, optimizer and state into `dir`.
pub(crate) fn write(
    dir: &Path,
    params: &ParamStore,
    optimizer: &Optimizer,
    state: &TrainerState,
) -> Result<(), TrainError> {
    let weights = params.iter().map(|param| (param.name.clone(), &param.value));
    write_tensors(&dir.join(WEIGHTS), weights)?;
    let moments = params.iter().zip(&optimizer.moments).flat_map(|(param, moments)| {
        [(format!("{}.exp_avg", param.name), &moments.first), (format!("{}.exp_avg_sq", param.name), &moments.second)]
    });
    write_tensors(&dir.join(OPTIMIZER), moments)?;
    let text = serde_json::to_vec_pretty(state).map_err(|error| TrainError::Device(error.to_string()))?;
    Ok(durable::write_file(&dir.join(STATE), &text)?)
}

/// The state of what [`write`] wrote.
pub(crate) fn read_state(dir: &Path) -> Result<TrainerState, TrainError> {
    let mismatch =
        |why: String| TrainError::CheckpointMismatch { path: dir.to_owned(), why: format!("{STATE}: {why}") };
    let text = std::fs::read(dir.join(STATE)).map_err(|error| mismatch(error.to_string()))?;
    serde_json::from_slice(&text).map_err(|error| mismatch(error.to_string()))
}

/// Restores the tensors that [`write`] wrote; `state` is the one beside them. The parameters' names and shapes must be
/// the run's own.
pub(crate) fn read_tensors(
    dir: &Path,
    state: &TrainerState,
    params: &mut ParamStore,
    optimizer: &mut Optimizer,
    device: &Device,
) -> Result<(), TrainError> {
    let mismatch = |why: String| TrainError::CheckpointMismatch { path: dir.to_owned(), why };
    let load = |name: &str| std::fs::read(dir.join(name)).map_err(|error| mismatch(format!("{name}: {error}")));
    let (weights, moments) = (load(WEIGHTS)?, load(OPTIMIZER)?);
    let weights = SafeTensors::deserialize(&weights).map_err(|error| mismatch(format!("{WEIGHTS}: {error}")))?;
    let moments = SafeTensors::deserialize(&moments).map_err(|error| mismatch(format!("{OPTIMIZER}: {error}")))?;
    if weights.len() != params.count() || moments.len() != 2 * params.count() {
        return Err(mismatch(format!("{} tensors, {} are trained here", weights.len(), params.count())));
    }
    for (param, slot) in params.iter_mut().zip(&mut optimizer.moments) {
        let shape = param.value.dims();
        let get = |file: &SafeTensors<'_>, name: &str| tensor(file, name, shape, device).map_err(mismatch);
        param.value = get(&weights, &param.name)?;
        slot.first = get(&moments, &format!("{}.exp_avg", param.name))?;
        slot.second = get(&moments, &format!("{}.exp_avg_sq", param.name))?;
    }
    optimizer.steps = state.optimizer_steps;
    Ok(())
}

fn write_tensors<'a>(path: &Path, tensors: impl Iterator<Item = (String, &'a Tensor<2>)>) -> Result<(), TrainError> {
    let mut data = BTreeMap::new();
    for (name, tensor) in tensors {
        data.insert(name, (tensor.dims(), values(tensor)?));
    }
    let views = data.iter().map(|(name, (shape, values))| {
        let view = TensorView::new(Dtype::F32, shape.to_vec(), bytemuck::cast_slice(values));
        view.map(|view| (name, view)).map_err(|error| TrainError::Device(error.to_string()))
    });
    let views = views.collect::<Result<Vec<_>, _>>()?;
    let bytes = safetensors::serialize(views, None).map_err(|error| TrainError::Device(error.to_string()))?;
    Ok(durable::write_file(path, &bytes)?)
}

fn tensor(file: &SafeTensors<'_>, name: &str, shape: [usize; 2], device: &Device) -> Result<Tensor<2>, String> {
    let view = file.tensor(name).map_err(|error| format!("{name}: {error}"))?;
    if view.shape() != shape || view.dtype() != Dtype::F32 {
        return Err(format!("{name} is {:?} {:?}, this run needs F32 {shape:?}", view.dtype(), view.shape()));
    }
    let values: Vec<f32> = bytemuck::pod_collect_to_vec(view.data());
    Ok(Tensor::from_data(TensorData::new(values, shape), device))
}
