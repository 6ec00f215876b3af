//! The cache of prepared data on disk.
//!
//! Responsible for: the cache key, atomic writes, verification before use, limits on the number and size of entries,
//! and removing the leftovers of killed preparations. Must not depend on: how data is prepared.
//!
//! The key is a hash of everything that the prepared data depends on. An entry is a directory of columns (native byte
//! order), `index.json` and `MANIFEST.json`. The manifest is written last and has the size and SHA-256 of each file. An
//! entry that fails verification is removed and prepared again. Tokens and entries are written to disk during
//! preparation, so memory doesn't grow with them.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use bytemuck::Pod;
use memmap2::Mmap;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tonfall_durable::{self as durable, ScratchDir, ScratchLock, hex};

use crate::error::DataError;
use crate::prepare::report::PrepareReport;
use crate::prepare::store::{Column, Columns, Entry};

/// Increase this when the stored data or the way it is prepared changes.
const VERSION: &str = "tonfall data 5";
/// Maximum number of entries. The most recently used ones are kept.
const KEPT: usize = 16;
/// Maximum total size of all entries in bytes. The newest entry is always kept.
const KEPT_BYTES: u64 = 32 << 30;
const TOKENS: &str = "tokens.bin";
const ENTRIES: &str = "examples.bin";
const ORDER: &str = "order.bin";
const INDEX: &str = "index.json";
const MANIFEST: &str = "MANIFEST.json";
const FILES: [&str; 4] = [TOKENS, ENTRIES, ORDER, INDEX];

/// All prepared data except the columns.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Index {
    /// Number of examples at the start of the order that form an epoch. The rest is held out.
    pub(crate) epoch: usize,
    pub(crate) report: PrepareReport,
}

#[derive(Serialize, Deserialize)]
struct Manifest {
    /// Size in bytes and SHA-256 of each of [`FILES`].
    files: Vec<(u64, String)>,
}

/// The cache key: a hash of all `parts`, the format version and the byte order.
pub(crate) fn key(parts: &[&[u8]]) -> String {
    let mut digest = Sha256::new();
    let order = if cfg!(target_endian = "big") { "big" } else { "little" };
    for part in [VERSION.as_bytes(), order.as_bytes()].iter().chain(parts) {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    hex(&digest.finalize())
}

/// SHA-256 of a file's content.
pub(crate) fn hash_file(path: &Path) -> Result<[u8; 32], DataError> {
    let hashed = durable::hash_file(path).map_err(|source| DataError::Io { path: path.to_owned(), source });
    Ok(hashed?.1)
}

/// The destination of examples during preparation.
pub(crate) enum Sink {
    Memory(Vec<u32>, Vec<Entry>),
    /// A scratch directory that becomes a cache entry.
    Disk(Box<Disk>),
}

pub(crate) struct Disk {
    tokens: BufWriter<File>,
    entries: BufWriter<File>,
    place: Place,
}

/// The scratch directory of an entry, and its final path.
struct Place {
    scratch: ScratchDir,
    entry: PathBuf,
    /// Held until the entry is published.
    _lock: Option<ScratchLock>,
}

impl Sink {
    /// Creates a new cache entry. Without a cache, examples stay in memory.
    pub(crate) fn new(cache: Option<(&Path, &str)>) -> Result<Self, DataError> {
        let Some((folder, key)) = cache else { return Ok(Self::Memory(Vec::new(), Vec::new())) };
        durable::create_dir_all(folder)?;
        let lock = ScratchLock::join(folder)?;
        let entry = folder.join(key);
        let scratch = ScratchDir::beside(&entry)?;
        let column = |name| create(&scratch.path().join(name));
        let (tokens, entries) = (column(TOKENS)?, column(ENTRIES)?);
        Ok(Self::Disk(Box::new(Disk { tokens, entries, place: Place { scratch, entry, _lock: lock } })))
    }

    /// Appends the tokens of an example and its entry.
    pub(crate) fn push(&mut self, words: &[u32], example: Entry) -> Result<(), DataError> {
        match self {
            Self::Memory(tokens, entries) => {
                tokens.extend_from_slice(words);
                entries.push(example);
            }
            Self::Disk(disk) => {
                let written = disk.tokens.write_all(bytemuck::cast_slice(words));
                written
                    .and_then(|()| disk.entries.write_all(bytemuck::bytes_of(&example)))
                    .map_err(|source| DataError::Io { path: disk.place.entry.clone(), source })?;
            }
        }
        Ok(())
    }

    /// Flushes all examples, so that their entries can be read.
    pub(crate) fn close(self) -> Result<Closed, DataError> {
        let disk = match self {
            Self::Memory(tokens, entries) => {
                return Ok(Closed { tokens, entries: Column::Memory(entries), place: None });
            }
            Self::Disk(disk) => *disk,
        };
        let io = |source| DataError::Io { path: disk.place.entry.clone(), source };
        for column in [disk.tokens, disk.entries] {
            column.into_inner().map_err(|error| io(error.into_error()))?;
        }
        let entries = map(&disk.place.scratch.path().join(ENTRIES))?;
        Ok(Closed { tokens: Vec::new(), entries, place: Some(disk.place) })
    }
}

#[expect(clippy::disallowed_methods, reason = "the scratch directory syncs what is in it when it is published")]
fn create(path: &Path) -> Result<BufWriter<File>, DataError> {
    let file = File::create(path).map_err(|source| DataError::Io { path: path.to_owned(), source })?;
    Ok(BufWriter::with_capacity(1 << 20, file))
}

/// All examples, before their order is known.
pub(crate) struct Closed {
    /// Empty if the examples are on disk.
    tokens: Vec<u32>,
    pub(crate) entries: Column<Entry>,
    place: Option<Place>,
}

impl Closed {
    /// Writes the order and the index, and publishes the entry.
    pub(crate) fn finish(self, order: Vec<u32>, index: &Index) -> Result<Columns, DataError> {
        let Self { tokens, entries, place } = self;
        let Some(Place { scratch, entry, _lock }) = place else {
            return Ok(Columns { tokens: Column::Memory(tokens), entries, order: Column::Memory(order) });
        };
        // Some systems can't rename a directory with a mapped file.
        drop(entries);
        let json = |error: serde_json::Error| DataError::Io { path: entry.clone(), source: error.into() };
        durable::write_file(&scratch.path().join(ORDER), bytemuck::cast_slice(&order))?;
        durable::write_file(&scratch.path().join(INDEX), &serde_json::to_vec(index).map_err(json)?)?;
        let described = FILES.iter().map(|name| describe(&scratch.path().join(name)));
        let manifest = Manifest { files: described.collect::<Result<_, DataError>>()? };
        durable::write_file(&scratch.path().join(MANIFEST), &serde_json::to_vec(&manifest).map_err(json)?)?;
        // If another process has published the same entry first, that entry is used.
        if let Err(error) = scratch.publish()
            && open(&entry)?.is_none()
        {
            return Err(error.into());
        }
        if let Some(folder) = entry.parent() {
            prune(folder);
        }
        columns(&entry)
    }
}

/// Size in bytes and SHA-256 of a file.
fn describe(path: &Path) -> Result<(u64, String), DataError> {
    let metadata = std::fs::metadata(path).map_err(|source| DataError::Io { path: path.to_owned(), source })?;
    Ok((metadata.len(), hex(&hash_file(path)?)))
}

fn columns(entry: &Path) -> Result<Columns, DataError> {
    Ok(Columns {
        tokens: map(&entry.join(TOKENS))?,
        entries: map(&entry.join(ENTRIES))?,
        order: map(&entry.join(ORDER))?,
    })
}

/// Loads the entry of `key`, if it exists and verifies.
pub(crate) fn load(folder: &Path, key: &str) -> Result<Option<(Columns, Index)>, DataError> {
    let entry = folder.join(key);
    if !entry.exists() {
        return Ok(None);
    }
    let Some(index) = open(&entry)? else {
        // The entry is damaged, or its process was killed.
        durable::remove_dir(&entry)?;
        return Ok(None);
    };
    // Pruning sorts entries by this time. A cache whose times can't be set remains usable.
    File::open(entry.join(MANIFEST)).and_then(|file| file.set_modified(std::time::SystemTime::now())).ok();
    let columns = columns(&entry)?;
    match columns.is_consistent() && index.epoch <= columns.order.len() {
        true => Ok(Some((columns, index))),
        false => {
            durable::remove_dir(&entry)?;
            Ok(None)
        }
    }
}

/// The index of an entry whose files match its manifest.
fn open(entry: &Path) -> Result<Option<Index>, DataError> {
    let Ok(manifest) = std::fs::read(entry.join(MANIFEST)) else { return Ok(None) };
    let Ok(manifest) = serde_json::from_slice::<Manifest>(&manifest) else { return Ok(None) };
    if manifest.files.len() != FILES.len() {
        return Ok(None);
    }
    for (name, (bytes, hash)) in FILES.iter().zip(&manifest.files) {
        let path = entry.join(name);
        if std::fs::metadata(&path).is_ok_and(|metadata| metadata.len() == *bytes) && hex(&hash_file(&path)?) == *hash {
            continue;
        }
        return Ok(None);
    }
    let Ok(index) = std::fs::read(entry.join(INDEX)) else { return Ok(None) };
    Ok(serde_json::from_slice(&index).ok())
}

#[expect(unsafe_code, reason = "a memory map")]
fn map<T: Pod>(path: &Path) -> Result<Column<T>, DataError> {
    let io = |source| DataError::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(io)?;
    if file.metadata().map_err(io)?.len() == 0 {
        return Ok(Column::default());
    }
    // SAFETY: entries are written under another name, published whole and never changed. Pruning unlinks files, which
    // keeps existing maps valid. If a user overwrites a cache file by hand, only the training data changes: every bit
    // pattern of a `Pod` type is valid.
    let map = unsafe { Mmap::map(&file) }.map_err(io)?;
    Ok(Column::Mapped(map, PhantomData))
}

/// Removes the least recently used entries until at most [`KEPT`] entries and [`KEPT_BYTES`] bytes are left. If an
/// entry can't be removed, the next preparation tries again.
fn prune(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    let used = |path: &Path| std::fs::metadata(path.join(MANIFEST)).and_then(|metadata| metadata.modified()).ok();
    let mut aged: Vec<_> = entries.flatten().filter_map(|entry| Some((used(&entry.path())?, entry.path()))).collect();
    aged.sort();
    let sizes: Vec<u64> = aged.iter().rev().map(|(_, path)| bytes(path)).collect();
    let kept = kept(&sizes, KEPT, KEPT_BYTES);
    for (_, path) in &aged[..aged.len() - kept] {
        durable::remove_dir(path).ok();
    }
}

/// How many entries fit the limits. `sizes` starts with the most recently used entry.
fn kept(sizes: &[u64], count: usize, bytes: u64) -> usize {
    let mut sum = 0_u64;
    let fits = |size: &&u64| {
        sum = sum.saturating_add(**size);
        sum <= bytes
    };
    sizes.iter().take(count).take_while(fits).count().max(sizes.len().min(1))
}

/// Total size of an entry's files in bytes.
fn bytes(entry: &Path) -> u64 {
    let size = |name: &&str| std::fs::metadata(entry.join(name)).map_or(0, |metadata| metadata.len());
    FILES.iter().map(size).sum()
}

#[cfg(test)]
mod tests {
    use super::kept;

    #[test]
    fn entries_are_limited_by_count_and_bytes_but_the_newest_is_always_kept() {
        assert_eq!(kept(&[1, 2, 3], 2, 100), 2);
        assert_eq!(kept(&[1, 2, 3], 16, 3), 2);
        assert_eq!(kept(&[9, 1], 16, 3), 1);
        assert_eq!(kept(&[], 16, 3), 0);
        assert_eq!(kept(&[u64::MAX, u64::MAX], 16, u64::MAX), 2, "saturated");
    }
}
