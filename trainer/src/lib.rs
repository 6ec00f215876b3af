//! Training, evaluation and generation: all computation with a model.
//!
//! Responsible for: the decoder, LoRA, the optimization loop, checkpoints, evaluation, generation.
//! Must not depend on: terminals, file formats, polars, ratatui. Only this crate and `tonfall_kernels` use Burn.

mod adherence;
mod calibrate;
mod chat_renderer;
mod checkpoint_files;
#[cfg(feature = "cuda")]
mod cuda_card;
#[cfg(feature = "cuda")]
pub mod cuda_files;
mod device;
pub mod doctor;
mod error;
pub mod estimate;
mod eval_suite;
mod evaluate;
mod flops;
mod generation;
mod group;
mod lora;
pub mod memory;
mod micro_batch;
mod model;
mod optimizer;
mod out_of_memory;
mod params;
pub mod parity;
mod preflight;
mod run_length;
mod schedule;
mod session;
mod train;
pub mod workload;

pub use adherence::Adherence;
pub use calibrate::{CalibrationTexts, calibration_examples};
pub use chat_renderer::chat_renderer;
pub use device::{Compute, DeviceChoice, DeviceError, DeviceKind};
pub use error::TrainError;
pub use eval_suite::{Answered, Asked, EvalSuite, RETENTION, passages};
pub use evaluate::{EvalReport, Sample};
pub use generation::{Answer, Sampling};
pub use group::{DistributedEnv, DistributedEnvError, Group, GroupError};
pub use micro_batch::Activations;
pub use out_of_memory::is_out_of_memory;
pub use preflight::preflight;
pub use run_length::RunLength;
pub use session::Session;
pub use train::{Exported, Job, Observation, Outcome, Record, StopReason, adapter_start, train};
