//! llama.cpp's older binary importance matrix, `imatrix.dat`.

use std::collections::BTreeMap;
use std::path::Path;

use super::{InspectError, Inspection, Kind, MetaValue, TensorInfo, file_info};
use crate::gguf::Fault;
use crate::imatrix::legacy::{DatEntry, ImatrixDat};
use crate::mapped_file::MappedFile;

pub(super) fn inspect(path: &Path, mapped: &MappedFile) -> Result<Inspection, InspectError> {
    let ImatrixDat { entries, chunks, dataset } = ImatrixDat::parse(mapped)
        .map_err(|Fault { offset, reason }| InspectError::Imatrix { path: path.to_owned(), offset, reason })?;
    let tensors = entries.iter().map(tensor).collect();
    let chunks = chunks.map(|chunks| ("imatrix.chunk_count", MetaValue::Integer(chunks.into())));
    let dataset = dataset.map(|name| ("imatrix.dataset", MetaValue::Text(name)));
    let metadata: BTreeMap<_, _> =
        chunks.into_iter().chain(dataset).map(|(key, value)| (key.to_owned(), value)).collect();
    let files = vec![file_info(path, mapped)];
    Ok(Inspection::new(Kind::ImatrixDat, "imatrix.dat".to_owned(), files, metadata, tensors))
}

fn tensor(entry: &DatEntry<'_>) -> TensorInfo {
    let bytes = Some((size_of::<f32>() * entry.len()) as u64);
    TensorInfo { name: entry.name.clone(), type_name: "F32".to_owned(), shape: vec![entry.len()], bytes, file: 0 }
}
