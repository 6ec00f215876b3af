//! GGUF files of any type and architecture.

use std::collections::BTreeMap;
use std::path::Path;

use super::{InspectError, Inspection, Kind, MetaValue, TensorInfo, file_info};
use crate::gguf::{Array, GgufError, ListedTensor, Value, open_headers};

/// Elements of an array that are shown.
const SHOWN: usize = 8;

/// A file, or all parts of a split model.
pub(super) fn inspect(path: &Path) -> Result<Inspection, InspectError> {
    let parts = open_headers(path)?;
    let (mut files, mut tensors) = (Vec::new(), Vec::new());
    for (number, (file, header)) in parts.iter().enumerate() {
        files.push(file_info(file.path(), file));
        tensors.extend(header.listed(file)?.into_iter().map(|tensor| info(tensor, number)));
    }
    refuse_duplicates(path, &tensors)?;
    let (first_file, first) = &parts[0];
    let metadata: BTreeMap<String, MetaValue> =
        first.metadata.iter().map(|(key, value)| (key.clone(), meta_value(value, first_file))).collect();
    let kind = match first.metadata.get("general.type").and_then(Value::as_str) {
        // Older converters do not write the type.
        None | Some("model") => Kind::GgufModel,
        Some("adapter") => Kind::GgufAdapter,
        Some("imatrix") => Kind::GgufImatrix,
        Some(_) => Kind::GgufOther,
    };
    let mut found = Inspection::new(kind, format!("GGUF {}", first.version), files, metadata, tensors);
    if kind != Kind::GgufImatrix {
        found.parameters = Some(found.tensors.iter().map(TensorInfo::elements).fold(0, u64::saturating_add));
    }
    Ok(found)
}

fn info(tensor: ListedTensor, file: usize) -> TensorInfo {
    let ListedTensor { name, type_name, shape, bytes } = tensor;
    TensorInfo { name, type_name, shape, bytes: bytes.map(|bytes| bytes as u64), file }
}

fn refuse_duplicates(path: &Path, tensors: &[TensorInfo]) -> Result<(), GgufError> {
    let mut names: Vec<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        None => Ok(()),
        Some(pair) => Err(GgufError::Tensor {
            path: path.to_owned(),
            name: pair[0].to_owned(),
            reason: "it is listed twice".to_owned(),
        }),
    }
}

fn meta_value(value: &Value, file: &[u8]) -> MetaValue {
    match value {
        Value::Unsigned(value) => MetaValue::Integer(i128::from(*value)),
        Value::Signed(value) => MetaValue::Integer(i128::from(*value)),
        Value::Float(value) => MetaValue::Float(shortest(*value)),
        Value::Bool(value) => MetaValue::Bool(*value),
        Value::String(value) => MetaValue::Text(value.clone()),
        Value::Array(array) => array_value(array, file),
    }
}

fn array_value(array: &Array, file: &[u8]) -> MetaValue {
    let first = array.first(file, SHOWN).iter().map(|value| meta_value(value, file)).collect();
    MetaValue::Array { count: array.count(), first }
}

/// Most floats are stored as f32: 1e-5 would otherwise be shown as 0.000009999999747378752.
fn shortest(value: f64) -> f64 {
    let single = value as f32;
    match f64::from(single) == value {
        true => single.to_string().parse().unwrap_or(value),
        false => value,
    }
}
