//! Opens files that a user or another file names. Accepts only regular files, and limits the size of text files.
//!
//! Responsible for: refusing FIFOs, sockets, devices and pickles before anything is read.
//! Must not depend on: any file format except the first bytes of a pickle.

use std::fs::{self, File, FileType};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why a file could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    #[error("{path}: {source}", path = path.display())]
    Io { path: PathBuf, source: io::Error },

    #[error("{path}: is {kind}, not a regular file; name a file that lies on a disk", path = path.display())]
    NotRegular { path: PathBuf, kind: &'static str },

    #[error("{path}: {size} bytes are too many for this file (at most {limit})", path = path.display())]
    TooLarge { path: PathBuf, size: u64, limit: u64 },

    #[error(
        "{path}: {what}; loading it could execute code, so it is refused. Convert it in a sandbox that you trust: \
         in Python, transformers' `AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(OUT)` writes safetensors",
        path = path.display()
    )]
    Pickle { path: PathBuf, what: &'static str },
}

/// Maximum size in bytes of a `tokenizer.json`, chat template or shard index. The largest known one has about 35 MB.
const TEXT_LIMIT: u64 = 256 << 20;
/// Maximum size in bytes of a configuration. A parsed JSON value takes up to 48 bytes for 2 bytes of text, so a parsed
/// configuration takes at most about 100 MiB. Known ones have at most 1.2 MB (Gemma 3's `tokenizer_config.json`).
pub(crate) const CONFIG_LIMIT: u64 = 4 << 20;

/// File extensions of pickled weights.
const PICKLE_EXTENSIONS: [&str; 7] = ["bin", "pt", "pth", "ckpt", "pkl", "pickle", "joblib"];

/// Opens a regular file for reading, and returns its length.
///
/// The file type is checked before the file is opened, because opening a FIFO would block until a writer opens it.
///
/// # Errors
/// [`OpenError::Io`] and [`OpenError::NotRegular`].
pub(crate) fn open(path: &Path) -> Result<(File, u64), OpenError> {
    let io = |source| OpenError::Io { path: path.to_owned(), source };
    let metadata = fs::metadata(path).map_err(io)?;
    if metadata.is_dir() {
        return Err(io(io::Error::from(io::ErrorKind::IsADirectory)));
    }
    if !metadata.is_file() {
        return Err(OpenError::NotRegular { path: path.to_owned(), kind: kind(metadata.file_type()) });
    }
    Ok((File::open(path).map_err(io)?, metadata.len()))
}

#[cfg(unix)]
fn kind(file: FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt as _;
    if file.is_fifo() {
        "a named pipe (FIFO)"
    } else if file.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

#[cfg(not(unix))]
fn kind(_: FileType) -> &'static str {
    "something else"
}

/// Reads a text file of a model: shard index, tokenizer, chat template. At most 256 MiB.
///
/// # Errors
/// If the file can't be read, is not a regular file, or is too large.
pub fn read_text(path: &Path) -> Result<Vec<u8>, OpenError> {
    read_up_to(path, TEXT_LIMIT)
}

pub(crate) fn read_up_to(path: &Path, limit: u64) -> Result<Vec<u8>, OpenError> {
    let io = |source: io::Error| OpenError::Io { path: path.to_owned(), source };
    let (file, size) = open(path)?;
    if size > limit {
        return Err(OpenError::TooLarge { path: path.to_owned(), size, limit });
    }
    let mut bytes = Vec::with_capacity(size as usize);
    file.take(limit).read_to_end(&mut bytes).map_err(io)?;
    Ok(bytes)
}

/// Refuses a pickle by its extension, without opening the file.
///
/// # Errors
/// [`OpenError::Pickle`].
pub(crate) fn refuse_pickle_name(path: &Path) -> Result<(), OpenError> {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    match PICKLE_EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known)) {
        true => Err(OpenError::Pickle { path: path.to_owned(), what: "its name has the extension of a pickle" }),
        false => Ok(()),
    }
}

/// Refuses a pickle by its content. PyTorch writes either a bare pickle (from protocol 2 on, it starts with 0x80 and
/// the protocol number) or a zip archive with a pickle in it. A safetensors file may start with the same two bytes,
/// because it starts with the length of its header. In that case, a `{` follows the length.
///
/// # Errors
/// [`OpenError::Pickle`].
pub(crate) fn refuse_pickle_content(path: &Path, bytes: &[u8]) -> Result<(), OpenError> {
    let what = if bytes.starts_with(b"PK\x03\x04") {
        "its content is a zip archive as PyTorch writes it"
    } else if matches!(bytes, [0x80, 2..=5, ..]) && bytes.get(8) != Some(&b'{') {
        "its content is a pickle"
    } else {
        return Ok(());
    };
    Err(OpenError::Pickle { path: path.to_owned(), what })
}
