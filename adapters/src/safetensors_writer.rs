//! Writes safetensors files.
//!
//! Must not depend on: the meaning of the tensors.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};
use tonfall_blocks::{Format, bf16_from_f32, bf16_to_f32, f16_from_f32, f16_to_f32};
use tonfall_durable::DurableError;

use crate::safetensors_file::Dtype;
use crate::tensor_writer::{self, FileLayout, Sink};

/// A tensor to write.
#[derive(Clone, Debug)]
pub struct PlannedTensor {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
}

impl PlannedTensor {
    pub(crate) fn bytes(&self) -> u64 {
        self.shape.iter().product::<usize>() as u64 * self.dtype.size() as u64
    }
}

/// A file to write.
#[derive(Clone, Debug)]
pub struct PlannedFile {
    pub name: String,
    /// The entry `__metadata__`.
    pub metadata: BTreeMap<String, String>,
    pub tensors: Vec<PlannedTensor>,
}

impl PlannedFile {
    /// Writes the file durably. `fill` is called with the index of each tensor, in order. It must pass the tensor's
    /// little-endian bytes to the sink.
    ///
    /// # Errors
    /// Errors of `fill` and of writing (such as a full disk), and a tensor whose number of bytes differs from its dtype
    /// and shape. No file is left after an error.
    pub fn write<E: From<DurableError>>(
        &self,
        dir: &Path,
        fill: impl FnMut(usize, Sink<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let tensors: Vec<_> = self.tensors.iter().map(|tensor| (&*tensor.name, tensor.bytes())).collect();
        tensor_writer::write(&dir.join(&self.name), &self.header(), &tensors, 1, fill)
    }

    /// The places of header and tensors in the file.
    pub(crate) fn layout(&self) -> FileLayout {
        FileLayout::new(self.header(), self.tensors.iter().map(PlannedTensor::bytes), 1)
    }

    /// The header of the format: its length, JSON, and spaces up to a multiple of 8 bytes.
    fn header(&self) -> Vec<u8> {
        let mut map = Map::new();
        if !self.metadata.is_empty() {
            map.insert("__metadata__".to_owned(), json!(self.metadata));
        }
        let mut begin = 0;
        for tensor in &self.tensors {
            let end = begin + tensor.bytes();
            let entry = json!({ "dtype": tensor.dtype.name(), "shape": tensor.shape, "data_offsets": [begin, end] });
            map.insert(tensor.name.clone(), entry);
            begin = end;
        }
        let mut text = Value::Object(map).to_string().into_bytes();
        text.resize(text.len().next_multiple_of(8), b' ');
        let mut header = (text.len() as u64).to_le_bytes().to_vec();
        header.extend_from_slice(&text);
        header
    }
}

/// `{"format": "pt"}`. transformers refuses files without this entry.
pub(crate) fn format_pt() -> BTreeMap<String, String> {
    BTreeMap::from([("format".to_owned(), "pt".to_owned())])
}

/// The dtype of a dense format. `None` for quantised formats.
pub(crate) fn dtype_of(format: Format) -> Option<Dtype> {
    match format {
        Format::F32 => Some(Dtype::F32),
        Format::F16 => Some(Dtype::F16),
        Format::Bf16 => Some(Dtype::Bf16),
        _ => None,
    }
}

/// Converts values to a dense dtype. Each value is rounded once, to the nearest.
pub(crate) fn encode(values: &[f32], dtype: Dtype) -> Vec<u8> {
    match dtype {
        Dtype::F16 => values.iter().flat_map(|value| f16_from_f32(*value).to_le_bytes()).collect(),
        Dtype::Bf16 => values.iter().flat_map(|value| bf16_from_f32(*value).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
    }
}

/// The first finite value that would become infinite in `dtype`.
pub(crate) fn first_overflow(values: &[f32], dtype: Dtype) -> Option<f32> {
    let largest = match dtype {
        Dtype::F16 => 65_504.0,
        Dtype::Bf16 => 3.389_531_4e38,
        _ => return None,
    };
    let rounds_up = |value: &f32| match dtype {
        Dtype::F16 => f16_to_f32(f16_from_f32(*value)).is_infinite(),
        _ => bf16_to_f32(bf16_from_f32(*value)).is_infinite(),
    };
    let is_large = |value: &f32| value.is_finite() && value.abs() > largest;
    // A stride without a branch is several times as fast, and most often no value is large.
    let mut strides =
        values.chunks(1024).filter(|values| values.iter().fold(false, |any, value| any | is_large(value)));
    strides.find_map(|values| values.iter().copied().find(|value| is_large(value) && rounds_up(value)))
}

/// Distributes tensors over files of at most `max_shard_bytes`, with transformers' names. A larger tensor gets its own
/// file. Also returns the index, if there are several files.
pub(crate) fn lay_out(tensors: Vec<PlannedTensor>, max_shard_bytes: u64) -> (Vec<PlannedFile>, Option<Vec<u8>>) {
    let mut shards: Vec<(u64, Vec<PlannedTensor>)> = Vec::new();
    for tensor in tensors {
        let bytes = tensor.bytes();
        match shards.last_mut() {
            Some((size, shard)) if *size + bytes <= max_shard_bytes => {
                *size += bytes;
                shard.push(tensor);
            }
            _ => shards.push((bytes, vec![tensor])),
        }
    }
    let count = shards.len();
    let total: u64 = shards.iter().map(|(size, _)| size).sum();
    let file = |(number, (_, tensors)): (usize, (u64, Vec<PlannedTensor>))| {
        let name = match count {
            1 => crate::weight_files::SINGLE_FILE.to_owned(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", number + 1),
        };
        PlannedFile { name, metadata: format_pt(), tensors }
    };
    let files: Vec<PlannedFile> = shards.into_iter().enumerate().map(file).collect();
    if count == 1 {
        return (files, None);
    }
    let entries =
        files.iter().flat_map(|file| file.tensors.iter().map(|tensor| (tensor.name.clone(), file.name.clone())));
    let map: BTreeMap<String, String> = entries.collect();
    let mut index = Map::new();
    index.insert("metadata".to_owned(), json!({ "total_size": total }));
    index.insert("weight_map".to_owned(), json!(map));
    (files, Some(crate::hf_config::pretty(&index)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::safetensors_file::SafetensorsFile;

    /// Writes a tensor of two f32 values with the given bytes.
    fn written(dir: &Path, bytes: &[u8]) -> Result<(), DurableError> {
        let tensors = vec![PlannedTensor { name: "weight".to_owned(), dtype: Dtype::F32, shape: vec![2] }];
        let file = PlannedFile { name: "file".to_owned(), metadata: BTreeMap::new(), tensors };
        file.write(dir, |_, sink| bytes.chunks(3).try_for_each(sink))
    }

    #[test]
    fn written_tensors_are_read_back_and_a_wrong_length_leaves_no_file() {
        let dir = tempfile::tempdir().expect("a directory");
        for bytes in [&[1; 7][..], &[1; 9], &[]] {
            let error = written(dir.path(), bytes).expect_err("not eight bytes").to_string();
            assert!(error.contains(&format!("`weight` got {} bytes instead of 8", bytes.len())), "{error}");
            assert_eq!(std::fs::read_dir(dir.path()).expect("a directory").count(), 0);
        }
        let bytes = [1, 2, 3, 4, 5, 6, 7, 8];
        written(dir.path(), &bytes).expect("eight bytes");
        let file = SafetensorsFile::open(&dir.path().join("file")).expect("a file");
        assert_eq!(file.tensor("weight"), Some((Dtype::F32, &[2][..], &bytes[..])));
        assert_eq!((file.len(), file.tensor("bias")), (1, None));
    }
}
