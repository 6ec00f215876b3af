//! Durable writes.
//!
//! Responsible for: every write to disk. A file has either its old content or the complete new content.
//! Must not depend on: the content of the files.
//!
//! Every write has the same order: write a scratch file next to the destination, fsync it, rename it, fsync the
//! directory. After a kill at any point, or a power cut on a local Unix file system, the final name has the old content
//! or the new content. Scratch names begin with [`SCRATCH_PREFIX`]. [`remove_scratch`] removes the scratch files of
//! killed processes.
#![expect(clippy::disallowed_methods, reason = "this is the one module that writes")]

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

mod digest;
mod scattered;
mod scratch_lock;
mod scratch_owner;
mod space;
pub mod watch;

use sha2::{Digest, Sha256};
use thiserror::Error;
use watch::Operation;

pub use digest::{FileRecord, hash_file, hex};
pub use scattered::{ScatteredFile, write_scattered};
pub use scratch_lock::ScratchLock;
pub use space::check_space;

/// Prefix of the names of unfinished files and directories.
pub const SCRATCH_PREFIX: &str = ".tonfall-scratch-";

/// The subdirectory of a scratch directory with what a killed process has left there; see [`ScratchDir::resume`].
pub const KEPT: &str = ".tonfall-scratch-kept";

/// Why a write failed. The file or directory that already had the final name is unchanged.
#[derive(Debug, Error)]
pub enum DurableError {
    #[error("no space left for {path}: {source}; free some and try again; the old content is unchanged", path = path.display())]
    DiskFull { path: PathBuf, source: io::Error },

    #[error(
        "{path}: {} are needed, but only {} are free on its disk; free some or choose a directory on another disk; nothing was written",
        space::shown(*needed), space::shown(*free), path = path.display()
    )]
    NoRoom { path: PathBuf, needed: u64, free: u64 },

    #[error("{path}: can't {action}: {source}", path = path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
}

impl DurableError {
    /// Classifies an I/O error: a full disk or an exhausted quota, or any other.
    pub fn new(action: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::DiskFull { path, source },
            _ => Self::Io { action, path, source },
        }
    }

    /// The destination of the write.
    pub fn path(&self) -> &Path {
        match self {
            Self::DiskFull { path, .. } | Self::NoRoom { path, .. } | Self::Io { path, .. } => path,
        }
    }
}

/// Replaces the content of `path` with `bytes`.
///
/// # Errors
/// [`DurableError`]; the scratch file is removed in that case.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), DurableError> {
    write_with(path, |writer| writer.write_all(bytes))
}

/// Writes a new file of a scratch directory. It becomes durable with the directory; see [`publish_dir`].
///
/// # Errors
/// [`DurableError`].
pub fn write_scratch_file(path: &Path, bytes: &[u8]) -> Result<(), DurableError> {
    watch::before(|| Operation::Write { path: path.to_owned(), content: bytes.to_vec() })
        .and_then(|()| fs::write(path, bytes))
        .map_err(|error| DurableError::new("write", path, error))
}

/// Replaces the content of `path` with the output of `write`.
///
/// # Errors
/// [`DurableError`], also for an error of `write`; the scratch file is removed in that case.
pub fn write_with<T>(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<T>,
) -> Result<T, DurableError> {
    let scratch = Scratch(beside(path));
    let filled = fill(&scratch.0, write).map_err(|error| DurableError::new("write", path, error))?;
    rename_file(&scratch.0, path).map_err(|error| DurableError::new("replace", path, error))?;
    std::mem::forget(scratch);
    sync_dir(parent(path))?;
    Ok(filled)
}

fn fill<T>(scratch: &Path, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<T>) -> io::Result<T> {
    watch::before(|| Operation::Write { path: scratch.to_owned(), content: Vec::new() })?;
    let mut writer = BufWriter::with_capacity(1 << 20, File::create_new(scratch)?);
    let filled = write(&mut writer)?;
    let file = writer.into_inner().map_err(|error| error.into_error())?;
    watch::before(|| Operation::Write { path: scratch.to_owned(), content: fs::read(scratch).unwrap_or_default() })?;
    watch::before(|| Operation::SyncFile(scratch.to_owned()))?;
    file.sync_all()?;
    Ok(filled)
}

fn rename_file(from: &Path, to: &Path) -> io::Result<()> {
    watch::before(|| Operation::Rename { from: from.to_owned(), to: to.to_owned() })?;
    fs::rename(from, to)
}

fn create_one_dir(dir: &Path) -> io::Result<()> {
    watch::before(|| Operation::CreateDir(dir.to_owned()))?;
    fs::create_dir(dir)
}

/// Copies a file, durably. Returns size and SHA-256 of the copy.
///
/// # Errors
/// [`DurableError`] if the file can't be read or the copy can't be written.
pub fn copy_file(from: &Path, to: &Path) -> Result<FileRecord, DurableError> {
    let mut source = File::open(from).map_err(|error| DurableError::new("read", from, error))?;
    write_with(to, |writer| {
        let mut hashing = Hashing { writer, digest: Sha256::new() };
        let size = io::copy(&mut source, &mut hashing)?;
        Ok(FileRecord { size, sha256: hex(&hashing.digest.finalize()) })
    })
}

/// Hashes what it writes.
struct Hashing<'a> {
    writer: &'a mut BufWriter<File>,
    digest: Sha256,
}

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.writer.write(bytes)?;
        self.digest.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// A file or directory that is removed when this is dropped.
#[derive(Debug)]
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // An error can't be handled here. The name shows that the leftover is scratch.
        let file = watch::before(|| Operation::RemoveFile(self.0.clone())).and_then(|()| fs::remove_file(&self.0));
        let _ = file.or_else(|_| {
            watch::before(|| Operation::RemoveDir(self.0.clone())).and_then(|()| fs::remove_dir_all(&self.0))
        });
    }
}

/// A directory that is filled under a scratch name and then renamed to its final name. If it is dropped before the
/// rename, it is removed with its content.
#[derive(Debug)]
pub struct ScratchDir {
    scratch: Scratch,
    destination: PathBuf,
    /// Held while this process works in the directory; see [`scratch_owner`].
    _owner: Option<File>,
}

impl ScratchDir {
    /// Creates an empty directory next to `destination`, and the parents of `destination` if needed. Before that,
    /// removes the scratch directories there whose processes have ended.
    ///
    /// # Errors
    /// [`DurableError`] if it can't be created.
    pub fn beside(destination: &Path) -> Result<Self, DurableError> {
        create_dir_all(parent(destination))?;
        Self::create(destination, || beside(destination))
    }

    /// Like [`Self::beside`], but takes over the scratch directory that a killed process has left for the same destination. Its
    /// content is moved to the subdirectory [`KEPT`], which is removed by [`Self::publish`]. The caller must know from records of its
    /// own which of these files are complete, and move them back.
    ///
    /// # Errors
    /// [`DurableError`] if a directory can't be created, read or renamed.
    pub fn resume(destination: &Path) -> Result<Self, DurableError> {
        create_dir_all(parent(destination))?;
        let path = resumable(destination);
        if let Some(owner) = scratch_owner::take(&path) {
            let scratch = Scratch(path);
            set_aside(&scratch.0).map_err(|error| DurableError::new("resume", destination, error))?;
            scratch_owner::sweep(parent(destination));
            return Ok(Self { scratch, destination: destination.to_owned(), _owner: Some(owner) });
        }
        // If another process works on the same destination, this one needs another name.
        Self::create(destination, || if path.exists() { beside(destination) } else { path.clone() })
    }

    fn create(destination: &Path, name: impl Fn() -> PathBuf) -> Result<Self, DurableError> {
        scratch_owner::sweep(parent(destination));
        loop {
            let scratch = Scratch(name());
            match create_one_dir(&scratch.0) {
                // Another process has created it since; the next name is a new one.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    std::mem::forget(scratch);
                    continue;
                }
                created => created.map_err(|error| DurableError::new("create", destination, error))?,
            }
            let owner = scratch_owner::hold(&scratch.0);
            // Another process may have swept the directory before this process locked it.
            if scratch.0.exists() {
                return Ok(Self { scratch, destination: destination.to_owned(), _owner: owner });
            }
        }
    }

    /// The directory to fill.
    pub fn path(&self) -> &Path {
        &self.scratch.0
    }

    /// See [`publish_dir`].
    ///
    /// # Errors
    /// [`DurableError`]; the scratch directory is removed in that case.
    pub fn publish(self) -> Result<(), DurableError> {
        remove_dir(&self.scratch.0.join(KEPT))?;
        publish_dir(&self.scratch.0, &self.destination)
    }

    /// Like [`ScratchDir::publish`], under another name, which replaces what is there.
    ///
    /// # Errors
    /// [`DurableError`]; the scratch directory is removed in that case.
    pub fn publish_as(self, destination: &Path) -> Result<(), DurableError> {
        remove_dir(&self.scratch.0.join(KEPT))?;
        remove_dir(destination)?;
        publish_dir(&self.scratch.0, destination)
    }
}

/// Makes everything in `scratch` durable and renames it to `destination`. `destination` must not exist, or must be an
/// empty directory.
///
/// # Errors
/// [`DurableError`]; `scratch` stays in place in that case.
pub fn publish_dir(scratch: &Path, destination: &Path) -> Result<(), DurableError> {
    sync_tree(scratch).map_err(|error| DurableError::new("write", destination, error))?;
    rename_file(scratch, destination).map_err(|error| DurableError::new("publish", destination, error))?;
    sync_dir(parent(destination))
}

/// Calls fsync for every file and directory below `dir`, because libraries may have written them without it.
fn sync_tree(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => sync_tree(&entry.path())?,
            false => {
                watch::before(|| Operation::SyncFile(entry.path()))?;
                File::open(entry.path())?.sync_all()?;
            }
        }
    }
    sync_dir_io(dir)
}

/// Creates a directory and its parents, durably.
///
/// # Errors
/// [`DurableError`] if one can't be created.
pub fn create_dir_all(dir: &Path) -> Result<(), DurableError> {
    if dir.is_dir() {
        return Ok(());
    }
    create_dir_all(parent(dir))?;
    match create_one_dir(dir) {
        Err(error) if !(error.kind() == ErrorKind::AlreadyExists && dir.is_dir()) => {
            Err(DurableError::new("create", dir, error))
        }
        _ => sync_dir(parent(dir)),
    }
}

/// Moves a file within a file system, durably. An existing file is replaced.
///
/// # Errors
/// [`DurableError`] if it can't be moved.
pub fn rename(from: &Path, to: &Path) -> Result<(), DurableError> {
    rename_file(from, to).map_err(|error| DurableError::new("replace", to, error))?;
    sync_dir(parent(to))
}

/// Removes a file, durably. It is no error if the file doesn't exist.
///
/// # Errors
/// [`DurableError`] if it can't be removed.
pub fn remove_file(path: &Path) -> Result<(), DurableError> {
    match watch::before(|| Operation::RemoveFile(path.to_owned())).and_then(|()| fs::remove_file(path)) {
        Ok(()) => sync_dir(parent(path)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(DurableError::new("remove", path, error)),
    }
}

/// Removes a directory with its content. It is no error if the directory doesn't exist.
///
/// # Errors
/// [`DurableError`] if it can't be removed.
pub fn remove_dir(dir: &Path) -> Result<(), DurableError> {
    match watch::before(|| Operation::RemoveDir(dir.to_owned())).and_then(|()| fs::remove_dir_all(dir)) {
        Ok(()) => sync_dir(parent(dir)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(DurableError::new("remove", dir, error)),
    }
}

/// Removes the scratch files and directories of killed processes in `dir`. No other process may write to `dir`
/// meanwhile.
///
/// # Errors
/// [`DurableError`] if the directory can't be read or a scratch file can't be removed.
pub fn remove_scratch(dir: &Path) -> Result<(), DurableError> {
    let entries = fs::read_dir(dir).map_err(|error| DurableError::new("read", dir, error))?;
    for entry in entries {
        let path = entry.map_err(|error| DurableError::new("read", dir, error))?.path();
        let is_scratch = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(SCRATCH_PREFIX));
        if is_scratch && path.is_dir() {
            remove_dir(&path)?;
        } else if is_scratch {
            remove_file(&path)?;
        }
    }
    Ok(())
}

/// Opens `path` for reading and writing, and creates it if it doesn't exist. Its content is unchanged.
///
/// # Errors
/// [`DurableError`] if it can't be opened or created.
pub fn open_or_create(path: &Path) -> Result<File, DurableError> {
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    open.map_err(|error| DurableError::new("open", path, error))
}

/// A file to which complete records are appended, by one writer at a time.
#[derive(Debug)]
pub struct AppendFile {
    path: PathBuf,
    file: File,
    /// Bytes of the complete records.
    len: u64,
    /// A record was written in part and could not be cut off.
    torn: bool,
}

impl AppendFile {
    /// Opens `path`, creates it if it doesn't exist, and truncates it to `keep` bytes if it is longer.
    ///
    /// # Errors
    /// [`DurableError`] if it can't be opened or truncated.
    pub fn open(path: &Path, keep: u64) -> Result<Self, DurableError> {
        let failed = |error| DurableError::new("open", path, error);
        let is_new = !path.exists();
        let file = OpenOptions::new().read(true).append(true).create(true).open(path).map_err(failed)?;
        let found = file.metadata().map_err(failed)?.len();
        if found > keep {
            file.set_len(keep).and_then(|()| file.sync_all()).map_err(failed)?;
        }
        if is_new {
            sync_dir(parent(path))?;
        }
        Ok(Self { path: path.to_owned(), file, len: found.min(keep), torn: false })
    }

    /// Appends one record with one write. After an error, the part of the record that was written is cut off:
    /// immediately, or before the next record.
    ///
    /// # Errors
    /// [`DurableError`] if it can't be written completely.
    pub fn append(&mut self, record: &[u8]) -> Result<(), DurableError> {
        let failed = |error| DurableError::new("append", &self.path, error);
        if self.torn {
            self.file.set_len(self.len).map_err(failed)?;
            self.torn = false;
        }
        if let Err(error) = self.file.write_all(record) {
            self.torn = self.file.set_len(self.len).is_err();
            return Err(failed(error));
        }
        self.len += record.len() as u64;
        Ok(())
    }

    /// Waits until all appended records are on the disk.
    ///
    /// # Errors
    /// [`DurableError`] if the system reports a failed write.
    pub fn sync(&self) -> Result<(), DurableError> {
        self.file.sync_data().map_err(|error| DurableError::new("write", &self.path, error))
    }
}

/// A random number for file names.
pub fn nonce() -> u64 {
    // Each `RandomState` has a new seed. Names need no better randomness.
    RandomState::new().build_hasher().finish()
}

fn beside(path: &Path) -> PathBuf {
    parent(path).join(OsString::from(format!("{SCRATCH_PREFIX}{:016x}", nonce())))
}

/// The name of a scratch directory that can be resumed. It depends on the destination alone.
fn resumable(destination: &Path) -> PathBuf {
    let name = destination.file_name().unwrap_or_default();
    let digest = hex(&Sha256::digest(name.as_encoded_bytes()));
    parent(destination).join(format!("{SCRATCH_PREFIX}{}", &digest[..16]))
}

/// Moves everything in `dir` to its subdirectory [`KEPT`], except for unfinished files, which are removed.
fn set_aside(dir: &Path) -> io::Result<()> {
    let kept = dir.join(KEPT);
    fs::create_dir_all(&kept)?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let (name, path) = (entry.file_name(), entry.path());
        if path == kept {
            continue;
        }
        if name.to_string_lossy().starts_with(SCRATCH_PREFIX) {
            drop(Scratch(path));
        } else if path.is_dir() {
            // Side files, which are quickly written again.
            fs::remove_dir_all(&path)?;
        } else {
            fs::rename(&path, kept.join(name))?;
        }
    }
    Ok(())
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        Some(_) => Path::new("."),
        None => path,
    }
}

fn sync_dir(dir: &Path) -> Result<(), DurableError> {
    sync_dir_io(dir).map_err(|error| DurableError::new("write", dir, error))
}

fn sync_dir_io(dir: &Path) -> io::Result<()> {
    watch::before(|| Operation::SyncDir(dir.to_owned()))?;
    // On other systems a directory can't be opened as a file.
    if !cfg!(unix) {
        return Ok(());
    }
    match File::open(dir)?.sync_all() {
        // Some network and FUSE file systems have no fsync for directories.
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests;
