//! Writes a whole model: the result of full fine-tuning, without an adapter.
//!
//! Responsible for: writing a Hugging Face directory from a description and values, and verifying it by reading it
//! back.
//! Must not depend on: the source of the values.

use std::error::Error;
use std::path::{Path, PathBuf};

use thiserror::Error;
use tonfall_blocks::Format;
use tonfall_durable::{DurableError, ScratchDir};

use crate::base_model::{BaseError, BaseModel};
use crate::description::ModelDescription;
use crate::finite::{self, NotFinite};
use crate::hf_config::{config_json, pretty};
use crate::merge::write_side_file;
use crate::safetensors_writer::{Planned, dtype_of, encode, first_overflow, lay_out};
use crate::tokenizer_files::SideFile;

/// Why a model can't be saved.
#[derive(Debug, Error)]
pub enum SaveError {
    #[error(transparent)]
    Durable(#[from] DurableError),

    #[error("{}: is already there; name another directory or remove it", path.display())]
    OutputExists { path: PathBuf },

    #[error("a model can't be saved as {format}; choose F32, F16 or BF16")]
    Format { format: Format },

    #[error("tensor `{name}` can't be read: {source}")]
    Unread { name: String, source: Box<dyn Error + Send + Sync> },

    #[error("tensor `{name}`: {found} values instead of {expected}")]
    Values { name: String, found: usize, expected: usize },

    #[error("tensor `{name}` holds {place}; the training diverged")]
    NotFinite { name: String, place: NotFinite },

    #[error("tensor `{name}`: {value} is too large for {dtype}; save as F32 or BF16")]
    Overflow { name: String, value: f32, dtype: &'static str },

    #[error("the model that was written can't be opened: {0}")]
    Reopen(#[from] BaseError),

    #[error("{}: read back after writing, `{name}` differs; the disk or its driver is at fault", path.display())]
    ReadBack { path: PathBuf, name: String },
}

/// Returns the values of a tensor, by its Hugging Face name.
pub type Values<'a> = &'a mut dyn FnMut(&str) -> Result<Vec<f32>, Box<dyn Error + Send + Sync>>;

/// Settings of a saved model.
#[derive(Clone, Copy, Debug)]
pub struct SaveOptions {
    /// F32, F16 or BF16.
    pub dtype: Format,
    pub max_shard_bytes: u64,
}

/// Writes a model to `dir`, which must not exist yet or be empty. The directory appears complete and verified, or not
/// at all.
///
/// `values` is called twice for each tensor (for writing and for verifying), one tensor at a time, so only one tensor
/// is in memory. `side_files` (tokenizer, template, see [`BaseModel::side_files`]) are written next to the weights.
/// Their `config.json` is replaced by one that is made from the description.
///
/// # Errors
/// See [`SaveError`]. Nothing is left on disk after an error.
pub fn save_model(
    dir: &Path,
    description: &ModelDescription,
    options: &SaveOptions,
    side_files: &[SideFile],
    values: Values<'_>,
) -> Result<(), SaveError> {
    const CONFIG: &str = "config.json";
    let dtype = dtype_of(options.dtype).ok_or(SaveError::Format { format: options.dtype })?;
    if taken(dir) {
        return Err(SaveError::OutputExists { path: dir.to_owned() });
    }
    let tensors = description.tensors().into_iter();
    let tensors = tensors.map(|(name, shape)| Planned { name, dtype, shape: shape.dims() }).collect();
    let (files, index) = lay_out(tensors, options.max_shard_bytes);

    let scratch = ScratchDir::beside(dir)?;
    let destination = dir;
    let dir = scratch.path();
    for file in &files {
        file.write(dir, |index, sink| Ok::<_, SaveError>(sink(&encoded(&file.tensors[index], values)?)?))?;
    }
    let index = index.map(|bytes| SideFile { name: crate::weight_files::INDEX_FILE.to_owned(), bytes });
    let config = SideFile { name: CONFIG.to_owned(), bytes: pretty(&config_json(description, options.dtype)) };
    let carried = side_files.iter().filter(|file| file.name != CONFIG);
    for file in carried.chain(&index).chain([&config]) {
        write_side_file(dir, file)?;
    }

    let written = BaseModel::open(dir)?;
    let differs = |name: &str| SaveError::ReadBack { path: destination.to_owned(), name: name.to_owned() };
    let described =
        ModelDescription { eos_token_ids: description.eos_token_ids.clone(), ..written.description().clone() };
    if described != *description {
        return Err(differs(CONFIG));
    }
    for tensor in files.iter().flat_map(|file| &file.tensors) {
        if written.weight(&tensor.name)?.bytes != encoded(tensor, values)? {
            return Err(differs(&tensor.name));
        }
        written.release_pages();
    }
    Ok(scratch.publish()?)
}

/// Whether the destination of an export already exists. An empty directory doesn't count, because it is replaced.
pub(crate) fn taken(path: &Path) -> bool {
    match std::fs::read_dir(path) {
        Ok(mut entries) => entries.next().is_some(),
        Err(_) => path.exists(),
    }
}

fn encoded(tensor: &Planned, values: Values<'_>) -> Result<Vec<u8>, SaveError> {
    let name = || tensor.name.clone();
    let values = values(&tensor.name).map_err(|source| SaveError::Unread { name: name(), source })?;
    let expected: usize = tensor.shape.iter().product();
    if values.len() != expected {
        return Err(SaveError::Values { name: name(), found: values.len(), expected });
    }
    let columns = tensor.shape.last().copied().unwrap_or(1).max(1);
    if let Some(place) = finite::in_values(&values, columns, 0) {
        return Err(SaveError::NotFinite { name: name(), place });
    }
    match first_overflow(&values, tensor.dtype) {
        Some(value) => Err(SaveError::Overflow { name: name(), value, dtype: tensor.dtype.name() }),
        None => Ok(encode(&values, tensor.dtype)),
    }
}
