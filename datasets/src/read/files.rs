//! One data file: its kind, its compression, and how to open it.
//!
//! Responsible for: refusing unsupported files, and skipping a byte order mark at the start of a text.
//! [`crate::read::folder`] decides which files a source has. Must not depend on: the content of files.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use crate::error::DataError;

/// A data file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DataFile {
    pub(crate) path: PathBuf,
    pub(crate) kind: Kind,
    compression: Compression,
    /// Size on disk.
    pub(crate) bytes: u64,
    /// Whether the file was found in a folder or by a pattern, and not named by the recipe. Such a file may be empty.
    pub(crate) found: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One JSON object per line, or one list of objects.
    Json,
    Parquet,
    /// The delimiter is the most frequent one in the header: a comma, a semicolon or a tab.
    Csv,
    Tsv,
    /// TermBase eXchange, ISO 30042.
    Tbx,
    /// The whole file is one text.
    Text,
}

impl Kind {
    /// Whether the file is a table. Cells of tables hold lists as text.
    pub(crate) fn is_table(self) -> bool {
        matches!(self, Self::Parquet | Self::Csv | Self::Tsv)
    }
}

const KINDS: &[(&str, Kind)] = &[
    ("jsonl", Kind::Json),
    ("jsonlines", Kind::Json),
    ("ndjson", Kind::Json),
    ("json", Kind::Json),
    ("parquet", Kind::Parquet),
    ("csv", Kind::Csv),
    ("tsv", Kind::Tsv),
    ("tbx", Kind::Tbx),
    ("txt", Kind::Text),
    ("md", Kind::Text),
];

/// Common kinds of files that are not supported, with advice how to convert them.
const OTHERS: &[(&[&str], &str)] = &[
    (&["xlsx", "xls", "xlsm", "ods", "numbers"], "a spreadsheet is not read; save the sheet as CSV (UTF-8)"),
    (
        &["arrow", "feather", "ipc"],
        "an Arrow file is not read; convert it: \
         python -c \"import datasets; datasets.Dataset.from_file('FILE.arrow').to_parquet('train.parquet')\"",
    ),
    (
        &["docx", "doc", "odt", "rtf", "pdf", "html", "htm", "epub"],
        "a document is not read; save it as plain text (.txt or .md)",
    ),
    (&["zip", "tar", "tgz", "7z", "rar"], "an archive is not read; unpack it and name the folder"),
    (&["bz2", "xz", "lz4", "br"], "this compression is not read; unpack the file, or pack it with gzip or zstd"),
    (&["db", "sqlite", "sqlite3", "duckdb"], "a database is not read; export the table as CSV or Parquet"),
    (
        &["pkl", "pickle", "pt", "pth", "bin", "npy", "npz"],
        "the file can hold code and is not read; save the rows as JSON lines or Parquet",
    ),
    (&["yaml", "yml", "toml", "xml"], "the format is not read; save the rows as JSON lines, CSV or Parquet"),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
    None,
    Gzip,
    Zstd,
}

impl DataFile {
    /// A file of a supported kind.
    ///
    /// # Errors
    /// If it doesn't exist, is not a regular file, or is of an unsupported kind.
    pub(crate) fn new(path: PathBuf) -> Result<Self, DataError> {
        let metadata = std::fs::metadata(&path).map_err(|source| DataError::Io { path: path.clone(), source })?;
        let unreadable = |path, why: &str| Err(DataError::Unreadable { path, why: why.to_owned() });
        // Data is read more than once, and opening a pipe would block until a writer opens it.
        if !metadata.is_file() {
            return unreadable(path, "a pipe or a device is no data file; write its content to a file first");
        }
        let Some((kind, compression)) = kind(&path) else {
            return match OTHERS
                .iter()
                .find(|(extensions, _)| extension(&path).is_some_and(|own| extensions.contains(&own.as_str())))
            {
                Some((_, why)) => unreadable(path, why),
                None => Err(DataError::UnknownKind { path }),
            };
        };
        if kind == Kind::Parquet && compression != Compression::None {
            return unreadable(path, "Parquet compresses its own columns; unpack the file");
        }
        Ok(Self { path, kind, compression, bytes: metadata.len(), found: false })
    }

    /// Like [`DataFile::new`], for a file that was found in a folder or by a pattern.
    pub(crate) fn found(path: PathBuf) -> Result<Self, DataError> {
        Ok(Self { found: true, ..Self::new(path)? })
    }

    /// Opens the file: decompressed, and without a byte order mark.
    pub(crate) fn open(&self) -> Result<Box<dyn BufRead + Send>, DataError> {
        let file = File::open(&self.path).map_err(|error| self.fault(error))?;
        let mut content: Box<dyn BufRead + Send> = match self.compression {
            Compression::None => Box::new(BufReader::with_capacity(1 << 18, file)),
            Compression::Gzip => Box::new(BufReader::with_capacity(1 << 18, flate2::read::MultiGzDecoder::new(file))),
            Compression::Zstd => {
                let decoder = zstd::stream::read::Decoder::new(file).map_err(|error| self.fault(error))?;
                Box::new(BufReader::with_capacity(1 << 18, decoder))
            }
        };
        if content.fill_buf().map_err(|error| self.fault(error))?.starts_with("\u{feff}".as_bytes()) {
            content.consume('\u{feff}'.len_utf8());
        }
        Ok(content)
    }

    /// The whole content as UTF-8 text, up to `limit` bytes.
    pub(crate) fn text(&self, limit: u64) -> Result<String, DataError> {
        String::from_utf8(self.content(limit)?).map_err(|error| {
            let offset = error.utf8_error().valid_up_to();
            let why = format!("the file is not UTF-8: invalid byte at offset {offset}; save it as UTF-8");
            DataError::Unreadable { path: self.path.clone(), why }
        })
    }

    /// The whole content, up to `limit` bytes.
    pub(crate) fn content(&self, limit: u64) -> Result<Vec<u8>, DataError> {
        let mut bytes = Vec::new();
        let read = self.open()?.take(limit + 1).read_to_end(&mut bytes);
        read.map_err(|error| self.fault(error))?;
        if bytes.len() as u64 > limit {
            let why = format!("the file is larger than {} MiB, and is read as a whole; split it", limit >> 20);
            return Err(DataError::Unreadable { path: self.path.clone(), why });
        }
        Ok(bytes)
    }

    /// Converts a read error. A damaged compressed file is distinguished from a failing disk.
    pub(crate) fn fault(&self, source: io::Error) -> DataError {
        let path = self.path.clone();
        // Errors of the operating system have an error number. Errors of the decompressors have none.
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

    /// Whether the file is not compressed.
    pub(crate) fn is_plain(&self) -> bool {
        self.compression == Compression::None
    }
}

fn extension(path: &Path) -> Option<String> {
    Some(path.extension()?.to_str()?.to_ascii_lowercase())
}

/// The kind that the file's name states, if it is supported.
pub(crate) fn kind_of(path: &Path) -> Option<Kind> {
    kind(path).map(|(kind, _)| kind)
}

fn kind(path: &Path) -> Option<(Kind, Compression)> {
    let (compression, inner) = match extension(path)?.as_str() {
        "gz" => (Compression::Gzip, path.with_extension("")),
        "zst" => (Compression::Zstd, path.with_extension("")),
        _ => (Compression::None, path.to_owned()),
    };
    let inner = extension(&inner)?;
    let (_, kind) = KINDS.iter().find(|(known, _)| *known == inner)?;
    Some((*kind, compression))
}
