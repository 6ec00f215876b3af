//! Reads a GGUF file: metadata and the table of tensors. Both are checked completely before any value is used.
//!
//! Source: the GGUF specification of the ggml repository (`docs/gguf.md`), versions 2 and 3.
//! Must not depend on: the meaning of metadata and tensors.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use thiserror::Error;
use tonfall_blocks::{Format, checked_byte_len};

use super::cursor::{Cursor, Fault};
use super::other_types::other_type;
use super::split;
use super::value::{ELEMENT_BUDGET, Value};
use super::writer::{Metadata, MetadataValue};
use crate::mapped_file::MappedFile;
use crate::regular_file::OpenError;

/// Faults of a GGUF file.
#[derive(Debug, Error)]
pub enum GgufError {
    #[error(transparent)]
    Open(#[from] OpenError),

    #[error("{}: not a GGUF file (its first bytes are not \"GGUF\")", path.display())]
    Magic { path: PathBuf },

    #[error("{}: GGUF version {version} is not supported; supported are 2 and 3: convert it with current software", path.display())]
    Version { path: PathBuf, version: u32 },

    #[error("{}: the file is big-endian; convert it with llama.cpp's gguf_convert_endian.py", path.display())]
    BigEndian { path: PathBuf },

    #[error("{}: at offset {offset}: {reason}; the file is cut off or forged: fetch it again", path.display())]
    Damaged { path: PathBuf, offset: usize, reason: String },

    #[error("{}: {reason}", path.display())]
    Split { path: PathBuf, reason: String },

    #[error("{}: the metadata key `{key}` is listed twice; fetch the file again", path.display())]
    DuplicateKey { path: PathBuf, key: String },

    #[error("{}: tensor `{name}`: {reason}; fetch the file again", path.display())]
    Tensor { path: PathBuf, name: String, reason: String },

    #[error(
        "{}: tensor `{name}` has the type {type_name}, which is not supported; supported are F32, F16, BF16, Q8_0, \
         Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K and Q6_K: take another quantisation of the model",
        path.display()
    )]
    TensorType { path: PathBuf, name: String, type_name: String },

    #[error("{}: metadata `{key}`: {reason}", path.display())]
    Metadata { path: PathBuf, key: String, reason: String },

    #[error(
        "{}: unknown metadata key `{key}`; it could change the model's mathematics, so the file is refused",
        path.display()
    )]
    UnknownKey { path: PathBuf, key: String },
}

/// A tensor. The shape is in Hugging Face's order, which is the reverse of the file's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GgufTensor {
    pub format: Format,
    pub shape: Vec<usize>,
    /// Index of the tensor's file in [`GgufFile::parts`].
    pub part: usize,
    /// Byte range in that file.
    pub range: Range<usize>,
}

/// A GGUF model: a single file, or all parts of a split model.
#[derive(Debug)]
pub(crate) struct GgufFile {
    pub parts: Vec<MappedFile>,
    /// Offsets at which the tensor data of each part starts.
    pub data_starts: Vec<usize>,
    /// The metadata of the first part. The other parts have only tensors.
    pub metadata: BTreeMap<String, Value>,
    /// The byte ranges of the values, with their types, in the order of the first part.
    places: Vec<(String, Range<usize>)>,
    pub tensors: BTreeMap<String, GgufTensor>,
}

/// The type numbers of tensors.
pub(super) const TYPES: [(u32, Format); 11] = [
    (0, Format::F32),
    (1, Format::F16),
    (2, Format::Q4_0),
    (3, Format::Q4_1),
    (6, Format::Q5_0),
    (7, Format::Q5_1),
    (8, Format::Q8_0),
    (12, Format::Q4K),
    (13, Format::Q5K),
    (14, Format::Q6K),
    (30, Format::Bf16),
];

/// Alignment of tensor data in bytes, if `general.alignment` doesn't state another.
pub(super) const DEFAULT_ALIGNMENT: usize = 32;

/// Maximum number of tensors in a file. No model has as many.
const MAX_TENSORS: usize = 1 << 17;

impl GgufFile {
    /// Opens a file. If it is part of a split model, also opens the other parts.
    ///
    /// `check` is called with the metadata before the tensor types are checked. A model of an unknown family is therefore
    /// refused because of its family, not because of its quantisation.
    ///
    /// # Errors
    /// One variant of [`GgufError`] for each possible fault, and the errors of `check`.
    pub(crate) fn open(
        path: &Path,
        check: impl Fn(&Path, &BTreeMap<String, Value>) -> Result<(), GgufError>,
    ) -> Result<Self, GgufError> {
        let opened = open_headers(path)?;
        check(opened[0].0.path(), &opened[0].1.metadata)?;
        Self::of_parts(opened)
    }

    fn of_parts(opened: Vec<(MappedFile, Header)>) -> Result<Self, GgufError> {
        let (mut parts, mut data_starts) = (Vec::new(), Vec::new());
        let (mut first, mut tensors) = (None, BTreeMap::new());
        for (part, (file, header)) in opened.into_iter().enumerate() {
            for (name, tensor) in header.locate(part, &file)? {
                if tensors.insert(name.clone(), tensor).is_some() {
                    let path = file.path().to_owned();
                    return Err(GgufError::Tensor { path, name, reason: "another part holds it as well".to_owned() });
                }
            }
            data_starts.push(header.data_start);
            first.get_or_insert((header.metadata, header.places));
            parts.push(file);
        }
        let (metadata, places) = first.unwrap_or_default();
        Ok(Self { parts, data_starts, metadata, places, tensors })
    }

    /// The path of the first part.
    pub(crate) fn path(&self) -> &Path {
        self.parts[0].path()
    }

    /// The metadata whose keys start with `prefix`, unchanged and in the order of the file.
    pub(crate) fn stored_metadata(&self, prefix: &str) -> Metadata {
        let chosen = self.places.iter().filter(|(key, _)| key.starts_with(prefix));
        let stored = |range: &Range<usize>| MetadataValue::Stored(self.parts[0].slice(range).to_vec());
        chosen.map(|(key, range)| (key.clone(), stored(range))).collect()
    }

    /// `general.file_type`.
    pub(crate) fn file_type(&self) -> Option<u32> {
        self.metadata.get("general.file_type")?.as_u64()?.try_into().ok()
    }

    pub(crate) fn bytes(&self, tensor: &GgufTensor) -> &[u8] {
        self.parts[tensor.part].slice(&tensor.range)
    }
}

/// Opens a file, or all parts of a split model, and reads the headers without interpreting them.
///
/// # Errors
/// Those of [`GgufFile::open`], except for architectures and tensor types.
pub(crate) fn open_headers(path: &Path) -> Result<Vec<(MappedFile, Header)>, GgufError> {
    let open = |path: &Path| {
        let file = MappedFile::open(path)?;
        let header = Header::read(path, &file)?;
        Ok((file, header))
    };
    let (file, header) = open(path)?;
    match split::siblings(path, &header.metadata)? {
        None => Ok(vec![(file, header)]),
        Some(parts) => split::open(&parts, open),
    }
}

/// Everything in a file before the tensor data.
pub(crate) struct Header {
    pub(crate) version: u32,
    pub(crate) metadata: BTreeMap<String, Value>,
    /// See [`GgufFile::places`].
    places: Vec<(String, Range<usize>)>,
    pub(super) tensors: Vec<TensorInfo>,
    alignment: usize,
    data_start: usize,
}

impl Header {
    /// Reads and checks the header.
    fn read(path: &Path, bytes: &[u8]) -> Result<Self, GgufError> {
        let owned = || path.to_owned();
        let damaged = |fault: Fault| GgufError::Damaged { path: owned(), offset: fault.offset, reason: fault.reason };
        if !bytes.starts_with(b"GGUF") {
            return Err(GgufError::Magic { path: owned() });
        }
        let mut cursor = Cursor::new(bytes);
        cursor.take(4).map_err(damaged)?;
        let version = match cursor.u32().map_err(damaged)? {
            version @ (2 | 3) => version,
            version if matches!(version.swap_bytes(), 1..=3) => return Err(GgufError::BigEndian { path: owned() }),
            version => return Err(GgufError::Version { path: owned(), version }),
        };
        // Minimum bytes of a tensor: length of the name, number of dimensions, one dimension, type and offset. Minimum
        // bytes of a key: length, type and one byte of value.
        let tensor_count = cursor.count(32, MAX_TENSORS, "tensors").map_err(damaged)?;
        let key_count = cursor.count(13, 1 << 16, "metadata keys").map_err(damaged)?;

        let mut metadata = BTreeMap::new();
        let mut places = Vec::new();
        let mut budget = ELEMENT_BUDGET;
        for _ in 0..key_count {
            let key = cursor.string("a metadata key").map_err(damaged)?.to_owned();
            let start = cursor.offset();
            let value = Value::read(&mut cursor, &mut budget).map_err(damaged)?;
            places.push((key.clone(), start..cursor.offset()));
            if metadata.insert(key.clone(), value).is_some() {
                return Err(GgufError::DuplicateKey { path: owned(), key });
            }
        }
        let alignment = alignment(path, &metadata)?;

        let mut infos = Vec::new();
        for _ in 0..tensor_count {
            infos.push(TensorInfo::read(&mut cursor).map_err(damaged)?);
        }
        let data_start = cursor.offset().checked_next_multiple_of(alignment).filter(|start| *start <= bytes.len());
        let data_start = match data_start {
            Some(start) => start,
            None if infos.is_empty() => bytes.len(),
            None => return Err(damaged(cursor.fault("the tensors' data are missing"))),
        };
        Ok(Self { version, metadata, places, tensors: infos, alignment, data_start })
    }

    /// Checks the types, sizes and places of the tensors. `part` is the index of the file.
    fn locate(&self, part: usize, file: &MappedFile) -> Result<BTreeMap<String, GgufTensor>, GgufError> {
        let path = file.path();
        let mut tensors = BTreeMap::new();
        for info in &self.tensors {
            let name = info.name.clone();
            let tensor = info.locate(path, part, self.data_start, file.len(), self.alignment)?;
            if tensors.insert(name.clone(), tensor).is_some() {
                let reason = "it is listed twice".to_owned();
                return Err(GgufError::Tensor { path: path.to_owned(), name, reason });
            }
        }
        refuse_overlaps(path, tensors.iter().map(|(name, tensor)| (name.as_str(), tensor.range.clone())).collect())?;
        Ok(tensors)
    }

    /// The tensors of any type, in the order of the file.
    ///
    /// # Errors
    /// If a tensor's data leave the file or overlap another tensor's. Tensors of an unknown type have an unknown size,
    /// so only their beginning is known.
    pub(crate) fn listed(&self, file: &MappedFile) -> Result<Vec<ListedTensor>, GgufError> {
        let (mut listed, mut ranges) = (Vec::new(), Vec::new());
        for info in &self.tensors {
            let (tensor, range) = info.list(file.path(), self.data_start, file.len(), self.alignment)?;
            ranges.extend(range.map(|range| (info.name.as_str(), range)));
            listed.push(tensor);
        }
        refuse_overlaps(file.path(), ranges)?;
        Ok(listed)
    }
}

fn alignment(path: &Path, metadata: &BTreeMap<String, Value>) -> Result<usize, GgufError> {
    const KEY: &str = "general.alignment";
    let Some(value) = metadata.get(KEY) else { return Ok(DEFAULT_ALIGNMENT) };
    match value.as_u64() {
        Some(alignment) if alignment.is_power_of_two() && alignment <= 1 << 20 => Ok(alignment as usize),
        _ => Err(GgufError::Metadata {
            path: path.to_owned(),
            key: KEY.to_owned(),
            reason: "it must be a power of two up to 2^20".to_owned(),
        }),
    }
}

/// A tensor of any type. The shape is in Hugging Face's order.
pub(crate) struct ListedTensor {
    pub(crate) name: String,
    pub(crate) type_name: String,
    pub(crate) shape: Vec<usize>,
    /// `None` if the type is unknown.
    pub(crate) bytes: Option<usize>,
}

pub(super) struct TensorInfo {
    name: String,
    /// In the file's order: the fastest varying dimension first.
    dims: Vec<u64>,
    kind: u32,
    offset: u64,
}

impl TensorInfo {
    fn read(cursor: &mut Cursor<'_>) -> Result<Self, Fault> {
        let name = cursor.string("a tensor's name")?.to_owned();
        let count = cursor.u32()?;
        if !(1..=4).contains(&count) {
            return Err(cursor.fault(format!("tensor `{name}` has {count} dimensions, where 1 to 4 are possible")));
        }
        let dims = (0..count).map(|_| cursor.u64()).collect::<Result<_, _>>()?;
        Ok(Self { name, dims, kind: cursor.u32()?, offset: cursor.u64()? })
    }

    fn locate(
        &self,
        path: &Path,
        part: usize,
        data_start: usize,
        file_len: usize,
        alignment: usize,
    ) -> Result<GgufTensor, GgufError> {
        let Some((_, format)) = TYPES.iter().find(|(kind, _)| *kind == self.kind) else {
            let type_name = other_type(self.kind).map_or_else(|| self.unknown_type(), |other| other.name.to_owned());
            return Err(GgufError::TensorType { path: path.to_owned(), name: self.name.clone(), type_name });
        };
        let sized = self.shape().and_then(|shape| {
            let (cols, outer) = shape.split_last()?;
            let rows = outer.iter().try_fold(1usize, |product, dim| product.checked_mul(*dim))?;
            let bytes = checked_byte_len(*format, rows, *cols)?;
            Some((shape, bytes))
        });
        let Some((shape, bytes)) = sized else {
            return Err(self.fault(path, format!("dimensions {:?} can't be stored as {format}", self.dims)));
        };
        let range = self.range(path, data_start, file_len, alignment, bytes)?;
        Ok(GgufTensor { format: *format, shape, part, range })
    }

    /// The tensor as it is listed, and its byte range if the size of its type is known.
    fn list(
        &self,
        path: &Path,
        data_start: usize,
        file_len: usize,
        alignment: usize,
    ) -> Result<(ListedTensor, Option<Range<usize>>), GgufError> {
        let known = TYPES.iter().find(|(kind, _)| *kind == self.kind).map(|(_, format)| *format);
        let other = other_type(self.kind);
        let (type_name, block) = match (known, other) {
            (Some(format), _) => (format.name().to_owned(), Some((format.block_len(), format.block_bytes()))),
            (None, Some(other)) => (other.name.to_owned(), Some((other.elements, other.bytes))),
            (None, None) => (self.unknown_type(), None),
        };
        let misfit = || self.fault(path, format!("dimensions {:?} can't be stored as {type_name}", self.dims));
        let shape = self.shape().ok_or_else(misfit)?;
        let elements = shape.iter().try_fold(1usize, |product, dim| product.checked_mul(*dim)).ok_or_else(misfit)?;
        let cols = shape.last().copied().unwrap_or_default();
        let bytes = match block {
            Some((len, _)) if !cols.is_multiple_of(len) => return Err(misfit()),
            Some((len, bytes)) => Some((elements / len).checked_mul(bytes).ok_or_else(misfit)?),
            None => None,
        };
        let range = bytes.map(|bytes| self.range(path, data_start, file_len, alignment, bytes)).transpose()?;
        Ok((ListedTensor { name: self.name.clone(), type_name, shape, bytes }, range))
    }

    /// In Hugging Face's order.
    fn shape(&self) -> Option<Vec<usize>> {
        self.dims.iter().rev().map(|dim| usize::try_from(*dim).ok()).collect()
    }

    fn unknown_type(&self) -> String {
        format!("number {}", self.kind)
    }

    fn fault(&self, path: &Path, reason: String) -> GgufError {
        GgufError::Tensor { path: path.to_owned(), name: self.name.clone(), reason }
    }

    /// The place of `bytes` bytes in the file.
    fn range(
        &self,
        path: &Path,
        data_start: usize,
        file_len: usize,
        alignment: usize,
        bytes: usize,
    ) -> Result<Range<usize>, GgufError> {
        let fault = |reason| self.fault(path, reason);
        if !self.offset.is_multiple_of(alignment as u64) {
            return Err(fault(format!("its offset {} is not a multiple of {alignment}", self.offset)));
        }
        let start = usize::try_from(self.offset).ok().and_then(|offset| data_start.checked_add(offset));
        let range =
            start.and_then(|start| Some(start..start.checked_add(bytes)?)).filter(|range| range.end <= file_len);
        range.ok_or_else(|| {
            fault(format!(
                "its {bytes} bytes at offset {} of the data section (which begins at {data_start}) leave the file of \
                 {file_len} bytes",
                self.offset
            ))
        })
    }
}

fn refuse_overlaps(path: &Path, mut order: Vec<(&str, Range<usize>)>) -> Result<(), GgufError> {
    order.sort_by_key(|(_, range)| (range.start, range.end));
    for pair in order.windows(2) {
        let [(first, a), (second, b)] = pair else { unreachable!("windows of two") };
        if b.start < a.end {
            let reason = format!("it overlaps `{first}`");
            return Err(GgufError::Tensor { path: path.to_owned(), name: (*second).to_owned(), reason });
        }
    }
    Ok(())
}
