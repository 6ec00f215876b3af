//! Writes GGUF files, version 3, in pieces, so that only a part of one tensor is in memory.
//!
//! Source: the GGUF specification of the ggml repository (`docs/gguf.md`).
//! Must not depend on: the meaning of metadata and tensors.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use tonfall_blocks::{Format, checked_byte_len};
use tonfall_durable::DurableError;

use super::file::{DEFAULT_ALIGNMENT, TYPES};
use super::value::kind;
use crate::tensor_writer::{self, FileLayout, Sink};

const VERSION: u32 = 3;

/// A metadata value to write. Readers want the exact type, so each type has its own variant.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum MetadataValue {
    U32(u32),
    F32(f32),
    Bool(bool),
    String(String),
    Strings(Vec<String>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
    /// Type number and value in the bytes of another GGUF file, of any type.
    Stored(Vec<u8>),
}

/// The metadata of a file, in the order in which it is written. A key must not be listed twice.
pub(crate) type Metadata = Vec<(String, MetadataValue)>;

/// A tensor to write.
#[derive(Clone, Debug)]
pub(crate) struct PlannedGgufTensor {
    pub name: String,
    pub format: Format,
    /// In Hugging Face's order: the outermost dimension first.
    pub shape: Vec<usize>,
}

/// A file to write.
#[derive(Clone, Debug)]
pub(crate) struct PlannedGguf {
    pub metadata: Metadata,
    pub tensors: Vec<PlannedGgufTensor>,
}

impl MetadataValue {
    /// Type number and value, as in the file.
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::U32(value) => scalar(kind::U32, &value.to_le_bytes()),
            Self::F32(value) => scalar(kind::F32, &value.to_le_bytes()),
            Self::Bool(value) => scalar(kind::BOOL, &[u8::from(*value)]),
            Self::String(text) => scalar(kind::STRING, &string(text)),
            Self::Strings(texts) => array(kind::STRING, texts.len(), texts.iter().flat_map(|text| string(text))),
            Self::I32s(values) => array(kind::I32, values.len(), values.iter().flat_map(|value| value.to_le_bytes())),
            Self::F32s(values) => array(kind::F32, values.len(), values.iter().flat_map(|value| value.to_le_bytes())),
            Self::Stored(bytes) => bytes.clone(),
        }
    }
}

fn scalar(kind: u32, value: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes(), value].concat()
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

fn array(kind: u32, count: usize, elements: impl Iterator<Item = u8>) -> Vec<u8> {
    let mut bytes = kind::ARRAY.to_le_bytes().to_vec();
    bytes.extend(kind.to_le_bytes());
    bytes.extend((count as u64).to_le_bytes());
    bytes.extend(elements);
    bytes
}

impl PlannedGgufTensor {
    /// The type number, and the size in bytes without padding.
    ///
    /// # Errors
    /// If GGUF has no such type, or if the shape can't be stored in it. Both are bugs in the plan.
    fn layout(&self) -> io::Result<(u32, u64)> {
        let kind = TYPES.iter().find(|(_, format)| *format == self.format).map(|(kind, _)| *kind);
        let bytes = match self.shape.split_last() {
            Some((cols, outer)) if outer.len() < 4 => {
                let rows = outer.iter().try_fold(1usize, |product, dim| product.checked_mul(*dim));
                rows.and_then(|rows| checked_byte_len(self.format, rows, *cols))
            }
            _ => None,
        };
        let (name, shape, format) = (&self.name, &self.shape, self.format);
        kind.zip(bytes.map(|bytes| bytes as u64))
            .ok_or_else(|| invalid(format!("tensor `{name}` of shape {shape:?} can't be stored as {format}")))
    }

    /// Size in bytes, without padding.
    ///
    /// # Errors
    /// If the shape can't be stored in the format.
    pub(crate) fn bytes(&self) -> io::Result<u64> {
        Ok(self.layout()?.1)
    }
}

impl PlannedGguf {
    /// The places of header and tensors in the file.
    ///
    /// # Errors
    /// If the plan is invalid; see [`Self::write`].
    pub(crate) fn layout(&self) -> io::Result<FileLayout> {
        let sizes = self.tensors.iter().map(PlannedGgufTensor::bytes).collect::<io::Result<Vec<_>>>()?;
        Ok(FileLayout::new(self.header()?, sizes, DEFAULT_ALIGNMENT as u64))
    }

    /// Writes the file durably. `fill` is called with the index of each tensor, in order. It must pass the tensor's bytes
    /// to the sink, in the layout that `tonfall_blocks::dequantize` reads.
    ///
    /// # Errors
    /// Errors of `fill` and of writing (such as a full disk), a tensor whose number of bytes differs from its format and
    /// shape, and an invalid plan: a format or shape that GGUF doesn't have, a key or a tensor that is listed twice. No file
    /// is left after an error.
    pub(crate) fn write<E: From<DurableError>>(
        &self,
        path: &Path,
        fill: impl FnMut(usize, Sink<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let plan = self.header().and_then(|header| {
            let sized = self.tensors.iter().map(|tensor| Ok((&*tensor.name, tensor.bytes()?)));
            Ok((header, sized.collect::<io::Result<Vec<_>>>()?))
        });
        let (header, tensors) = plan.map_err(|error| DurableError::new("write", path, error))?;
        tensor_writer::write(path, &header, &tensors, DEFAULT_ALIGNMENT as u64, fill)
    }

    /// Everything before the tensor data, padded.
    fn header(&self) -> io::Result<Vec<u8>> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.metadata.len() as u64).to_le_bytes());
        let mut seen = BTreeSet::new();
        for (key, value) in &self.metadata {
            if !seen.insert(key) {
                return Err(invalid(format!("the metadata key `{key}` is listed twice")));
            }
            bytes.extend(string(key));
            bytes.extend(value.encode());
        }
        let mut seen = BTreeSet::new();
        let mut offset = 0;
        for tensor in &self.tensors {
            if !seen.insert(&tensor.name) {
                return Err(invalid(format!("tensor `{}` is listed twice", tensor.name)));
            }
            let (kind, size) = tensor.layout()?;
            bytes.extend(string(&tensor.name));
            bytes.extend((tensor.shape.len() as u32).to_le_bytes());
            bytes.extend(tensor.shape.iter().rev().flat_map(|dim| (*dim as u64).to_le_bytes()));
            bytes.extend(kind.to_le_bytes());
            bytes.extend(u64::to_le_bytes(offset));
            offset += padded(size);
        }
        bytes.resize(bytes.len().next_multiple_of(DEFAULT_ALIGNMENT), 0);
        Ok(bytes)
    }
}

fn padded(bytes: u64) -> u64 {
    bytes.next_multiple_of(DEFAULT_ALIGNMENT as u64)
}

fn invalid(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::GgufFile;

    fn tensor(name: &str, format: Format, shape: &[usize]) -> PlannedGgufTensor {
        PlannedGgufTensor { name: name.to_owned(), format, shape: shape.to_vec() }
    }

    fn plan() -> PlannedGguf {
        let mut metadata: Metadata = [
            ("general.architecture", MetadataValue::String("llama".to_owned())),
            ("a.u32", MetadataValue::U32(7)),
            ("a.f32", MetadataValue::F32(0.5)),
            ("a.flag", MetadataValue::Bool(true)),
            ("tokenizer.texts", MetadataValue::Strings(vec!["ä".to_owned(), String::new()])),
            ("tokenizer.i32s", MetadataValue::I32s(vec![-1, 2])),
            ("tokenizer.f32s", MetadataValue::F32s(vec![1.5])),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into();
        metadata.push(("a.stored".to_owned(), MetadataValue::Stored(MetadataValue::Bool(false).encode())));
        let tensors = vec![
            tensor("vector", Format::F32, &[3]),
            tensor("cube", Format::F16, &[2, 3, 5]),
            tensor("blocks", Format::Q8_0, &[2, 32]),
        ];
        PlannedGguf { metadata, tensors }
    }

    /// Bytes that differ from tensor to tensor.
    fn content(plan: &PlannedGguf, index: usize) -> Vec<u8> {
        vec![index as u8 + 1; plan.tensors[index].bytes().expect("a size") as usize]
    }

    fn write(plan: &PlannedGguf, path: &Path) -> Result<(), DurableError> {
        plan.write(path, |index, sink| content(plan, index).chunks(7).try_for_each(sink))
    }

    #[test]
    fn a_written_file_is_read_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("model.gguf");
        let plan = plan();
        write(&plan, &path).expect("written");
        assert_eq!(path.metadata().expect("a file").len(), plan.layout().expect("a plan").len);

        let file = GgufFile::open(&path, |_, _| Ok(())).expect("a file");
        for (index, planned) in plan.tensors.iter().enumerate() {
            let tensor = &file.tensors[&planned.name];
            assert_eq!((tensor.format, &tensor.shape), (planned.format, &planned.shape));
            assert_eq!(tensor.range.start % 32, 0);
            assert_eq!(file.bytes(tensor), content(&plan, index));
        }
        let expected = |prefix: &str| -> Vec<(String, Vec<u8>)> {
            let entries = plan.metadata.iter().filter(|(key, _)| key.starts_with(prefix));
            entries.map(|(key, value)| (key.clone(), value.encode())).collect()
        };
        for prefix in ["", "tokenizer."] {
            let stored = file.stored_metadata(prefix).into_iter().map(|(key, value)| (key, value.encode()));
            assert_eq!(stored.collect::<Vec<_>>(), expected(prefix));
        }
        let shown: Vec<_> = file.metadata.iter().map(|(key, value)| format!("{key}={value:?}")).collect();
        let shown = shown.join(" ");
        for value in ["a.u32=Unsigned(7)", "a.f32=Float(0.5)", "a.flag=Bool(true)", "a.stored=Bool(false)"] {
            assert!(shown.contains(value), "{value} is not in {shown}");
        }
        let array = file.metadata["tokenizer.texts"].as_array().expect("a list");
        assert_eq!(array.strings(&file.parts[0]), Some(vec!["ä", ""]));
    }

    #[test]
    fn faults_leave_no_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("model.gguf");
        let refused = |change: &dyn Fn(&mut PlannedGguf), reason: &str| {
            let mut plan = plan();
            change(&mut plan);
            let error = plan.write(&path, |_, _| Ok::<(), DurableError>(())).expect_err("refused").to_string();
            assert!(error.contains(reason), "{reason} is not in {error}");
            assert_eq!(std::fs::read_dir(dir.path()).expect("a directory").count(), 0);
        };
        refused(&|_| (), "`vector` got 0 bytes instead of 12");
        refused(&|plan| plan.metadata.push(plan.metadata[1].clone()), "key `a.u32` is listed twice");
        refused(&|plan| plan.tensors.push(plan.tensors[0].clone()), "tensor `vector` is listed twice");
        refused(&|plan| plan.tensors[2].shape = vec![2, 33], "`blocks` of shape [2, 33] can't be stored as Q8_0");
        refused(&|plan| plan.tensors[2].format = Format::Nf4, "can't be stored as NF4");
        refused(&|plan| plan.tensors[0].shape = vec![1; 5], "can't be stored");
        refused(&|plan| plan.tensors[0].shape = vec![usize::MAX, 2, 2], "can't be stored");
        let error = plan().write(&path, |_, sink| sink(&[0; 13])).expect_err("too long").to_string();
        assert!(error.contains("`vector` got 13 bytes instead of 12"), "{error}");
        let stop = || DurableError::new("read", Path::new("base"), io::Error::other("gone"));
        let error = plan().write(&path, |_, _| Err(stop())).expect_err("stopped").to_string();
        assert!(error.contains("gone"), "{error}");
        assert_eq!(std::fs::read_dir(dir.path()).expect("a directory").count(), 0);
    }
}
