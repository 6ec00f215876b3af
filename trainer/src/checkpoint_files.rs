//! Saving and restoring the state of a training run.
//!
//! Responsible for: the files in a checkpoint directory and their meaning.
//! Must not depend on: durable publishing of the directory (that is `tonfall_runs::checkpoint_dir`).
//!
//! A checkpoint stores exact f32 values, so a resumed run computes the same bits as an uninterrupted run.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{Device, ExecutionError, Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use tonfall_adapters::{Dtype, PlannedFile, PlannedTensor, SafetensorsFile};
use tonfall_durable as durable;
use tonfall_kernels::{Moment8, Moments, resident};

use crate::error::TrainError;
use crate::evaluate::EvalReport;
use crate::optimizer::Optimizer;
use crate::params::ParamStore;

const WEIGHTS: &str = "trainable.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "trainer_state.json";
/// PyTorch's names for the first and second moment.
const MOMENTS: [&str; 2] = ["exp_avg", "exp_avg_sq"];

/// The state of a run, except its tensors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct TrainerState {
    /// Completed optimizer steps.
    pub step: u64,
    /// Optimizer updates.
    pub optimizer_steps: u64,
    pub tokens: u64,
    pub trained_tokens: u64,
    /// Number of processes that train together. It determines the examples of each step.
    #[serde(default = "one")]
    pub processes: usize,
    /// Seconds spent in training steps, over all attempts.
    pub seconds: f64,
    /// Lowest loss on the eval split so far, and its step.
    pub best: Option<(f64, u64)>,
    /// The evaluation before the first step.
    pub before: Option<EvalReport>,
    /// Sequences per micro-batch; fewer than in the plan if memory was short. A resumed run keeps this number, because
    /// the rounding of gradient sums depends on it. `None` before the first step.
    #[serde(default)]
    pub micro_batch_size: Option<usize>,
}

/// The default for checkpoints of builds that had only one process.
fn one() -> usize {
    1
}

/// Writes trainable tensors, optimizer and state into `dir`, one tensor at a time.
pub(crate) fn write(
    dir: &Path,
    params: &ParamStore,
    optimizer: &Optimizer,
    state: &TrainerState,
) -> Result<(), TrainError> {
    let weights = params.iter().map(|param| Stored::floats(param.name.clone(), &param.value));
    write_tensors(dir, WEIGHTS, weights.collect())?;
    let moments = params.iter().zip(&optimizer.moments);
    let moments = moments.flat_map(|(param, moments)| Stored::moments(&param.name, moments));
    write_tensors(dir, OPTIMIZER, moments.collect())?;
    let text = serde_json::to_vec_pretty(state).map_err(|error| TrainError::Device(error.to_string()))?;
    Ok(durable::write_file(&dir.join(STATE), &text)?)
}

/// Reads the state that [`write()`] wrote.
pub(crate) fn read_state(dir: &Path) -> Result<TrainerState, TrainError> {
    let mismatch =
        |why: String| TrainError::CheckpointMismatch { path: dir.to_owned(), why: format!("{STATE}: {why}") };
    let text = std::fs::read(dir.join(STATE)).map_err(|error| mismatch(error.to_string()))?;
    serde_json::from_slice(&text).map_err(|error| mismatch(error.to_string()))
}

/// Restores the tensors that [`write()`] wrote. `state` is the state of the same checkpoint. Names and shapes of the
/// parameters must match the run.
pub(crate) fn read_tensors(
    dir: &Path,
    state: &TrainerState,
    params: &mut ParamStore,
    optimizer: &mut Optimizer,
    device: &Device,
) -> Result<(), TrainError> {
    let mismatch = |why: String| TrainError::CheckpointMismatch { path: dir.to_owned(), why };
    let open = |name: &str| SafetensorsFile::open(&dir.join(name)).map_err(|error| mismatch(error.to_string()));
    let (weights, moments) = (open(WEIGHTS)?, open(OPTIMIZER)?);
    let expected: usize = optimizer.moments.iter().map(|moments| names("", moments).len()).sum();
    if weights.len() != params.count() || moments.len() != expected {
        return Err(mismatch(format!("{} tensors, {} are trained here", weights.len(), params.count())));
    }
    for (param, slot) in params.iter_mut().zip(&mut optimizer.moments) {
        let shape = param.value.dims();
        let floats = |file: &SafetensorsFile, name: &str| {
            let values = numbers::<f32>(file, name, Dtype::F32, &shape).map_err(mismatch)?;
            Ok::<_, TrainError>(resident(device, TensorData::new(values, shape), |data| {
                Tensor::from_data(data, device)
            }))
        };
        param.set(floats(&weights, &param.name)?);
        let names = names(&param.name, slot);
        match slot {
            Moments::Full(moment) => {
                for (moment, name) in moment.iter_mut().zip(&names) {
                    *moment = floats(&moments, name)?;
                }
            }
            Moments::Bytes(moment) => {
                for (moment, pair) in moment.iter_mut().zip(names.chunks(2)) {
                    let (codes, absmax) = (moment.codes.dims(), moment.absmax.dims());
                    let words = numbers(&moments, &pair[0], Dtype::U32, &codes).map_err(mismatch)?;
                    *moment = Moment8::new(
                        words,
                        numbers(&moments, &pair[1], Dtype::F32, &absmax).map_err(mismatch)?,
                        device,
                    );
                }
            }
        }
        weights.release_pages();
        moments.release_pages();
    }
    optimizer.steps = state.optimizer_steps;
    Ok(())
}

/// Tensor names of a parameter's moments.
fn names(param: &str, moments: &Moments<2>) -> Vec<String> {
    let parts: &[&str] = match moments {
        Moments::Full(_) => &[""],
        Moments::Bytes(_) => &[".codes", ".absmax"],
    };
    MOMENTS.iter().flat_map(|moment| parts.iter().map(move |part| format!("{param}.{moment}{part}"))).collect()
}

/// A tensor to write.
struct Stored<'a> {
    planned: PlannedTensor,
    /// Reads the tensor from the device.
    read: Box<dyn Fn() -> Result<TensorData, ExecutionError> + 'a>,
}

impl<'a> Stored<'a> {
    fn floats<const D: usize>(name: String, tensor: &'a Tensor<D>) -> Self {
        let planned = PlannedTensor { name, dtype: Dtype::F32, shape: tensor.dims().to_vec() };
        Self { planned, read: Box::new(|| Ok(tensor.clone().try_into_data()?.convert::<f32>())) }
    }

    fn words(name: String, tensor: &'a Tensor<1, Int>) -> Self {
        let planned = PlannedTensor { name, dtype: Dtype::U32, shape: tensor.dims().to_vec() };
        Self { planned, read: Box::new(|| Ok(tensor.clone().try_into_data()?.convert::<u32>())) }
    }

    /// The moments of a parameter as tensors.
    fn moments(param: &str, moments: &'a Moments<2>) -> Vec<Self> {
        let mut names = names(param, moments).into_iter();
        let mut name = || names.next().unwrap_or_default();
        match moments {
            Moments::Full(moments) => moments.iter().map(|moment| Self::floats(name(), moment)).collect(),
            Moments::Bytes(moments) => {
                let pair =
                    |moment: &'a Moment8| [Self::words(name(), &moment.codes), Self::floats(name(), &moment.absmax)];
                moments.iter().flat_map(pair).collect()
            }
        }
    }
}

fn write_tensors(dir: &Path, name: &str, tensors: Vec<Stored<'_>>) -> Result<(), TrainError> {
    let (planned, reads): (Vec<_>, Vec<_>) = tensors.into_iter().map(|stored| (stored.planned, stored.read)).unzip();
    let file = PlannedFile { name: name.to_owned(), metadata: BTreeMap::new(), tensors: planned };
    file.write(dir, |index, sink| {
        let data = reads[index]().map_err(|error| TrainError::Device(error.to_string()))?;
        Ok(sink(data.bytes())?)
    })
}

fn numbers<T: bytemuck::Pod>(
    file: &SafetensorsFile,
    name: &str,
    dtype: Dtype,
    shape: &[usize],
) -> Result<Vec<T>, String> {
    match file.tensor(name) {
        None => Err(format!("{name} is missing")),
        Some((found, dims, bytes)) if (found, dims) == (dtype, shape) => Ok(bytemuck::pod_collect_to_vec(bytes)),
        Some((found, dims, _)) => Err(format!("{name} is {found:?} {dims:?}, this run needs {dtype:?} {shape:?}")),
    }
}
