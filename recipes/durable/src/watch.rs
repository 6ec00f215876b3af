//! The operations of this thread on the disk, for crash tests.
//!
//! Responsible for: recording the operations in order, and letting one of them fail on purpose. A test can then build the disk as
//! a crash after each operation would leave it. Outside of [`watch`], nothing is recorded.
//! Must not depend on: why something is written.

use std::cell::RefCell;
use std::io::{self, ErrorKind};
use std::path::PathBuf;

/// A change, or a wait until a change is on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    CreateDir(PathBuf),
    /// The file has this content now, and is created if it didn't exist. Only [`Self::SyncFile`] makes it durable.
    Write {
        path: PathBuf,
        content: Vec<u8>,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    RemoveFile(PathBuf),
    /// With everything in it.
    RemoveDir(PathBuf),
    SyncFile(PathBuf),
    SyncDir(PathBuf),
}

/// An operation that fails on purpose.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// Counted from 0.
    pub operation: usize,
    pub kind: ErrorKind,
    /// Whether later operations that need space fail too, as on a full disk.
    pub lasting: bool,
}

#[derive(Debug, Default)]
struct Watched {
    operations: Vec<Operation>,
    count: usize,
    fault: Option<Fault>,
}

thread_local! {
    static WATCHED: RefCell<Option<Watched>> = const { RefCell::new(None) };
}

/// Runs `work` and returns the operations of this thread. An operation that fails on purpose is not among them.
pub fn watch<T>(fault: Option<Fault>, work: impl FnOnce() -> T) -> (T, Vec<Operation>) {
    WATCHED.set(Some(Watched { fault, ..Watched::default() }));
    let done = work();
    (done, WATCHED.take().unwrap_or_default().operations)
}

/// Is called before each operation.
pub(crate) fn before(operation: impl FnOnce() -> Operation) -> io::Result<()> {
    WATCHED.with_borrow_mut(|watched| {
        let Some(watched) = watched else { return Ok(()) };
        let operation = operation();
        let number = watched.count;
        watched.count += 1;
        let needs_space = matches!(operation, Operation::CreateDir(_) | Operation::Write { .. });
        if let Some(Fault { operation: at, kind, lasting }) = watched.fault
            && (number == at || (lasting && number > at && needs_space))
        {
            return Err(kind.into());
        }
        watched.operations.push(operation);
        Ok(())
    })
}
