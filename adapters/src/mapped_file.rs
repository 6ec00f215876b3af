//! Weight files mapped into memory, and the refusal of pickles.
//!
//! Responsible for: opening a file read-only and turning away everything that could execute code when it is loaded.
//! Must not depend on: any file format besides the first bytes of a pickle.

use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};

use memmap2::{Mmap, UncheckedAdvice};
use thiserror::Error;

/// Why a file could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    #[error("{path}: {source}", path = path.display())]
    Io { path: PathBuf, source: io::Error },

    #[error(
        "{path}: {what}; loading it could execute code, so it is refused. Convert it in a sandbox that you trust: \
         in Python, transformers' `AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(OUT)` writes safetensors",
        path = path.display()
    )]
    Pickle { path: PathBuf, what: &'static str },
}

/// Extensions under which pickled weights travel.
const PICKLE_EXTENSIONS: [&str; 7] = ["bin", "pt", "pth", "ckpt", "pkl", "pickle", "joblib"];

/// A read-only memory map. The file must not be shortened while it is open, as for every program that maps files.
#[derive(Debug)]
pub(crate) struct MappedFile {
    path: PathBuf,
    map: Mmap,
}

impl MappedFile {
    /// # Errors
    /// When the file can't be read, or is a pickle by name or by content.
    pub(crate) fn open(path: &Path) -> Result<Self, OpenError> {
        refuse_pickle_name(path)?;
        let io = |source| OpenError::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(io)?;
        if file.metadata().map_err(io)?.is_dir() {
            return Err(io(io::Error::from(io::ErrorKind::IsADirectory)));
        }
        #[expect(unsafe_code, reason = "memory maps have no safe constructor")]
        // SAFETY: the map is read-only and private to this process; every read goes through bounds-checked slices.
        // Another process that shortens the file meanwhile makes reads fail with SIGBUS, never read foreign memory.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        refuse_pickle_content(path, &map)?;
        Ok(Self { path: path.to_owned(), map })
    }

    #[must_use]
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the pages read so far back to the system, so that weights that were copied or converted do not count as this
    /// process's memory twice; what is read again comes from the file. A system that can't do it keeps them.
    pub(crate) fn release_pages(&self) {
        #[expect(unsafe_code, reason = "advice that drops pages has no safe form")]
        // SAFETY: the map is read-only and backed by a file, so dropped pages come back with the same bytes.
        let _ = unsafe { self.map.unchecked_advise(UncheckedAdvice::DontNeed) };
    }

    /// A part that was checked against the file's length when the file was opened.
    #[must_use]
    pub(crate) fn slice(&self, range: &Range<usize>) -> &[u8] {
        &self.map[range.clone()]
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

/// Refuses by extension, for files that need not be opened to be refused.
///
/// # Errors
/// [`OpenError::Pickle`].
pub(crate) fn refuse_pickle_name(path: &Path) -> Result<(), OpenError> {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    match PICKLE_EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known)) {
        true => Err(OpenError::Pickle { path: path.to_owned(), what: "its name says that it is a pickle" }),
        false => Ok(()),
    }
}

/// PyTorch writes either a bare pickle (from protocol 2 on it begins with 0x80 and the protocol's number) or a zip
/// archive that holds one. A safetensors file may begin with the same two bytes, as the low bytes of its header's
/// length, but then has a `{` behind the length.
fn refuse_pickle_content(path: &Path, bytes: &[u8]) -> Result<(), OpenError> {
    let what = if bytes.starts_with(b"PK\x03\x04") {
        "its content is a zip archive as PyTorch writes it, whatever its name says"
    } else if matches!(bytes, [0x80, 2..=5, ..]) && bytes.get(8) != Some(&b'{') {
        "its content is a pickle, whatever its name says"
    } else {
        return Ok(());
    };
    Err(OpenError::Pickle { path: path.to_owned(), what })
}
