//! What is in a weight file: tensors, metadata and lineage, as plain data.
//!
//! Responsible for: finding out what a path holds, and reading only headers and metadata. Files of families and types
//! that can't be trained are shown too.
//! Must not depend on: what the tensors mean, the terminal.

mod directory;
mod gguf;
mod imatrix;
mod safetensors;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};
use thiserror::Error;
use tonfall_durable::{hash_file, hex};

use crate::export::PREFIX;
use crate::gguf::GgufError;
use crate::mapped_file::MappedFile;
use crate::regular_file::OpenError;
use crate::safetensors_file::SafetensorsError;
use crate::weight_files::WeightFilesError;

/// Why a path can't be shown.
#[derive(Debug, Error)]
pub enum InspectError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Safetensors(#[from] SafetensorsError),
    #[error(transparent)]
    WeightFiles(#[from] WeightFilesError),
    #[error(transparent)]
    Gguf(#[from] GgufError),

    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },

    #[error(
        "{}: neither a safetensors nor a GGUF file, and no imatrix; name one of these, a model's directory or an \
         adapter's directory",
        path.display()
    )]
    UnknownFile { path: PathBuf },

    #[error(
        "{}: holds no weights that are known here (adapter_config.json, model.safetensors, \
         model.safetensors.index.json, or one GGUF model); name the file itself",
        path.display()
    )]
    UnknownDirectory { path: PathBuf },

    #[error("{}: holds {count} GGUF models; name one of them", path.display())]
    SeveralModels { path: PathBuf, count: usize },

    #[error("{}: {reason}; fetch the file again", path.display())]
    Config { path: PathBuf, reason: String },

    #[error("{}: at offset {offset}: {reason}; the file is cut off or no imatrix: make it again", path.display())]
    Imatrix { path: PathBuf, offset: usize, reason: String },
}

/// What a path holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A single safetensors file.
    Safetensors,
    /// A Hugging Face directory.
    HuggingFaceModel,
    /// A directory with a PEFT adapter.
    PeftAdapter,
    GgufModel,
    GgufAdapter,
    GgufImatrix,
    /// A GGUF file of another `general.type`, such as a vocabulary or a projector.
    GgufOther,
    /// llama.cpp's older binary importance matrix.
    ImatrixDat,
}

impl Kind {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Safetensors => "safetensors file",
            Self::HuggingFaceModel => "Hugging Face model",
            Self::PeftAdapter => "PEFT adapter",
            Self::GgufModel => "GGUF model",
            Self::GgufAdapter => "GGUF adapter",
            Self::GgufImatrix => "importance matrix (GGUF)",
            Self::GgufOther => "GGUF file",
            Self::ImatrixDat => "importance matrix (imatrix.dat)",
        }
    }
}

/// A file that was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileInfo {
    pub path: PathBuf,
    pub bytes: u64,
    /// Lower-case hexadecimal; `None` unless hashes were asked for.
    pub sha256: Option<String>,
}

/// A tensor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TensorInfo {
    pub name: String,
    /// As the format spells it: `BF16`, `Q4_K`, …; `number 77` for an unknown type of a GGUF file.
    #[serde(rename = "type")]
    pub type_name: String,
    /// The outermost dimension first, as in PyTorch. GGUF files store the reverse.
    pub shape: Vec<usize>,
    /// `None` if the type is unknown.
    pub bytes: Option<u64>,
    /// Index in [`Inspection::files`].
    pub file: usize,
}

impl TensorInfo {
    /// The product of the shape. For packed types of safetensors files, this is the number of stored integers.
    #[must_use]
    pub fn elements(&self) -> u64 {
        self.shape.iter().fold(1, |product: u64, dim| product.saturating_mul(*dim as u64))
    }
}

/// The tensors of one type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TypeTotal {
    #[serde(rename = "type")]
    pub type_name: String,
    pub tensors: usize,
    pub elements: u64,
    /// Without tensors of unknown size.
    pub bytes: u64,
}

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
pub enum MetaValue {
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    /// An array: the number of its elements, and the first of them.
    Array {
        count: usize,
        first: Vec<MetaValue>,
    },
}

impl Serialize for MetaValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Bool(value) => serializer.serialize_bool(*value),
            // Values come from 64-bit integers.
            Self::Integer(value) => match i64::try_from(*value) {
                Ok(value) => serializer.serialize_i64(value),
                Err(_) => serializer.serialize_u64(u64::try_from(*value).unwrap_or(u64::MAX)),
            },
            Self::Float(value) if value.is_finite() => serializer.serialize_f64(*value),
            // JSON has no such numbers.
            Self::Float(value) => serializer.serialize_str(&value.to_string()),
            Self::Text(value) => serializer.serialize_str(value),
            Self::Array { count, first } => {
                let mut map = serializer.serialize_map(Some(2))?;
                map.serialize_entry("count", count)?;
                map.serialize_entry("first", first)?;
                map.end()
            }
        }
    }
}

impl fmt::Display for MetaValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => value.fmt(f),
            Self::Integer(value) => value.fmt(f),
            Self::Float(value) => value.fmt(f),
            Self::Text(value) => f.write_str(value),
            Self::Array { count, first } => {
                write!(f, "{count} element{}", if *count == 1 { "" } else { "s" })?;
                for (number, value) in first.iter().enumerate() {
                    f.write_str(if number == 0 { ": " } else { ", " })?;
                    match value {
                        Self::Text(text) => write!(f, "{text:?}")?,
                        other => other.fmt(f)?,
                    }
                }
                f.write_str(if first.len() < *count && !first.is_empty() { ", …" } else { "" })
            }
        }
    }
}

/// What a path holds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Inspection {
    pub kind: Kind,
    /// Format and version: `safetensors`, `GGUF 3`, `imatrix.dat`.
    pub format: String,
    pub files: Vec<FileInfo>,
    /// Parameters of a model or an adapter. `None` for an importance matrix, and if weights are packed in a way that is
    /// not known here.
    pub parameters: Option<u64>,
    pub totals: Vec<TypeTotal>,
    /// Metadata keys that begin with `tonfall.`.
    pub lineage: BTreeMap<String, MetaValue>,
    /// All other metadata.
    pub metadata: BTreeMap<String, MetaValue>,
    /// `config.json` of a model's directory, `adapter_config.json` of an adapter's directory.
    pub config: Option<Map<String, Value>>,
    /// In the order of the files.
    pub tensors: Vec<TensorInfo>,
}

impl Inspection {
    /// Sums up tensors and sets lineage apart.
    fn new(
        kind: Kind,
        format: String,
        files: Vec<FileInfo>,
        metadata: BTreeMap<String, MetaValue>,
        tensors: Vec<TensorInfo>,
    ) -> Self {
        let (lineage, metadata) = metadata.into_iter().partition(|(key, _)| key.starts_with(PREFIX));
        let mut totals: BTreeMap<&str, (usize, u64, u64)> = BTreeMap::new();
        for tensor in &tensors {
            let (count, elements, bytes) = totals.entry(&tensor.type_name).or_default();
            *count += 1;
            *elements = elements.saturating_add(tensor.elements());
            *bytes = bytes.saturating_add(tensor.bytes.unwrap_or_default());
        }
        let total = |(name, (tensors, elements, bytes)): (&str, _)| TypeTotal {
            type_name: name.to_owned(),
            tensors,
            elements,
            bytes,
        };
        let mut totals: Vec<TypeTotal> = totals.into_iter().map(total).collect();
        totals.sort_by_key(|total| std::cmp::Reverse(total.bytes));
        Self { kind, format, files, parameters: None, totals, lineage, metadata, config: None, tensors }
    }

    /// The bytes of all files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

/// Reads what a file or a directory holds. With `hash`, all files are read completely and hashed.
///
/// # Errors
/// If the path holds nothing that is known here, or if a file is damaged, a pickle or unreadable.
pub fn inspect(path: &Path, hash: bool) -> Result<Inspection, InspectError> {
    let metadata = std::fs::metadata(path).map_err(|source| InspectError::Io { path: path.to_owned(), source })?;
    let mut found = match metadata.is_dir() {
        true => directory::inspect(path)?,
        false => file(path)?,
    };
    if hash {
        for file in &mut found.files {
            let (_, digest) =
                hash_file(&file.path).map_err(|source| InspectError::Io { path: file.path.clone(), source })?;
            file.sha256 = Some(hex(&digest));
        }
    }
    Ok(found)
}

/// By the content. The extension decides only which error a damaged file gets.
fn file(path: &Path) -> Result<Inspection, InspectError> {
    let has_extension = |extension: &str| path.extension().is_some_and(|found| found.eq_ignore_ascii_case(extension));
    if path.file_name().is_some_and(|name| name == crate::weight_files::INDEX_FILE) {
        return directory::inspect(path.parent().unwrap_or(Path::new(".")));
    }
    let mapped = MappedFile::open(path)?;
    if mapped.starts_with(b"GGUF") || has_extension("gguf") {
        drop(mapped);
        gguf::inspect(path)
    } else if mapped.get(8) == Some(&b'{') || has_extension("safetensors") {
        safetensors::inspect(path, &mapped)
    } else if has_extension("dat") || has_extension("imatrix") {
        imatrix::inspect(path, &mapped)
    } else {
        Err(InspectError::UnknownFile { path: path.to_owned() })
    }
}

fn file_info(path: &Path, mapped: &MappedFile) -> FileInfo {
    FileInfo { path: path.to_owned(), bytes: mapped.len() as u64, sha256: None }
}
