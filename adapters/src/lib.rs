//! Everything that is a weight *file*: base models as Hugging Face directories and GGUF files, PEFT adapters, merged
//! models. Plain CPU code over memory-mapped files.
//!
//! Responsible for: reading and checking weight files, writing them durably and proving what was written.
//! Must not depend on: a tensor framework, polars, the terminal.

mod base_model;
mod bitsandbytes;
mod checkpoint;
mod description;
mod families;
mod fingerprint;
mod gguf;
mod hf_config;
mod located;
mod mapped_file;
pub mod merge;
mod names;
pub mod peft;
mod random_weights;
mod safetensors_file;
mod safetensors_writer;
pub mod save_model;
mod side_files;
mod tokenizer_files;

pub use base_model::{BaseError, BaseKind, BaseModel, Weight};
pub use bitsandbytes::BitsAndBytesError;
pub use checkpoint::CheckpointError;
pub use description::{Activation, Family, ModelDescription, Rope, RopeScaling, Shape, Sizes};
pub use families::ConfigError;
pub use gguf::{GgufError, GgufTokenizerError};
pub use mapped_file::OpenError;
pub use safetensors_file::{Dtype, SafetensorsError, SafetensorsFile};
pub use safetensors_writer::{Planned, PlannedFile, Sink};
pub use tokenizer_files::{OtherTemplate, SideFile, SpecialToken, TokenizerError, TokenizerFiles};
