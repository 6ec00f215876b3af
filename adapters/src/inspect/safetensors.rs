//! Safetensors files with tensors of any dtype.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::{InspectError, Inspection, Kind, MetaValue, TensorInfo, file_info};
use crate::bitsandbytes;
use crate::mapped_file::MappedFile;
use crate::safetensors_file::{self, ListedTensor};

const FORMAT: &str = "safetensors";
/// Dtypes in which programs pack weights of fewer bits.
const PACKING: [&str; 6] = ["U8", "I8", "U16", "I16", "U32", "I32"];

pub(super) fn inspect(path: &Path, mapped: &MappedFile) -> Result<Inspection, InspectError> {
    let (metadata, tensors) = safetensors_file::list(path, mapped)?;
    Ok(of_parts(Kind::Safetensors, vec![(mapped, metadata, tensors)]))
}

/// A file with its metadata and its tensors.
pub(super) type Part<'a> = (&'a MappedFile, BTreeMap<String, String>, Vec<ListedTensor>);

/// The content of one or more files. Shards have the same metadata, so the first file with a key decides.
pub(super) fn of_parts(kind: Kind, parts: Vec<Part<'_>>) -> Inspection {
    let (mut files, mut metadata, mut tensors) = (Vec::new(), BTreeMap::new(), Vec::new());
    for (number, (file, own, listed)) in parts.into_iter().enumerate() {
        files.push(file_info(file.path(), file));
        for (key, value) in own {
            metadata.entry(key).or_insert(MetaValue::Text(value));
        }
        tensors.extend(listed.into_iter().map(|ListedTensor { name, dtype, shape, bytes }| TensorInfo {
            name,
            type_name: dtype,
            shape,
            bytes: Some(bytes as u64),
            file: number,
        }));
    }
    let mut found = Inspection::new(kind, FORMAT.to_owned(), files, metadata, tensors);
    found.parameters = parameters(&found.tensors);
    found
}

/// Parameters: the elements of all tensors. bitsandbytes packs two into a byte, and stores scales beside them. `None`
/// if another program packed matrices into integers.
fn parameters(tensors: &[TensorInfo]) -> Option<u64> {
    let owners: BTreeSet<&str> = tensors.iter().filter_map(|tensor| bitsandbytes::owner(&tensor.name)).collect();
    let mut sum = 0u64;
    for tensor in tensors {
        let elements = tensor.elements();
        let packed = PACKING.contains(&tensor.type_name.as_str());
        sum = sum.saturating_add(match () {
            () if bitsandbytes::owner(&tensor.name).is_some() => 0,
            () if packed && owners.contains(tensor.name.as_str()) => elements.saturating_mul(2),
            () if packed && tensor.shape.len() > 1 => return None,
            () => elements,
        });
    }
    Some(sum)
}
