//! Where each weight of a base model lies, found and checked before any is read.
//!
//! Must not depend on: how the model was opened, what is done with the weights.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;

use tonfall_blocks::Format;

use crate::base_model::BaseError;
use crate::bitsandbytes::{self, Nf4Parts};
use crate::checkpoint::Checkpoint;
use crate::description::{ModelDescription, Shape};
use crate::gguf::GgufFile;
use crate::names;
use crate::safetensors_file::{Dtype, SafetensorsFile, TensorEntry};

/// The weights by their names.
pub(crate) type Table = BTreeMap<String, Located>;

/// Where a weight lies.
#[derive(Debug)]
pub(crate) enum Place {
    /// These bytes of file number `file`.
    Plain { file: usize, range: Range<usize> },
    /// Rows in GGUF's order for rotary embeddings, in so many heads.
    Permuted { range: Range<usize>, heads: usize },
    /// In the parts that bitsandbytes writes.
    BitsAndBytes { file: usize, parts: Nf4Parts },
    /// Nowhere: it is made when asked for.
    Random,
}

#[derive(Debug)]
pub(crate) struct Located {
    pub format: Format,
    pub shape: Shape,
    pub place: Place,
}

/// Finds every weight of a Hugging Face directory.
///
/// # Errors
/// When one is missing, misshapen or of another type, or when a tensor belongs to no weight.
pub(crate) fn in_directory(
    dir: &Path,
    checkpoint: &Checkpoint,
    description: &ModelDescription,
) -> Result<Table, BaseError> {
    let mut weights = Table::new();
    for (name, shape) in description.tensors() {
        let located = locate(dir, checkpoint, &name, shape)?;
        weights.insert(name, located);
    }
    refuse_unknown(dir, checkpoint, description, &weights)?;
    Ok(weights)
}

/// Finds every weight of a GGUF file; `permuted` says whether it has rows of q and k in llama.cpp's order.
///
/// # Errors
/// As [`in_directory`].
pub(crate) fn in_gguf(
    path: &Path,
    file: &GgufFile,
    description: &ModelDescription,
    permuted: bool,
) -> Result<Table, BaseError> {
    let tensors = &file.contents.tensors;
    let mut unknown: BTreeSet<&str> = tensors.keys().map(String::as_str).collect();
    // Read with the description: it is its rotary scaling.
    unknown.remove("rope_freqs.weight");
    let mut weights = Table::new();
    for (name, shape) in description.tensors() {
        let gguf_name = names::to_gguf(&name);
        let missing = || BaseError::MissingTensor { path: path.to_owned(), name: gguf_name.clone() };
        let tensor = tensors.get(&gguf_name).ok_or_else(missing)?;
        unknown.remove(gguf_name.as_str());
        check_shape(path, &gguf_name, &tensor.shape, shape)?;
        if matches!(shape, Shape::Vector(_)) && !tensor.format.is_dense() {
            let dtype = tensor.format.to_string();
            return Err(BaseError::TensorType { path: path.to_owned(), name: gguf_name, dtype });
        }
        let range = tensor.range.clone();
        let place = match rotary_heads(&name, description).filter(|_| permuted) {
            Some(heads) => Place::Permuted { range, heads },
            None => Place::Plain { file: 0, range },
        };
        weights.insert(name, Located { format: tensor.format, shape, place });
    }
    match unknown.first() {
        Some(name) => Err(unknown_tensor(path, name, description)),
        None => Ok(weights),
    }
}

/// A table for a model of random weights, all in BF16.
pub(crate) fn at_random(description: &ModelDescription) -> Table {
    let located = |shape| Located { format: Format::Bf16, shape, place: Place::Random };
    description.tensors().into_iter().map(|(name, shape)| (name, located(shape))).collect()
}

fn locate(dir: &Path, checkpoint: &Checkpoint, name: &str, shape: Shape) -> Result<Located, BaseError> {
    let missing = || BaseError::MissingTensor { path: dir.to_owned(), name: name.to_owned() };
    let (number, entry) = checkpoint.find(name).ok_or_else(missing)?;
    let file: &SafetensorsFile = &checkpoint.files[number].1;
    if entry.dtype == Dtype::U8
        && let Some(parts) = bitsandbytes::find(file, name, shape)?
    {
        return Ok(Located { format: Format::Nf4, shape, place: Place::BitsAndBytes { file: number, parts } });
    }
    check_shape(file.file.path(), name, &entry.shape, shape)?;
    let format = dense_format(entry).ok_or_else(|| BaseError::TensorType {
        path: file.file.path().to_owned(),
        name: name.to_owned(),
        dtype: entry.dtype.name().to_owned(),
    })?;
    Ok(Located { format, shape, place: Place::Plain { file: number, range: entry.range.clone() } })
}

/// The number format of a tensor that can be used as a weight.
pub(crate) fn dense_format(entry: &TensorEntry) -> Option<Format> {
    match entry.dtype {
        Dtype::F32 => Some(Format::F32),
        Dtype::F16 => Some(Format::F16),
        Dtype::Bf16 => Some(Format::Bf16),
        _ => None,
    }
}

fn check_shape(path: &Path, name: &str, found: &[usize], expected: Shape) -> Result<(), BaseError> {
    let expected = expected.dims();
    match found == expected {
        true => Ok(()),
        false => Err(BaseError::TensorShape {
            path: path.to_owned(),
            name: name.to_owned(),
            found: found.to_owned(),
            expected,
        }),
    }
}

fn unknown_tensor(path: &Path, name: &str, description: &ModelDescription) -> BaseError {
    BaseError::UnknownTensor { path: path.to_owned(), name: name.to_owned(), family: description.family }
}

/// Every tensor of the files must be part of the model, accompany a quantised one, or be known to carry nothing.
fn refuse_unknown(
    dir: &Path,
    checkpoint: &Checkpoint,
    description: &ModelDescription,
    weights: &Table,
) -> Result<(), BaseError> {
    for name in checkpoint.names() {
        if weights.contains_key(name) || names::is_rotary_buffer(name) {
            continue;
        }
        if name == "lm_head.weight" && description.tie_word_embeddings {
            let bytes = |name| checkpoint.find(name).map(|(file, entry)| checkpoint.files[file].1.bytes(entry));
            if bytes(name) != bytes("model.embed_tokens.weight") {
                return Err(BaseError::TiedHeadDiffers { path: dir.to_owned() });
            }
            continue;
        }
        let quantised =
            |owner: &str| weights.get(owner).is_some_and(|located| matches!(located.place, Place::BitsAndBytes { .. }));
        if !bitsandbytes::owner(name).is_some_and(quantised) {
            return Err(unknown_tensor(dir, name, description));
        }
    }
    Ok(())
}

/// Heads of the tensors whose rows GGUF's `llama` interleaves.
fn rotary_heads(name: &str, description: &ModelDescription) -> Option<usize> {
    let module = name.rsplit_once('.')?.0;
    if module.ends_with("self_attn.q_proj") {
        Some(description.num_attention_heads)
    } else if module.ends_with("self_attn.k_proj") {
        Some(description.num_key_value_heads)
    } else {
        None
    }
}

/// Brings rows (or a vector's elements) from GGUF's order back: in each head GGUF has the rows of the two halves by
/// turns, Hugging Face one half after the other.
pub(crate) fn unpermute(bytes: &[u8], rows: usize, heads: usize) -> Vec<u8> {
    let row_bytes = bytes.len() / rows;
    let half = rows / heads / 2;
    let mut out = Vec::with_capacity(bytes.len());
    for head in bytes.chunks_exact(2 * half * row_bytes) {
        for side in 0..2 {
            for row in 0..half {
                out.extend_from_slice(&head[(2 * row + side) * row_bytes..][..row_bytes]);
            }
        }
    }
    out
}
