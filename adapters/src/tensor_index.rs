//! Finds the place of each weight of a base model, and checks it before any weight is read.
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
use crate::safetensors_file::{Dtype, SafetensorsFile};
use crate::weight_files::WeightFiles;

/// Hugging Face name → place of the weight.
pub(crate) type TensorIndex = BTreeMap<String, IndexedTensor>;

/// The place of a weight.
#[derive(Debug)]
pub(crate) enum Place {
    /// A byte range of file number `file`.
    Plain { file: usize, range: Range<usize> },
    /// Like `Plain`, but 1 was added to each value.
    PlusOne { file: usize, range: Range<usize>, stored: Format },
    /// Like `Plain`, but the rows of each of the `heads` heads are in GGUF's order for rotary embeddings.
    Permuted { file: usize, range: Range<usize>, heads: usize },
    /// The parts that bitsandbytes writes.
    BitsAndBytes { file: usize, parts: Nf4Parts },
    /// In no file: random values, computed on demand.
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
/// If a weight is missing or has another shape or an unsupported type, or if a tensor doesn't belong to the model.
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

/// Finds every weight of a GGUF file. `interleaved`: whether the rows of q and k are in llama.cpp's order.
///
/// # Errors
/// As [`in_directory`].
pub(crate) fn in_gguf(
    path: &Path,
    file: &GgufFile,
    description: &ModelDescription,
    interleaved: bool,
) -> Result<TensorIndex, BaseError> {
    let tensors = &file.tensors;
    let mut unknown: BTreeSet<&str> = tensors.keys().map(String::as_str).collect();
    // `describe` has already read the rotary scaling from this tensor.
    unknown.remove("rope_freqs.weight");
    let mut weights = TensorIndex::new();
    for (name, shape) in description.tensors() {
        let gguf_name = names::to_gguf(&name, description.output_norms);
        let missing = || BaseError::MissingTensor { path: path.to_owned(), name: gguf_name.clone() };
        let tensor = tensors.get(&gguf_name).ok_or_else(missing)?;
        unknown.remove(gguf_name.as_str());
        check_shape(path, &gguf_name, &tensor.shape, shape)?;
        if matches!(shape, Shape::Vector(_)) && !tensor.format.is_dense() {
            let dtype = tensor.format.to_string();
            return Err(BaseError::TensorType { path: path.to_owned(), name: gguf_name, dtype });
        }
        let (file, range) = (tensor.part, tensor.range.clone());
        let (format, place) = match rotary_heads(&name, description).filter(|_| interleaved) {
            Some(heads) => (tensor.format, Place::Permuted { file, range, heads }),
            None if description.unit_offset && names::is_norm(&name) => {
                (Format::F32, Place::PlusOne { file, range, stored: tensor.format })
            }
            None => (tensor.format, Place::Plain { file, range }),
        };
        weights.insert(name, IndexedTensor { format, shape, place });
    }
    match unknown.first() {
        Some(name) => Err(unknown_tensor(path, name, description)),
        None => Ok(weights),
    }
}

/// The index of a model with random weights, all in BF16.
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
    let format = entry.dtype.dense_format().ok_or_else(|| BaseError::TensorType {
        path: file.file.path().to_owned(),
        name: name.to_owned(),
        dtype: entry.dtype.name().to_owned(),
    })?;
    Ok(IndexedTensor { format, shape, place: Place::Plain { file: number, range: entry.range.clone() } })
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

/// Checks that every tensor is a weight, belongs to a quantised weight, or is known to have no influence.
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

/// Whether two tensors have the same shape and the same values. Their dtypes may differ.
fn same_values(files: &WeightFiles, first: &str, second: &str) -> bool {
    /// Number of values that are decoded at once, and number of bytes that are compared at once.
    const BAND: usize = 1 << 16;
    const BYTES: usize = 64 << 20;
    let tensor = |name| files.find(name).map(|(file, entry)| (entry, files.files[file].1.bytes(entry)));
    let (Some((a, a_bytes)), Some((b, b_bytes))) = (tensor(first), tensor(second)) else { return false };
    let (Some(a_format), Some(b_format), true) = (a.dtype.dense_format(), b.dtype.dense_format(), a.shape == b.shape)
    else {
        return false;
    };
    if a_format == b_format {
        // An embedding may be larger than the memory limit of an export.
        let mut pieces = a_bytes.chunks(BYTES).zip(b_bytes.chunks(BYTES));
        return a_bytes.len() == b_bytes.len()
            && pieces.all(|(a, b)| {
                let same = a == b;
                files.files.iter().for_each(|(_, file)| file.release_pages());
                same
            });
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

/// The number of heads of q and k, whose rows GGUF's `llama` interleaves. `None` for other tensors.
pub(crate) fn rotary_heads(name: &str, description: &ModelDescription) -> Option<usize> {
    let module = name.rsplit_once('.')?.0;
    if module.ends_with("self_attn.q_proj") {
        Some(description.num_attention_heads)
    } else if module.ends_with("self_attn.k_proj") {
        Some(description.num_key_value_heads)
    } else {
        None
    }
}
