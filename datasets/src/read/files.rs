//! Which files a source means, and how each is opened.
//!
//! Responsible for: files, directories and patterns → files in a fixed order; their kinds and compressions.
//! Must not depend on: what is in the files.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use crate::error::DataError;

/// A file with data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DataFile {
    pub(crate) path: PathBuf,
    pub(crate) kind: Kind,
    compression: Compression,
    /// On disk.
    pub(crate) bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One JSON object a line.
    JsonLines,
    /// A list of JSON objects.
    Json,
    Parquet,
    /// Comma, semicolon or tab, whichever the first line has most of.
    Csv,
    Tsv,
    /// TermBase eXchange, ISO 30042.
    Tbx,
    /// One text a file.
    Text,
}

const KINDS: &[(&str, Kind)] = &[
    ("jsonl", Kind::JsonLines),
    ("ndjson", Kind::JsonLines),
    ("json", Kind::Json),
    ("parquet", Kind::Parquet),
    ("csv", Kind::Csv),
    ("tsv", Kind::Tsv),
    ("tbx", Kind::Tbx),
    ("txt", Kind::Text),
    ("md", Kind::Text),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
    None,
    Gzip,
    Zstd,
}

impl DataFile {
    /// A file of a known kind.
    pub(crate) fn new(path: PathBuf) -> Result<Self, DataError> {
        let metadata = std::fs::metadata(&path).map_err(|source| DataError::Io { path: path.clone(), source })?;
        let Some((kind, compression)) = kind(&path) else { return Err(DataError::UnknownKind { path }) };
        if kind == Kind::Parquet && compression != Compression::None {
            let why = "Parquet compresses its own columns; unpack the file".to_owned();
            return Err(DataError::Unreadable { path, why });
        }
        Ok(Self { path, kind, compression, bytes: metadata.len() })
    }

    /// Its content, uncompressed.
    pub(crate) fn open(&self) -> Result<Box<dyn BufRead + Send>, DataError> {
        let file = File::open(&self.path).map_err(|error| self.fault(error))?;
        Ok(match self.compression {
            Compression::None => Box::new(BufReader::with_capacity(1 << 18, file)),
            Compression::Gzip => Box::new(BufReader::with_capacity(1 << 18, flate2::read::MultiGzDecoder::new(file))),
            Compression::Zstd => {
                let decoder = zstd::stream::read::Decoder::new(file).map_err(|error| self.fault(error))?;
                Box::new(BufReader::with_capacity(1 << 18, decoder))
            }
        })
    }

    /// Everything in it as text in UTF-8, up to `limit` bytes.
    pub(crate) fn text(&self, limit: u64) -> Result<String, DataError> {
        String::from_utf8(self.content(limit)?).map_err(|error| {
            let offset = error.utf8_error().valid_up_to();
            let why = format!("the file is not UTF-8: invalid byte at offset {offset}; save it as UTF-8");
            DataError::Unreadable { path: self.path.clone(), why }
        })
    }

    /// Everything in it, up to `limit` bytes.
    pub(crate) fn content(&self, limit: u64) -> Result<Vec<u8>, DataError> {
        let mut bytes = Vec::new();
        let read = io::Read::take(self.open()?, limit + 1).read_to_end(&mut bytes);
        read.map_err(|error| self.fault(error))?;
        if bytes.len() as u64 > limit {
            let why = format!("the file is larger than {} MiB, and is read as a whole; split it", limit >> 20);
            return Err(DataError::Unreadable { path: self.path.clone(), why });
        }
        Ok(bytes)
    }

    /// Why reading failed: a damaged archive is another fault than a disk that doesn't answer.
    pub(crate) fn fault(&self, source: io::Error) -> DataError {
        let path = self.path.clone();
        // The operating system's own errors have a number; those of the decoders don't.
        match (self.compression, source.raw_os_error()) {
            (Compression::Gzip, None) => {
                DataError::Unreadable { path, why: format!("damaged gzip ({source}); make it again with gzip") }
            }
            (Compression::Zstd, None) => {
                DataError::Unreadable { path, why: format!("damaged zstd ({source}); make it again with zstd") }
            }
            _ => DataError::Io { path, source },
        }
    }

    /// Whether the bytes on disk are those that are read.
    pub(crate) fn is_plain(&self) -> bool {
        self.compression == Compression::None
    }
}

use std::io::Read as _;

fn kind(path: &Path) -> Option<(Kind, Compression)> {
    let extension = |path: &Path| Some(path.extension()?.to_str()?.to_ascii_lowercase());
    let (compression, inner) = match extension(path)?.as_str() {
        "gz" => (Compression::Gzip, path.with_extension("")),
        "zst" => (Compression::Zstd, path.with_extension("")),
        _ => (Compression::None, path.to_owned()),
    };
    let inner = extension(&inner)?;
    let (_, kind) = KINDS.iter().find(|(known, _)| *known == inner)?;
    Some((*kind, compression))
}

/// The files that `patterns` mean, those of a directory or a pattern in the order of their names; and files of a
/// directory that are no data.
pub(crate) fn expand(patterns: &[PathBuf]) -> Result<(Vec<DataFile>, Vec<PathBuf>), DataError> {
    let (mut files, mut skipped) = (Vec::new(), Vec::new());
    for pattern in patterns {
        if pattern.is_dir() {
            let mut found = Vec::new();
            walk(pattern, &mut found)?;
            let (data, other): (Vec<PathBuf>, Vec<PathBuf>) = found.into_iter().partition(|path| kind(path).is_some());
            if data.is_empty() {
                return Err(DataError::NoFiles { pattern: pattern.clone() });
            }
            for path in data {
                files.push(DataFile::new(path)?);
            }
            skipped.extend(other);
        } else if pattern.exists() || !pattern.to_string_lossy().contains(['*', '?', '[']) {
            files.push(DataFile::new(pattern.clone())?);
        } else {
            let unreadable = |why: String| DataError::Unreadable { path: pattern.clone(), why };
            let matches = glob::glob(&pattern.to_string_lossy()).map_err(|error| unreadable(error.to_string()))?;
            let before = files.len();
            for path in matches {
                let path = path.map_err(|error| unreadable(error.to_string()))?;
                if path.is_file() {
                    files.push(DataFile::new(path)?);
                }
            }
            if files.len() == before {
                return Err(DataError::NoFiles { pattern: pattern.clone() });
            }
        }
    }
    Ok((files, skipped))
}

/// Files below `folder` in the order of their names. Links to directories are not followed, so that there are no cycles.
fn walk(folder: &Path, found: &mut Vec<PathBuf>) -> Result<(), DataError> {
    let io = |source| DataError::Io { path: folder.to_owned(), source };
    let mut entries = std::fs::read_dir(folder).map_err(io)?.collect::<Result<Vec<_>, _>>().map_err(io)?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        if entry.file_type().map_err(io)?.is_dir() {
            walk(&path, found)?;
        } else if path.is_file() {
            found.push(path);
        }
    }
    Ok(())
}
