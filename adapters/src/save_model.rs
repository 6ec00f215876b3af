//! Writing a whole model: the result of training without an adapter.
//!
//! Responsible for: a Hugging Face directory from a description and values, proved by opening and comparing it.
//! Must not depend on: where the values come from.

use std::error::Error;
use std::path::{Path, PathBuf};

use thiserror::Error;
use tonfall_blocks::Format;
use tonfall_durable::{self as durable, DurableError};

use crate::base_model::{BaseError, BaseModel};
use crate::description::ModelDescription;
use crate::hf_config::{config_json, pretty};
use crate::safetensors_writer::{Planned, dtype_of, encode, first_overflow, lay_out};
use crate::tokenizer_files::SideFile;

/// Why a model can't be saved.
#[derive(Debug, Error)]
pub enum SaveError {
    #[error(transparent)]
    Durable(#[from] DurableError),

    #[error("{}: already holds a model; name another directory or remove it", path.display())]
    OutputExists { path: PathBuf },

    #[error("a model can't be saved as {format}; choose F32, F16 or BF16")]
    Format { format: Format },

    #[error("tensor `{name}` can't be read: {source}")]
    Unread { name: String, source: Box<dyn Error + Send + Sync> },

    #[error("tensor `{name}`: {found} values were handed over, {expected} are due")]
    Values { name: String, found: usize, expected: usize },

    #[error("tensor `{name}` holds {value} at {at}; the training diverged")]
    NotFinite { name: String, at: usize, value: f32 },

    #[error("tensor `{name}`: {value} is too large for {dtype}; save as F32 or BF16")]
    Overflow { name: String, value: f32, dtype: &'static str },

    #[error("the model that was written can't be opened: {0}")]
    Reopen(#[from] BaseError),

    #[error("{}: read back after writing, `{name}` differs; the disk or its driver is at fault", path.display())]
    ReadBack { path: PathBuf, name: String },
}

/// Gives the values of a tensor by its Hugging Face name.
pub type Values<'a> = &'a mut dyn FnMut(&str) -> Result<Vec<f32>, Box<dyn Error + Send + Sync>>;

/// How a model is saved.
#[derive(Clone, Copy, Debug)]
pub struct SaveOptions {
    /// F32, F16 or BF16.
    pub dtype: Format,
    pub max_shard_bytes: u64,
}

/// Writes a model into `dir`, which is made if it is not there and must not hold a model.
///
/// `values` is asked for each tensor by its Hugging Face name, one at a time (twice: for writing and for comparing), so that
/// no more than one of them is in memory.
/// `side_files` (tokenizer, template, see [`BaseModel::side_files`]) are written beside the weights; their `config.json`
/// is replaced by one made from the description, and written last: a directory without it is no model.
///
/// # Errors
/// See [`SaveError`].
pub fn save_model(
    dir: &Path,
    description: &ModelDescription,
    options: &SaveOptions,
    side_files: &[SideFile],
    values: Values<'_>,
) -> Result<(), SaveError> {
    const CONFIG: &str = "config.json";
    let dtype = dtype_of(options.dtype).ok_or(SaveError::Format { format: options.dtype })?;
    if dir.join(CONFIG).exists() {
        return Err(SaveError::OutputExists { path: dir.to_owned() });
    }
    durable::create_dir_all(dir)?;
    let tensors = description.tensors().into_iter();
    let tensors = tensors.map(|(name, shape)| Planned { name, dtype, shape: shape.dims() }).collect();
    let (files, index) = lay_out(tensors, options.max_shard_bytes);

    for file in &files {
        file.write(dir, |index, sink| Ok::<_, SaveError>(sink(&encoded(&file.tensors[index], values)?)?))?;
    }
    let index = index.map(|bytes| SideFile { name: crate::checkpoint::INDEX_FILE.to_owned(), bytes });
    let config = SideFile { name: CONFIG.to_owned(), bytes: pretty(&config_json(description, options.dtype)) };
    let carried = side_files.iter().filter(|file| file.name != CONFIG);
    for file in carried.chain(&index).chain([&config]) {
        durable::write_file(&dir.join(&file.name), &file.bytes)?;
    }

    let written = BaseModel::open(dir)?;
    let differs = |name: &str| SaveError::ReadBack { path: dir.to_owned(), name: name.to_owned() };
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
    Ok(())
}

fn encoded(tensor: &Planned, values: Values<'_>) -> Result<Vec<u8>, SaveError> {
    let name = || tensor.name.clone();
    let values = values(&tensor.name).map_err(|source| SaveError::Unread { name: name(), source })?;
    let expected: usize = tensor.shape.iter().product();
    if values.len() != expected {
        return Err(SaveError::Values { name: name(), found: values.len(), expected });
    }
    if let Some(at) = values.iter().position(|value| !value.is_finite()) {
        return Err(SaveError::NotFinite { name: name(), at, value: values[at] });
    }
    match first_overflow(&values, tensor.dtype) {
        Some(value) => Err(SaveError::Overflow { name: name(), value, dtype: tensor.dtype.name() }),
        None => Ok(encode(&values, tensor.dtype)),
    }
}
