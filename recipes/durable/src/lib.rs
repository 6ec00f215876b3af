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

use sha2::{Digest, Sha256};
use thiserror::Error;

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
    fs::write(path, bytes).map_err(|error| DurableError::new("write", path, error))
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
    fs::rename(&scratch.0, path).map_err(|error| DurableError::new("replace", path, error))?;
    std::mem::forget(scratch);
    sync_dir(parent(path))?;
    Ok(filled)
}

fn fill<T>(scratch: &Path, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<T>) -> io::Result<T> {
    let mut writer = BufWriter::with_capacity(1 << 20, File::create_new(scratch)?);
    let filled = write(&mut writer)?;
    writer.into_inner().map_err(|error| error.into_error())?.sync_all()?;
    Ok(filled)
}

/// A file or directory that is removed when this is dropped.
#[derive(Debug)]
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // An error can't be handled here. The name shows that the leftover is scratch.
        let _ = fs::remove_file(&self.0).or_else(|_| fs::remove_dir_all(&self.0));
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
            match fs::create_dir(&scratch.0) {
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
    fs::rename(scratch, destination).map_err(|error| DurableError::new("publish", destination, error))?;
    sync_dir(parent(destination))
}

/// Calls fsync for every file and directory below `dir`, because libraries may have written them without it.
fn sync_tree(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => sync_tree(&entry.path())?,
            false => File::open(entry.path())?.sync_all()?,
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
    match fs::create_dir(dir) {
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
    fs::rename(from, to).map_err(|error| DurableError::new("replace", to, error))?;
    sync_dir(parent(to))
}

/// Removes a file, durably. It is no error if the file doesn't exist.
///
/// # Errors
/// [`DurableError`] if it can't be removed.
pub fn remove_file(path: &Path) -> Result<(), DurableError> {
    match fs::remove_file(path) {
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
    match fs::remove_dir_all(dir) {
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
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).expect("readable");
        let mut names: Vec<_> =
            entries.map(|entry| entry.expect("entry").file_name().to_string_lossy().into()).collect();
        names.sort();
        names
    }

    #[test]
    fn write_file_replaces_the_whole_content() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("a.json");
        write_file(&path, b"one").expect("written");
        write_file(&path, b"two").expect("written");
        assert_eq!(fs::read(&path).expect("readable"), b"two");
        assert_eq!(names(dir.path()), ["a.json"]);
    }

    #[test]
    fn a_full_disk_has_its_own_error_and_keeps_the_old_file() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("weights");
        write_file(&path, b"old").expect("written");
        let failed = write_with(&path, |writer| {
            writer.write_all(b"new")?;
            // A real ENOSPC from the kernel.
            let mut full = OpenOptions::new().write(true).open("/dev/full")?;
            full.write_all(b"x")
        });
        let error = failed.expect_err("the disk is full");
        assert!(matches!(error, DurableError::DiskFull { .. }), "{error:?}");
        assert_eq!(error.path(), path);
        assert_eq!(fs::read(&path).expect("readable"), b"old");
        assert_eq!(names(dir.path()), ["weights"]);
    }

    #[test]
    fn an_error_or_a_panic_in_the_writer_leaves_no_scratch() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("new");
        let failed = write_with(&path, |_| Err::<(), _>(io::Error::other("no")));
        assert!(matches!(failed, Err(DurableError::Io { action: "write", .. })));
        let unwound = std::panic::catch_unwind(|| write_with::<()>(&path, |_| panic!("on purpose")));
        assert!(unwound.is_err());
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn missing_directories_are_named() {
        let dir = tempfile::tempdir().expect("temp dir");
        let error = write_file(&dir.path().join("nowhere/a"), b"").expect_err("no such directory");
        assert!(error.to_string().contains("nowhere/a"), "{error}");
    }

    #[test]
    fn a_directory_appears_at_once_or_not_at_all() {
        let dir = tempfile::tempdir().expect("temp dir");
        let target = dir.path().join("deep/final");
        let scratch = ScratchDir::beside(&target).expect("made");
        write_file(&scratch.path().join("x"), b"1").expect("written");
        drop(scratch);
        assert!(names(&dir.path().join("deep")).is_empty(), "an unpublished scratch is removed");

        let scratch = ScratchDir::beside(&target).expect("made");
        write_file(&scratch.path().join("x"), b"1").expect("written");
        scratch.publish().expect("published");
        assert_eq!((names(&dir.path().join("deep")), names(&target)), (vec!["final".to_owned()], vec!["x".to_owned()]));

        let second = ScratchDir::beside(&target).expect("made");
        assert!(second.publish().is_err(), "an existing directory is never replaced");
        assert_eq!(names(&dir.path().join("deep")), ["final"]);
    }

    #[cfg(unix)]
    #[test]
    fn a_killed_process_leaves_a_scratch_directory_that_the_next_one_takes_over() {
        let dir = tempfile::tempdir().expect("temp dir");
        let target = dir.path().join("model");
        let killed = |names: &[&str]| {
            let scratch = ScratchDir::resume(&target).expect("made");
            for name in names {
                write_file(&scratch.path().join(name), name.as_bytes()).expect("written");
            }
            create_dir_all(&scratch.path().join("templates")).expect("made");
            // A killed process removes nothing, and the kernel releases its lock.
            let ScratchDir { scratch, _owner, .. } = scratch;
            std::mem::forget(scratch);
        };
        killed(&["a", ".tonfall-scratch-1"]);
        killed(&["b"]);
        let other = ScratchDir::beside(&dir.path().join("other"));
        drop(other);
        assert!(names(dir.path()).is_empty(), "another destination sweeps");

        killed(&["a", ".tonfall-scratch-1"]);
        killed(&["b"]);
        let scratch = ScratchDir::resume(&target).expect("made");
        assert_eq!(names(scratch.path()), [KEPT]);
        assert_eq!(names(&scratch.path().join(KEPT)), ["a", "b"]);
        let second = ScratchDir::resume(&target).expect("made");
        assert_ne!(second.path(), scratch.path(), "the first process still works");
        assert!(names(second.path()).is_empty());
        fs::rename(scratch.path().join(KEPT).join("a"), scratch.path().join("a")).expect("moved");
        scratch.publish().expect("published");
        assert_eq!(names(&target), ["a"]);
    }

    #[test]
    fn appending_to_a_full_disk_is_an_error_each_time() {
        // The device can't be truncated either, so the record stays torn.
        let mut file = AppendFile { path: "/dev/full".into(), file: open_full(), len: 0, torn: false };
        assert!(matches!(file.append(b"line\n"), Err(DurableError::DiskFull { .. })));
        assert!(file.torn);
        assert!(file.append(b"line\n").is_err());
    }

    fn open_full() -> File {
        OpenOptions::new().append(true).open("/dev/full").expect("Linux has it")
    }

    #[test]
    fn opening_an_append_file_truncates_it_to_keep() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("log");
        fs::write(&path, b"whole\ntor").expect("written");
        let mut file = AppendFile::open(&path, 6).expect("opened");
        file.append(b"next\n").expect("appended");
        assert_eq!(fs::read(&path).expect("readable"), b"whole\nnext\n");
    }

    #[test]
    fn remove_scratch_removes_only_scratch() {
        let dir = tempfile::tempdir().expect("temp dir");
        fs::write(dir.path().join(format!("{SCRATCH_PREFIX}1")), b"").expect("written");
        fs::create_dir_all(dir.path().join(format!("{SCRATCH_PREFIX}2/x"))).expect("made");
        fs::write(dir.path().join(".hidden"), b"").expect("written");
        remove_scratch(dir.path()).expect("removed");
        assert_eq!(names(dir.path()), [".hidden"]);
    }
}
