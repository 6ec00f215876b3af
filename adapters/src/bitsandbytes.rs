//! Reads base models in the 4-bit format of bitsandbytes.
//!
//! A weight `X.weight` has the companions `X.weight.absmax`, `.quant_map`, `.nested_absmax`, `.nested_quant_map` and
//! `.quant_state.bitsandbytes__nf4` (a JSON text). Only the format of QLoRA is supported: NF4 with block size 64, and
//! double quantisation of the scales in blocks of 256.
//! Must not depend on: model families.

use std::ops::Range;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Map, Value};
use thiserror::Error;
use tonfall_blocks::{DYNAMIC_MAP, NF4, Nf4Sections, pack_nf4};

use crate::description::Shape;
use crate::safetensors_file::{Dtype, SafetensorsFile, TensorEntry};

/// Why a quantised checkpoint can't be used.
#[derive(Debug, Error)]
pub enum BitsAndBytesError {
    #[error(
        "{}: the checkpoint is quantised with {method}; supported is bitsandbytes' NF4 with block size 64 and double \
         quantisation. Take the unquantised release of the model and set `quantization = \"nf4\"`",
        path.display()
    )]
    Method { path: PathBuf, method: String },

    #[error(
        "{}: `{name}`: {found}; supported is NF4 with block size 64 and double quantisation \
         (`bnb_4bit_use_double_quant=True`). Take the unquantised release of the model",
        path.display()
    )]
    Variant { path: PathBuf, name: String, found: String },

    #[error("{}: `{name}`: {reason}; fetch the file again", path.display())]
    Damaged { path: PathBuf, name: String, reason: String },
}

/// The places of a quantised weight's parts in its file.
#[derive(Clone, Debug)]
pub(crate) struct Nf4Parts {
    codes: Range<usize>,
    absmax: Range<usize>,
    nested_absmax: Range<usize>,
    offset: f32,
    elements: usize,
}

#[derive(Deserialize)]
struct QuantState {
    quant_type: String,
    blocksize: u64,
    shape: Vec<usize>,
    nested_blocksize: Option<u64>,
    nested_dtype: Option<String>,
    nested_offset: Option<f64>,
}

const STATE: &str = ".quant_state.bitsandbytes__";
const COMPANIONS: [&str; 4] = [".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map"];

/// The weight to which a companion tensor belongs. `None` for other tensors.
pub(crate) fn owner(name: &str) -> Option<&str> {
    if let Some((owner, _)) = name.split_once(STATE) {
        return Some(owner);
    }
    COMPANIONS.iter().find_map(|suffix| name.strip_suffix(suffix))
}

/// Refuses all quantisation methods except bitsandbytes' 4 bits, by `quantization_config` in `config.json`. An empty
/// object means no quantisation: some programs leave one in the configuration of a merged model.
pub(crate) fn check_method(path: PathBuf, config: &Map<String, Value>) -> Result<(), BitsAndBytesError> {
    let empty = |value: &&Value| value.is_null() || value.as_object().is_some_and(Map::is_empty);
    let Some(quantization) = config.get("quantization_config").filter(|value| !empty(value)) else { return Ok(()) };
    let text = |key: &str| quantization.get(key).and_then(Value::as_str).unwrap_or("an unnamed method").to_owned();
    let method = text("quant_method");
    if method != "bitsandbytes" {
        return Err(BitsAndBytesError::Method { path, method });
    }
    let on = |key: &str| quantization.get(key).and_then(Value::as_bool);
    match (on("load_in_4bit"), on("load_in_8bit")) {
        (Some(true), _) | (Some(false), Some(false)) => Ok(()),
        _ => Err(BitsAndBytesError::Method { path, method: "bitsandbytes in 8 bits".to_owned() }),
    }
}

/// Finds the parts of the weight `name`. `None` if it is not quantised.
pub(crate) fn find(file: &SafetensorsFile, name: &str, shape: Shape) -> Result<Option<Nf4Parts>, BitsAndBytesError> {
    let prefix = format!("{name}{STATE}");
    let Some((state_name, state)) =
        file.tensors.range(prefix.clone()..).next().filter(|(key, _)| key.starts_with(&prefix))
    else {
        return Ok(None);
    };
    let path = || file.file.path().to_owned();
    let variant = |found: String| BitsAndBytesError::Variant { path: path(), name: name.to_owned(), found };
    let damaged = |reason: String| BitsAndBytesError::Damaged { path: path(), name: name.to_owned(), reason };
    let state: QuantState = serde_json::from_slice(file.bytes(state))
        .map_err(|error| damaged(format!("{state_name} can't be read: {error}")))?;
    if state.quant_type != "nf4" {
        return Err(variant(format!("the quantisation type is {}", state.quant_type)));
    }
    if state.blocksize != 64 {
        return Err(variant(format!("the block size is {}", state.blocksize)));
    }
    let (Some(256), Some("float32"), Some(offset)) =
        (state.nested_blocksize, state.nested_dtype.as_deref(), state.nested_offset)
    else {
        return Err(variant("the scales are not quantised a second time in blocks of 256".to_owned()));
    };
    if state.shape != shape.dims() {
        return Err(damaged(format!("its shape is {:?}, the configuration says {:?}", state.shape, shape.dims())));
    }

    let (rows, cols) = shape.rows_cols();
    let sized = rows.checked_mul(cols).and_then(|elements| Some((elements, Nf4Sections::of(elements)?)));
    let (elements, sections) = sized.ok_or_else(|| damaged("its shape is too large".to_owned()))?;
    let part = |suffix: &str, dtype: Dtype, bytes: usize| -> Result<&TensorEntry, BitsAndBytesError> {
        let part_name = format!("{name}{suffix}");
        let entry = file.tensors.get(&part_name).ok_or_else(|| damaged(format!("{part_name} is missing")))?;
        match entry.dtype == dtype && entry.range.len() == bytes {
            true => Ok(entry),
            false => Err(damaged(format!("{part_name} is not {bytes} bytes of {}", dtype.name()))),
        }
    };
    let codes = part("", Dtype::U8, sections.codes.len())?;
    let absmax = part(".absmax", Dtype::U8, sections.absmax.len())?;
    let nested_absmax = part(".nested_absmax", Dtype::F32, sections.nested_absmax.len())?;
    for (suffix, expected) in [(".quant_map", NF4.as_slice()), (".nested_quant_map", DYNAMIC_MAP.as_slice())] {
        let entry = part(suffix, Dtype::F32, expected.len() * 4)?;
        if !floats(file.bytes(entry)).zip(expected).all(|(found, expected)| within_two_places(found, *expected)) {
            return Err(variant(format!("{name}{suffix} is not bitsandbytes' table")));
        }
    }
    Ok(Some(Nf4Parts {
        codes: codes.range.clone(),
        absmax: absmax.range.clone(),
        nested_absmax: nested_absmax.range.clone(),
        offset: offset as f32,
        elements,
    }))
}

impl Nf4Parts {
    /// Joins the parts in one buffer, in the layout of [`tonfall_blocks::Format::Nf4`].
    pub(crate) fn pack(&self, file: &SafetensorsFile) -> Vec<u8> {
        let nested: Vec<f32> = floats(file.file.slice(&self.nested_absmax)).collect();
        let (codes, absmax) = (file.file.slice(&self.codes), file.file.slice(&self.absmax));
        pack_nf4(self.elements, codes, absmax, &nested, self.offset)
            .unwrap_or_else(|| unreachable!("lengths were checked when the file was opened"))
    }
}

/// bitsandbytes recomputes the dynamic map on every machine, and the last bits of PyTorch's `linspace` differ between
/// processors. The difference is far below the resolution of the scales.
fn within_two_places(a: f32, b: f32) -> bool {
    a == b || a.to_bits().abs_diff(b.to_bits()) <= 2
}

fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> + '_ {
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes))
}
