//! Why an export failed.

use std::error::Error;
use std::path::PathBuf;

use thiserror::Error;
use tonfall_blocks::Format;
use tonfall_durable::DurableError;

use crate::base_model::BaseError;
use crate::finite::NotFinite;
use crate::gguf::{GgufError, TokenizerMetadataError};
use crate::ollama::{ModelfileError, OllamaError};
use crate::peft::PeftError;
use crate::regular_file::OpenError;
use crate::safetensors_file::SafetensorsError;

/// Why an export failed. Nothing is left at the output path after an error.
#[derive(Debug, Error)]
pub enum ExportError {
    #[error(transparent)]
    Base(#[from] BaseError),
    #[error(transparent)]
    Adapter(#[from] PeftError),
    #[error(transparent)]
    Safetensors(#[from] SafetensorsError),
    #[error(transparent)]
    Gguf(#[from] GgufError),
    #[error(transparent)]
    Tokenizer(#[from] TokenizerMetadataError),
    #[error(transparent)]
    Ollama(#[from] OllamaError),
    #[error(transparent)]
    Modelfile(#[from] ModelfileError),

    #[error("the base has no chat template, which {target} needs; set `data.chat_template` in the recipe")]
    NoTemplate { target: &'static str },

    #[error(transparent)]
    Open(#[from] OpenError),

    #[error("{}: {reason}; remove the file, or restore the one that was exported", path.display())]
    Lineage { path: PathBuf, reason: String },

    #[error(transparent)]
    Durable(#[from] DurableError),

    #[error("{}: is already there; name a new directory or remove it", path.display())]
    OutputExists { path: PathBuf },

    #[error("the adapter changes `{module}`, which this base does not have; it was made for another model")]
    NoSuchModule { module: String },

    #[error("the adapter's `{module}` is {found:?} (out, in), the base's {expected:?}; it was made for another model")]
    Shape { module: String, found: [usize; 2], expected: [usize; 2] },

    #[error(
        "the adapter changes lm_head, but this base ties its head to model.embed_tokens.weight, so a merged model can't \
         change one without the other; serve the base with the adapter instead, or train without lm_head"
    )]
    TiedHead,

    #[error("the base's tensor `{name}` holds {place}; fetch the base again, or take another one")]
    BaseNotFinite { name: String, place: NotFinite },

    #[error(
        "tensor `{name}` would hold {place}: the training diverged; export an earlier checkpoint or train with a lower \
         learning rate"
    )]
    NotFinite { name: String, place: NotFinite },

    #[error("tensor `{name}` would take {bytes} bytes, but {planned} are planned")]
    Size { name: String, bytes: u64, planned: u64 },

    #[error(
        "the export needs about {} MiB of memory, most of it for the adapter, but {} MiB are allowed; raise `--max-ram`",
        needed.div_ceil(1 << 20), max_ram >> 20
    )]
    Memory { needed: u64, max_ram: u64 },

    #[error("interrupted; nothing was written")]
    Interrupted,

    #[error("a model can't be written as {format}; choose F32, F16 or BF16")]
    Format { format: Format },

    #[error(
        "the adapter changes no value of the base: its effect is zero or vanishes in {format}; train longer, or choose \
         another number format"
    )]
    NoEffect { format: String },

    #[error("tensor `{name}`: {value} is too large for {format}; choose F32 or BF16")]
    Overflow { name: String, value: f32, format: Format },

    #[error("tensor `{name}` can't be read: {source}")]
    Unread { name: String, source: Box<dyn Error + Send + Sync> },

    #[error("tensor `{name}`: {found} values instead of {expected}")]
    Values { name: String, found: usize, expected: usize },

    #[error("{}: read back after writing, `{what}` differs; the disk or its driver is at fault", path.display())]
    ReadBack { path: PathBuf, what: String },

    #[error("{target} needs an adapter, but the run trained all weights; export it as safetensors")]
    NeedsAdapter { target: &'static str },

    #[error("{target} can't run this model: {reason}; export it as safetensors")]
    Target { target: &'static str, reason: String },
}
