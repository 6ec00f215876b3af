//! Files whose parts are written by several threads, each at its place.
//!
//! Responsible for: the same durability as [`crate::write_with`], with the disk busy from the start: parts are flushed on a thread of
//! their own while others are still computed.
//! Must not depend on: the order of the parts.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;

use crate::{DurableError, Scratch, beside, parent, sync_dir};

/// Number of written bytes after which a flush begins. Larger steps leave more to the last flush, for which nothing else can run.
const FLUSH: u64 = 16 << 20;

/// A file of known length under a scratch name.
#[derive(Debug)]
pub struct ScatteredFile<'a> {
    file: &'a File,
    scratch: &'a Path,
    destination: &'a Path,
    written: AtomicU64,
    flush: SyncSender<()>,
}

impl ScatteredFile<'_> {
    /// Writes `bytes` at `offset`. Threads may write at the same time.
    ///
    /// # Errors
    /// [`DurableError`].
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), DurableError> {
        write_at(self.file, bytes, offset).map_err(|error| DurableError::new("write", self.destination, error))?;
        let len = bytes.len() as u64;
        let before = self.written.fetch_add(len, Ordering::Relaxed);
        if before / FLUSH != (before + len) / FLUSH {
            self.start_flush();
        }
        Ok(())
    }

    /// Lets the flush of everything written so far begin, without waiting for it.
    pub fn start_flush(&self) {
        // If one is waiting to begin already, it will include these bytes.
        let _ = self.flush.try_send(());
    }

    /// The file, to read back what was written.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.scratch
    }
}

/// Replaces the content of `path` with `len` bytes, which `fill` writes in any order. Bytes that it does not write are 0.
///
/// # Errors
/// [`DurableError`] and errors of `fill`; the scratch file is removed in that case.
pub fn write_scattered<T, E: From<DurableError>>(
    path: &Path,
    len: u64,
    fill: impl FnOnce(&ScatteredFile<'_>) -> Result<T, E>,
) -> Result<T, E> {
    let failed = |error| DurableError::new("write", path, error);
    let scratch = Scratch(beside(path));
    let open = OpenOptions::new().read(true).write(true).create_new(true).open(&scratch.0);
    let file = open.and_then(|file| file.set_len(len).map(|()| file)).map_err(failed)?;
    let (flush, requests) = mpsc::sync_channel(1);
    let filled = thread::scope(|scope| {
        let flushing = scope.spawn(|| flush_on_request(&file, requests));
        let scattered =
            ScatteredFile { file: &file, scratch: &scratch.0, destination: path, written: AtomicU64::new(0), flush };
        let filled = fill(&scattered);
        // The thread ends when no more requests can come.
        drop(scattered);
        let flushed = flushing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        filled.and_then(|filled| flushed.map(|()| filled).map_err(|error| failed(error).into()))
    })?;
    file.sync_all().map_err(failed)?;
    drop(file);
    fs::rename(&scratch.0, path).map_err(|error| DurableError::new("replace", path, error))?;
    std::mem::forget(scratch);
    sync_dir(parent(path))?;
    Ok(filled)
}

fn flush_on_request(file: &File, requests: Receiver<()>) -> io::Result<()> {
    requests.into_iter().try_for_each(|()| file.sync_data())
}

#[cfg(unix)]
fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(windows)]
fn write_at(file: &File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = std::os::windows::fs::FileExt::seek_write(file, bytes, offset)?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = &bytes[written..];
        offset += written as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).expect("readable");
        entries.map(|entry| entry.expect("entry").file_name().to_string_lossy().into()).collect()
    }

    #[test]
    fn parts_are_written_by_several_threads_and_read_back_before_the_file_appears() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("weights");
        // More than one flush.
        let part = vec![7; (FLUSH / 2) as usize];
        let len = 4 * part.len() as u64;
        let written = write_scattered(&path, len + 3, |file| {
            thread::scope(|scope| {
                let write = |index: usize| file.write_at(&part, (index * part.len()) as u64);
                let threads = [3, 1, 2].map(|index| scope.spawn(move || write(index)));
                threads.into_iter().try_for_each(|thread| thread.join().expect("no panic"))
            })?;
            file.write_at(&part, 0)?;
            assert_eq!(names(dir.path()).len(), 1);
            assert!(!path.exists());
            Ok::<_, DurableError>(fs::read(file.path()).expect("readable"))
        });
        let written = written.expect("written");
        assert!(written[..len as usize].iter().all(|byte| *byte == 7) && written[len as usize..] == [0; 3]);
        assert_eq!(fs::read(&path).expect("readable"), written);
        assert_eq!(names(dir.path()), ["weights"]);
    }

    #[test]
    fn an_error_or_a_panic_leaves_the_old_content_and_no_scratch() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("weights");
        crate::write_file(&path, b"old").expect("written");
        let stop = || DurableError::new("read", Path::new("base"), io::Error::other("gone"));
        let failed = write_scattered(&path, 9, |file| file.write_at(b"new", 0).and_then(|()| Err::<(), _>(stop())));
        assert!(failed.expect_err("stopped").to_string().contains("gone"));
        let unwound = std::panic::catch_unwind(|| {
            write_scattered(&path, 9, |_| -> Result<(), DurableError> { panic!("on purpose") })
        });
        assert!(unwound.is_err());
        assert_eq!(fs::read(&path).expect("readable"), b"old");
        assert_eq!(names(dir.path()), ["weights"]);
    }
}
