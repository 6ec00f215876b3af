//! The place of each weight of a base model, found and checked before any is read.
//!
//! Must not depend on: how the model was opened, the use of the weights.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;

use tonfall_blocks::{Format, dequantize};

use crate::base_model::BaseError;
use crate::bitsandbytes::{self, Nf4Parts};
use crate::description::{ModelDescription, Shape};
use crate::gguf::GgufFile;
use crate::names;
use crate::safetensors_file::{Dtype, SafetensorsFile, TensorEntry};
use crate::weight_files::WeightFiles;

/// The weights by their Hugging Face names.
pub(crate) type TensorIndex = BTreeMap<String, IndexedTensor>;

/// The place of a weight.
#[derive(Debug)]
pub(crate) enum Place {
    /// These bytes of file number `file`.
    Plain { file: usize, range: Range<usize> },
    /// As `Plain`, with the rows of `heads` heads in GGUF's order for rotary embeddings.
    Permuted { file: usize, range: Range<usize>, heads: usize },
    /// In the parts that bitsandbytes writes.
    BitsAndBytes { file: usize, parts: Nf4Parts },
    /// In no file: random values, computed when asked for.
    Random,
}

#[derive(Debug)]
pub(crate) struct IndexedTensor {
    pub format: Format,
    pub shape: Shape,
    pub place: Place,
}

/// Finds every weight of a Hugging Face directory.
///
/// # Errors
/// When a weight is missing, has another shape or an unusable type, or when a tensor belongs to no weight.
pub(crate) fn in_directory(
    dir: &Path,
    files: &WeightFiles,
    description: &ModelDescription,
) -> Result<TensorIndex, BaseError> {
    let mut weights = TensorIndex::new();
    for (name, shape) in description.tensors() {
        let indexed = find_tensor(dir, files, &name, shape)?;
        weights.insert(name, indexed);
    }
    refuse_unknown(dir, files, description, &weights)?;
    Ok(weights)
}

/// Finds every weight of a GGUF file; `permuted`: the rows of q and k are in llama.cpp's order.
///
/// # Errors
/// As [`in_directory`].
pub(crate) fn in_gguf(
    path: &Path,
    file: &GgufFile,
    description: &ModelDescription,
    permuted: bool,
) -> Result<TensorIndex, BaseError> {
    let tensors = &file.tensors;
    let mut unknown: BTreeSet<&str> = tensors.keys().map(String::as_str).collect();
    // The description's rotary scaling was read from it.
    unknown.remove("rope_freqs.weight");
    let mut weights = TensorIndex::new();
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
            Some(heads) => Place::Permuted { file: tensor.part, range, heads },
            None => Place::Plain { file: tensor.part, range },
        };
        weights.insert(name, IndexedTensor { format: tensor.format, shape, place });
    }
    match unknown.first() {
        Some(name) => Err(unknown_tensor(path, name, description)),
        None => Ok(weights),
    }
}

/// A table for a model of random weights, all in BF16.
pub(crate) fn at_random(description: &ModelDescription) -> TensorIndex {
    let indexed = |shape| IndexedTensor { format: Format::Bf16, shape, place: Place::Random };
    description.tensors().into_iter().map(|(name, shape)| (name, indexed(shape))).collect()
}

fn find_tensor(dir: &Path, files: &WeightFiles, name: &str, shape: Shape) -> Result<IndexedTensor, BaseError> {
    let missing = || BaseError::MissingTensor { path: dir.to_owned(), name: name.to_owned() };
    let (number, entry) = files.find(name).ok_or_else(missing)?;
    let file: &SafetensorsFile = &files.files[number].1;
    if entry.dtype == Dtype::U8
        && let Some(parts) = bitsandbytes::find(file, name, shape)?
    {
        return Ok(IndexedTensor { format: Format::Nf4, shape, place: Place::BitsAndBytes { file: number, parts } });
    }
    check_shape(file.file.path(), name, &entry.shape, shape)?;
    let format = dense_format(entry).ok_or_else(|| BaseError::TensorType {
        path: file.file.path().to_owned(),
        name: name.to_owned(),
        dtype: entry.dtype.name().to_owned(),
    })?;
    Ok(IndexedTensor { format, shape, place: Place::Plain { file: number, range: entry.range.clone() } })
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

/// Every tensor of the files must be part of the model, accompany a quantised one, or be known to have no influence.
fn refuse_unknown(
    dir: &Path,
    files: &WeightFiles,
    description: &ModelDescription,
    weights: &TensorIndex,
) -> Result<(), BaseError> {
    for name in files.names() {
        if weights.contains_key(name) || names::is_rotary_buffer(name) {
            continue;
        }
        if name == "lm_head.weight" && description.tie_word_embeddings {
            match same_values(files, name, "model.embed_tokens.weight") {
                true => continue,
                false => return Err(BaseError::TiedHeadDiffers { path: dir.to_owned() }),
            }
        }
        let quantised =
            |owner: &str| weights.get(owner).is_some_and(|indexed| matches!(indexed.place, Place::BitsAndBytes { .. }));
        if !bitsandbytes::owner(name).is_some_and(quantised) {
            return Err(unknown_tensor(dir, name, description));
        }
    }
    Ok(())
}

/// Whether two tensors have the same shape and, whatever their dtypes, the same values.
fn same_values(files: &WeightFiles, first: &str, second: &str) -> bool {
    /// Values that are decoded at a time.
    const BAND: usize = 1 << 16;
    let tensor = |name| files.find(name).map(|(file, entry)| (entry, files.files[file].1.bytes(entry)));
    let (Some((a, a_bytes)), Some((b, b_bytes))) = (tensor(first), tensor(second)) else { return false };
    let (Some(a_format), Some(b_format), true) = (dense_format(a), dense_format(b), a.shape == b.shape) else {
        return false;
    };
    if a_format == b_format {
        return a_bytes == b_bytes;
    }
    let len = a.shape.iter().product::<usize>();
    let (mut left, mut right) = (vec![0.0; BAND.min(len)], vec![0.0; BAND.min(len)]);
    (0..len).step_by(BAND).all(|start| {
        let band = BAND.min(len - start);
        dequantize(a_format, a_bytes, 1, len, start, &mut left[..band]);
        dequantize(b_format, b_bytes, 1, len, start, &mut right[..band]);
        let same = |(a, b): (&f32, &f32)| a == b || (a.is_nan() && b.is_nan());
        left[..band].iter().zip(&right[..band]).all(same)
    })
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

/// Reorders rows (or a vector's elements) from GGUF's order to Hugging Face's: in each head GGUF interleaves the rows of
/// the two halves, Hugging Face has one half after the other.
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
