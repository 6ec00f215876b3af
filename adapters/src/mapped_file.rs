//! Memory-mapped weight files.
//!
//! Responsible for: the read-only map, and releasing its pages.
//! Must not depend on: any file format.

use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};

use memmap2::{Mmap, UncheckedAdvice};

use crate::regular_file::{self, OpenError, refuse_pickle_content, refuse_pickle_name};

/// A read-only memory map. The file must not be truncated while it is open, as in every program that maps files.
#[derive(Debug)]
pub(crate) struct MappedFile {
    path: PathBuf,
    map: Mmap,
}

impl MappedFile {
    /// # Errors
    /// If the file can't be read, is not a regular file, or is a pickle by name or content.
    pub(crate) fn open(path: &Path) -> Result<Self, OpenError> {
        refuse_pickle_name(path)?;
        let (file, _) = regular_file::open(path)?;
        #[expect(unsafe_code, reason = "memory maps have no safe constructor")]
        // SAFETY: the map is read-only and private to this process. Every read goes through bounds-checked slices. If
        // another process truncates the file, reads fail with SIGBUS; they never read foreign memory.
        let map = unsafe { Mmap::map(&file) };
        let map = map.map_err(|source| OpenError::Io { path: path.to_owned(), source })?;
        refuse_pickle_content(path, &map)?;
        Ok(Self { path: path.to_owned(), map })
    }

    #[must_use]
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Releases the memory pages that were read so far, so that converted weights don't take memory twice. Later reads
    /// load the pages from the file again. On systems without this advice, the pages are kept.
    pub(crate) fn release_pages(&self) {
        #[expect(unsafe_code, reason = "advice that drops pages has no safe form")]
        // SAFETY: the map is read-only and backed by a file, so dropped pages are reloaded with the same bytes.
        let _ = unsafe { self.map.unchecked_advise(UncheckedAdvice::DontNeed) };
    }

    /// The bytes of a range that was checked against the file's length when the file was opened.
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
