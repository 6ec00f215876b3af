//! Reads safetensors files. The header is checked completely before any value is used.
//!
//! Responsible for: the tensors of a file, and the places of their bytes. Source: the format's description in the
//! safetensors repository (8 bytes for the length of the header, a JSON header, and a data section without gaps).
//! Must not depend on: the meaning of the tensors.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use thiserror::Error;
use tonfall_blocks::Format;

use crate::bounded_json::{BoundedList, BoundedMap};
use crate::mapped_file::MappedFile;
use crate::regular_file::OpenError;

/// Faults of a safetensors file.
#[derive(Debug, Error)]
pub enum SafetensorsError {
    #[error(transparent)]
    Open(#[from] OpenError),

    #[error("{}: {size} bytes are too few for a safetensors file; it was cut off: fetch it again", path.display())]
    TooShort { path: PathBuf, size: usize },

    #[error(
        "{}: the header length at offset 0 is {claimed} bytes, but only {available} follow; the file was cut off or is \
         no safetensors file: fetch it again",
        path.display()
    )]
    HeaderLength { path: PathBuf, claimed: u64, available: usize },

    #[error("{}: the header at offset 8 can't be read: {reason}; fetch the file again", path.display())]
    Header { path: PathBuf, reason: String },

    #[error("{}: tensor `{name}` has the unknown dtype {dtype}; convert the model with current software", path.display())]
    Dtype { path: PathBuf, name: String, dtype: String },

    #[error(
        "{}: tensor `{name}` claims bytes {begin} … {end} of a data section of {len} bytes that starts at offset \
         {data_start}; the file was cut off or forged: fetch it again",
        path.display()
    )]
    OutOfRange { path: PathBuf, name: String, begin: u64, end: u64, len: usize, data_start: usize },

    #[error(
        "{}: tensor `{name}` begins at byte {begin} of the data section instead of {expected}: tensors overlap or \
         leave a gap; the file is forged or damaged: fetch it again",
        path.display()
    )]
    NotContiguous { path: PathBuf, name: String, begin: usize, expected: usize },

    #[error("{}: {extra} bytes at offset {offset} belong to no tensor; fetch the file again", path.display())]
    Trailing { path: PathBuf, offset: usize, extra: usize },

    #[error(
        "{}: tensor `{name}` of shape {shape:?} and dtype {dtype:?} doesn't take {bytes} bytes; fetch the file again",
        path.display()
    )]
    Size { path: PathBuf, name: String, shape: Vec<usize>, dtype: Dtype, bytes: usize },
}

/// The element types of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    Bool,
    U8,
    I8,
    F8E4M3,
    F8E5M2,
    I16,
    U16,
    F16,
    Bf16,
    I32,
    U32,
    F32,
    I64,
    U64,
    F64,
}

const DTYPES: [(&str, Dtype, usize); 15] = [
    ("BOOL", Dtype::Bool, 1),
    ("U8", Dtype::U8, 1),
    ("I8", Dtype::I8, 1),
    ("F8_E4M3", Dtype::F8E4M3, 1),
    ("F8_E5M2", Dtype::F8E5M2, 1),
    ("I16", Dtype::I16, 2),
    ("U16", Dtype::U16, 2),
    ("F16", Dtype::F16, 2),
    ("BF16", Dtype::Bf16, 2),
    ("I32", Dtype::I32, 4),
    ("U32", Dtype::U32, 4),
    ("F32", Dtype::F32, 4),
    ("I64", Dtype::I64, 8),
    ("U64", Dtype::U64, 8),
    ("F64", Dtype::F64, 8),
];

impl Dtype {
    /// The format of a dense tensor. `None` for dtypes that no weight has.
    pub(crate) fn dense_format(self) -> Option<Format> {
        match self {
            Self::F32 => Some(Format::F32),
            Self::F16 => Some(Format::F16),
            Self::Bf16 => Some(Format::Bf16),
            _ => None,
        }
    }

    /// The name in the header.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().0
    }

    /// Bytes of one element.
    #[must_use]
    pub fn size(self) -> usize {
        self.row().2
    }

    fn row(self) -> &'static (&'static str, Self, usize) {
        DTYPES.iter().find(|row| row.1 == self).unwrap_or_else(|| unreachable!("every dtype has a row"))
    }
}

/// One tensor of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TensorEntry {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// Byte range in the file.
    pub range: Range<usize>,
}

/// A memory-mapped file with a checked header.
#[derive(Debug)]
pub struct SafetensorsFile {
    pub(crate) file: MappedFile,
    /// The entry `__metadata__`.
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) tensors: BTreeMap<String, TensorEntry>,
}

impl SafetensorsFile {
    /// # Errors
    /// One variant of [`SafetensorsError`] for each possible fault.
    pub fn open(path: &Path) -> Result<Self, SafetensorsError> {
        let file = MappedFile::open(path)?;
        let (metadata, tensors) = read_header(path, &file)?;
        Ok(Self { file, metadata, tensors })
    }

    /// Number of tensors.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Dtype, shape and little-endian bytes of a tensor.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<(Dtype, &[usize], &[u8])> {
        self.tensors.get(name).map(|entry| (entry.dtype, &entry.shape[..], self.bytes(entry)))
    }

    /// Releases the memory pages that were read so far. The data stays readable.
    pub fn release_pages(&self) {
        self.file.release_pages();
    }

    /// The bytes of a tensor of this file.
    #[must_use]
    pub(crate) fn bytes(&self, entry: &TensorEntry) -> &[u8] {
        self.file.slice(&entry.range)
    }

    /// Tensor names, in the order of the file.
    #[must_use]
    pub(crate) fn names_in_file_order(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.tensors.iter().collect();
        names.sort_by_key(|(_, entry)| entry.range.start);
        names.into_iter().map(|(name, _)| name.as_str()).collect()
    }
}

type Tables = (BTreeMap<String, String>, BTreeMap<String, TensorEntry>);

/// Maximum number of tensors in a file. No model has as many in one file. A forged header with this number takes less
/// than 64 MiB of memory in addition to its own size.
const MAX_TENSORS: usize = 1 << 17;
const MAX_METADATA: usize = 1 << 16;
const MAX_DIMENSIONS: usize = 16;

/// Checks a whole file. Visible in the crate for the tests with random bytes.
pub(crate) fn read_header(path: &Path, bytes: &[u8]) -> Result<Tables, SafetensorsError> {
    let Parsed { metadata, tensors, data_start } = parse(path, bytes, Unknown::Refuse)?;
    let entry = |(name, raw): (String, RawTensor)| {
        let Spelling::Known(dtype) = raw.dtype else { unreachable!("unknown dtypes were refused") };
        let [begin, end] = raw.data_offsets.map(|offset| data_start + offset as usize);
        (name, TensorEntry { dtype, shape: raw.shape.0, range: begin..end })
    };
    Ok((metadata, tensors.into_iter().map(entry).collect()))
}

/// A tensor whose dtype may be unknown.
pub(crate) struct ListedTensor {
    pub(crate) name: String,
    pub(crate) dtype: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: usize,
}

/// The metadata and the tensors of any dtype, in the order of the file.
///
/// # Errors
/// Those of [`SafetensorsFile::open`], except for unknown dtypes.
pub(crate) fn list(
    path: &Path,
    bytes: &[u8],
) -> Result<(BTreeMap<String, String>, Vec<ListedTensor>), SafetensorsError> {
    let Parsed { metadata, tensors, .. } = parse(path, bytes, Unknown::Accept)?;
    let listed = |(name, raw): (String, RawTensor)| {
        let dtype = match raw.dtype {
            Spelling::Known(dtype) => dtype.name().to_owned(),
            Spelling::Unknown(dtype) => dtype,
        };
        let [begin, end] = raw.data_offsets;
        ListedTensor { name, dtype, shape: raw.shape.0, bytes: (end - begin) as usize }
    };
    Ok((metadata, tensors.into_iter().map(listed).collect()))
}

/// What to do with a dtype that is not in the table.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unknown {
    Refuse,
    Accept,
}

/// A checked header. The tensors are in the order of their data.
struct Parsed {
    metadata: BTreeMap<String, String>,
    tensors: Vec<(String, RawTensor)>,
    /// Offset of the data section.
    data_start: usize,
}

fn parse(path: &Path, bytes: &[u8], unknown: Unknown) -> Result<Parsed, SafetensorsError> {
    let path = || path.to_owned();
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(SafetensorsError::TooShort { path: path(), size: bytes.len() });
    };
    let claimed = u64::from_le_bytes(*length);
    let Some(header) = usize::try_from(claimed).ok().and_then(|length| rest.get(..length)) else {
        return Err(SafetensorsError::HeaderLength { path: path(), claimed, available: rest.len() });
    };
    let header_error = |reason: String| SafetensorsError::Header { path: path(), reason };
    let text = std::str::from_utf8(header).map_err(|error| header_error(error.to_string()))?;
    let Header { metadata, mut tensors } =
        serde_json::from_str(text).map_err(|error| header_error(error.to_string()))?;

    tensors.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    if let Some(pair) = tensors.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(header_error(format!("`{}` is listed twice", pair[0].0)));
    }
    let data_start = 8 + header.len();
    let data_len = bytes.len() - data_start;
    for (name, raw) in &tensors {
        let [begin, end] = raw.data_offsets;
        let within = |offset: u64| usize::try_from(offset).ok().filter(|offset| *offset <= data_len);
        let (Some(first), Some(last)) = (within(begin), within(end).filter(|_| begin <= end)) else {
            let name = name.clone();
            return Err(SafetensorsError::OutOfRange { path: path(), name, begin, end, len: data_len, data_start });
        };
        let dtype = match &raw.dtype {
            Spelling::Known(dtype) => dtype,
            Spelling::Unknown(_) if unknown == Unknown::Accept => continue,
            Spelling::Unknown(dtype) => {
                return Err(SafetensorsError::Dtype { path: path(), name: name.clone(), dtype: dtype.clone() });
            }
        };
        let needed = raw.shape.0.iter().try_fold(dtype.size(), |product, dim| product.checked_mul(*dim));
        if needed != Some(last - first) {
            let (name, shape) = (name.clone(), raw.shape.0.clone());
            return Err(SafetensorsError::Size { path: path(), name, shape, dtype: *dtype, bytes: last - first });
        }
    }

    tensors.sort_unstable_by_key(|(_, raw)| raw.data_offsets);
    let mut expected = 0;
    for (name, raw) in &tensors {
        let [begin, end] = raw.data_offsets.map(|offset| offset as usize);
        if begin != expected {
            return Err(SafetensorsError::NotContiguous { path: path(), name: name.clone(), begin, expected });
        }
        expected = end;
    }
    if expected != data_len {
        let (offset, extra) = (data_start + expected, data_len - expected);
        return Err(SafetensorsError::Trailing { path: path(), offset, extra });
    }
    Ok(Parsed { metadata, tensors, data_start })
}

/// The header, in the order of the file. A list, because a map would hide duplicate names.
struct Header {
    metadata: BTreeMap<String, String>,
    tensors: Vec<(String, RawTensor)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTensor {
    dtype: Spelling,
    shape: BoundedList<usize, MAX_DIMENSIONS>,
    data_offsets: [u64; 2],
}

/// The dtype in a header. Known dtypes take no heap memory.
enum Spelling {
    Known(Dtype),
    Unknown(String),
}

impl<'de> Deserialize<'de> for Spelling {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        Ok(match DTYPES.iter().find(|row| row.0 == text) {
            Some((_, dtype, _)) => Self::Known(*dtype),
            None => Self::Unknown(text.into_owned()),
        })
    }
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut metadata: Option<BoundedMap<MAX_METADATA>> = None;
                let mut tensors = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name != "__metadata__" {
                        tensors.push((name, map.next_value()?));
                    } else if metadata.replace(map.next_value()?).is_some() {
                        return Err(A::Error::custom("`__metadata__` is listed twice"));
                    }
                    if tensors.len() > MAX_TENSORS {
                        return Err(A::Error::custom(format!("it lists more than {MAX_TENSORS} tensors")));
                    }
                }
                Ok(Header { metadata: metadata.unwrap_or_default().0, tensors })
            }
        }
        deserializer.deserialize_map(Entries)
    }
}
