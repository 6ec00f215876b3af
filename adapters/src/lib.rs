//! Weight *files*: base models as Hugging Face directories and GGUF files, PEFT adapters, merged models. Plain CPU code
//! over memory-mapped files.
//!
//! Responsible for: reading and checking weight files, writing them durably, and verifying them by reading them back.
//! Must not depend on: a tensor framework, polars, the terminal.

mod base_model;
mod bitsandbytes;
mod bounded_json;
mod chat_settings;
mod description;
pub mod export;
mod families;
mod fingerprint;
mod finite;
mod gguf;
mod hf_config;
mod imatrix;
pub mod inspect;
mod mapped_file;
mod names;
pub mod ollama;
pub mod peft;
mod random_weights;
mod regular_file;
mod rotary_order;
mod safetensors_file;
mod safetensors_writer;
mod side_files;
mod tensor_index;
mod tensor_writer;
mod token_ids;
mod tokenizer_files;
mod weight_files;

pub use base_model::{BaseError, BaseKind, BaseModel, HubOrigin, Weight};
pub use bitsandbytes::BitsAndBytesError;
pub use chat_settings::{ChatSettings, GENERATION_FILE, TEMPLATE_FILE};
pub use description::{Activation, Family, ModelDescription, Rope, RopeScaling, Shape, Sizes};
pub use families::ConfigError;
pub use finite::NotFinite;
pub use gguf::{GgufError, GgufTokenizerError, TokenizerMetadataError};
pub use imatrix::ImatrixError;
pub use regular_file::{OpenError, read_text};
pub use safetensors_file::{Dtype, SafetensorsError, SafetensorsFile};
pub use safetensors_writer::{PlannedFile, PlannedTensor};
pub use side_files::{SideFiles, is_side_file};
pub use tensor_writer::Sink;
pub use tokenizer_files::{OtherTemplate, SideFile, SpecialToken, TokenizerError, TokenizerFiles};
pub use tonfall_blocks::Format;
pub use weight_files::{WeightFilesError, shard_names};
