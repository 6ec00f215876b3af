//! Prepared data on disk, under a key of everything that it depends on.
//!
//! Responsible for: the key, writing in one step, verifying before use, and keeping the number of entries small.
//! Must not depend on: how data is prepared.
//!
//! An entry is a directory of `tokens.bin` (u32, native byte order), `index.json` and, written last, `MANIFEST.json` with
//! the size and the SHA-256 of both. What doesn't verify is removed and made again.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tonfall_recipes::durable::{self, ScratchDir};

use crate::error::DataError;
use crate::report::PrepareReport;
use crate::store::{Entry, Tokens};

/// Changes with every change of what is stored or of how data is prepared.
const VERSION: &str = "tonfall data 1";
/// Entries that are kept, the most recently used ones.
const KEPT: usize = 16;
const FILES: [&str; 2] = ["tokens.bin", "index.json"];

/// Everything about examples but their tokens.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Index {
    pub(crate) entries: Vec<Entry>,
    pub(crate) train: Vec<u32>,
    pub(crate) eval: Vec<u32>,
    pub(crate) report: PrepareReport,
}

#[derive(Serialize, Deserialize)]
struct Manifest {
    /// Of each of [`FILES`]: bytes and SHA-256.
    files: Vec<(u64, String)>,
}

/// The key of everything that `parts` hold.
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
    let io = |source| DataError::Io { path: path.to_owned(), source };
    let (mut file, mut digest, mut buffer) = (File::open(path).map_err(io)?, Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer).map_err(io)? {
            0 => return Ok(digest.finalize().into()),
            read => digest.update(&buffer[..read]),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Where tokens go while data is prepared.
pub(crate) enum Sink {
    Memory(Vec<u32>),
    /// A directory that will be the entry.
    Disk {
        scratch: ScratchDir,
        file: BufWriter<File>,
        entry: PathBuf,
    },
}

impl Sink {
    /// A new entry of the cache, or memory without one.
    #[expect(clippy::disallowed_methods, reason = "the scratch directory syncs what is in it when it is published")]
    pub(crate) fn new(cache: Option<(&Path, &str)>) -> Result<Self, DataError> {
        let Some((folder, key)) = cache else { return Ok(Self::Memory(Vec::new())) };
        durable::create_dir_all(folder)?;
        let entry = folder.join(key);
        let scratch = ScratchDir::beside(&entry)?;
        let path = scratch.path().join(FILES[0]);
        let file = File::create(&path).map_err(|source| DataError::Io { path, source })?;
        Ok(Self::Disk { scratch, file: BufWriter::with_capacity(1 << 20, file), entry })
    }

    pub(crate) fn push(&mut self, words: &[u32]) -> Result<(), DataError> {
        match self {
            Self::Memory(all) => all.extend_from_slice(words),
            Self::Disk { file, entry, .. } => file
                .write_all(bytemuck::cast_slice(words))
                .map_err(|source| DataError::Io { path: entry.clone(), source })?,
        }
        Ok(())
    }

    /// Everything is written: the tokens, as they will be read.
    pub(crate) fn finish(self, index: &Index) -> Result<Arc<Tokens>, DataError> {
        let (scratch, file, entry) = match self {
            Self::Memory(words) => return Ok(Arc::new(Tokens::Memory(words))),
            Self::Disk { scratch, file, entry } => (scratch, file, entry),
        };
        let io = |source| DataError::Io { path: entry.clone(), source };
        file.into_inner().map_err(|error| io(error.into_error()))?;
        let json = |error: serde_json::Error| io(error.into());
        durable::write_file(&scratch.path().join(FILES[1]), &serde_json::to_vec(index).map_err(json)?)?;
        let described = FILES.iter().map(|name| {
            let path = scratch.path().join(name);
            let bytes = std::fs::metadata(&path).map_err(io)?.len();
            Ok((bytes, hex(&hash_file(&path)?)))
        });
        let manifest = Manifest { files: described.collect::<Result<_, DataError>>()? };
        let manifest = serde_json::to_vec(&manifest).map_err(json)?;
        durable::write_file(&scratch.path().join("MANIFEST.json"), &manifest)?;
        // Another process may have been quicker; then its entry, which is the same, is taken.
        if let Err(error) = scratch.publish()
            && open(&entry)?.is_none()
        {
            return Err(error.into());
        }
        if let Some(folder) = entry.parent() {
            prune(folder);
        }
        map(&entry.join(FILES[0]))
    }
}

/// The entry of `key`, if there is one that verifies.
pub(crate) fn load(folder: &Path, key: &str) -> Result<Option<(Arc<Tokens>, Index)>, DataError> {
    let entry = folder.join(key);
    if !entry.exists() {
        return Ok(None);
    }
    let Some(index) = open(&entry)? else {
        // Whatever lies there is damaged, or of a process that was killed.
        durable::remove_dir(&entry)?;
        return Ok(None);
    };
    // The time of the last use is what pruning goes by; a cache that can't be touched is still a cache.
    File::open(entry.join("MANIFEST.json")).and_then(|file| file.set_modified(std::time::SystemTime::now())).ok();
    Ok(Some((map(&entry.join(FILES[0]))?, index)))
}

/// The index of an entry whose files are those of its manifest.
fn open(entry: &Path) -> Result<Option<Index>, DataError> {
    let Ok(manifest) = std::fs::read(entry.join("MANIFEST.json")) else { return Ok(None) };
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
    let Ok(index) = std::fs::read(entry.join(FILES[1])) else { return Ok(None) };
    Ok(serde_json::from_slice(&index).ok())
}

#[expect(unsafe_code, reason = "a memory map")]
fn map(path: &Path) -> Result<Arc<Tokens>, DataError> {
    let io = |source| DataError::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(io)?;
    if file.metadata().map_err(io)?.len() == 0 {
        return Ok(Arc::new(Tokens::default()));
    }
    // SAFETY: entries are written under another name, published whole and never changed; pruning unlinks files, which
    // leaves what is mapped. Somebody who overwrites a file of the cache by hand changes what is trained, not more:
    // every word is a valid u32.
    let map = unsafe { Mmap::map(&file) }.map_err(io)?;
    Ok(Arc::new(Tokens::Mapped(map)))
}

/// Removes all but the most recently used entries. What can't be removed stays: it is in nobody's way.
fn prune(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    let used =
        |path: &Path| std::fs::metadata(path.join("MANIFEST.json")).and_then(|metadata| metadata.modified()).ok();
    let mut aged: Vec<_> = entries.flatten().filter_map(|entry| Some((used(&entry.path())?, entry.path()))).collect();
    aged.sort();
    let surplus = aged.len().saturating_sub(KEPT);
    for (_, path) in &aged[..surplus] {
        durable::remove_dir(path).ok();
    }
}
