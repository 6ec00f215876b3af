//! The store of published adapters.
//!
//! Responsible for: `store/<name>/<version>/`, the pointer `current`, publishing, rolling back, and removing old versions.
//! Must not depend on: how adapters are made or judged, the network. Servers are changed through [`Hook`].
//!
//! ```text
//! store/<name>/ current publish.lock pending.json
//!   000004/ adapter/ exports/ version.json adapter.json verdict.json … MANIFEST.json
//! ```
//!
//! A version never changes after it was written. It counts only if its manifest verifies. `current` is a text file with
//! the number of the version that servers should use, and the only truth about that.
//!
//! The order of a publication. A process may be killed after each step:
//!
//! 1. Lock `publish.lock`. The kernel releases it.
//! 2. Write the version to a scratch directory, its manifest last; sync; rename. *Killed:* a scratch directory, which the next
//!    publication removes, or a complete version that is not current, which [`Store::prune`] removes later.
//! 3. Read the version back and compare it with its manifest.
//! 4. Write `pending.json`: servers may be about to change. *Killed:* the next step 4, or [`Store::settle`], finds it.
//! 5. Run the hooks in their order. If one fails, run them in reverse order for the current version.
//! 6. Replace `current`. *Killed before:* the old version is current, and servers get it back through [`Store::settle`].
//!    *Killed after:* the new version is current.
//! 7. Remove `pending.json`.
//!
//! A rollback is the same from step 3 on. A version is removed manifest first, so that what is left of it never counts.

mod error;
mod hook;
mod manifest;
mod version;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use tonfall_durable::{self as durable, ScratchDir};

pub use self::error::StoreError;
pub use self::hook::{Hook, HookError, Target};
pub use self::version::{Contents, Pending, Version};

use self::version::{INFO, PENDING};
use crate::lock::FileLock;
use crate::run_dir::read_text;

const CURRENT: &str = "current";
const LOCK: &str = "publish.lock";
/// `current` has a number and a line break.
const MAX_CURRENT: u64 = 32;

/// The versions of one adapter.
#[derive(Clone, Debug)]
pub struct Store {
    directory: PathBuf,
    name: String,
}

/// Permission to change a store, until dropped.
#[derive(Debug)]
pub struct StoreLock {
    _lock: FileLock,
}

/// A version in the list of a store.
#[derive(Debug)]
pub struct Listed {
    pub number: u64,
    pub is_current: bool,
    /// Its record, or why it can't be read.
    pub version: Result<Version, StoreError>,
}

impl Store {
    /// The store of `name` below `root`. It need not exist.
    ///
    /// # Errors
    /// [`StoreError::Name`].
    pub fn at(root: &Path, name: &str) -> Result<Self, StoreError> {
        let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.starts_with('.') || !name.chars().all(valid) {
            return Err(StoreError::Name(name.to_owned()));
        }
        Ok(Self { directory: root.join(name), name: name.to_owned() })
    }

    /// The stores below `root`, sorted by name; none if it doesn't exist.
    ///
    /// # Errors
    /// If the directory can't be read.
    pub fn all(root: &Path) -> Result<Vec<Self>, StoreError> {
        let mut found = Vec::new();
        for path in entries(root)? {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if let Ok(store) = Self::at(root, &name)
                && store.directory.join(LOCK).is_file()
            {
                found.push(store);
            }
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The directory of the versions.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The directory of a version.
    pub fn path(&self, number: u64) -> PathBuf {
        self.directory.join(directory_name(number))
    }

    /// Acquires the lock of the store, and creates the store if needed.
    ///
    /// # Errors
    /// If another process holds the lock, or the directory can't be created.
    pub fn lock(&self) -> Result<StoreLock, StoreError> {
        durable::create_dir_all(&self.directory)?;
        Ok(StoreLock { _lock: FileLock::acquire(&self.directory.join(LOCK), "publishing")? })
    }

    /// The number of the current version; `None` if nothing is published.
    ///
    /// # Errors
    /// If the pointer can't be read or is damaged.
    pub fn current(&self) -> Result<Option<u64>, StoreError> {
        let path = self.directory.join(CURRENT);
        match fs::metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StoreError::Read { path, source }),
            Ok(_) => {}
        }
        let text = read_text(&path, MAX_CURRENT)?;
        let number = text.strip_suffix('\n').and_then(|text| text.parse().ok());
        number.map(Some).ok_or(StoreError::Pointer { path })
    }

    /// The record of a version.
    ///
    /// # Errors
    /// If it doesn't exist or is damaged.
    pub fn version(&self, number: u64) -> Result<Version, StoreError> {
        Version::read(&self.path(number), number)
    }

    /// Reads every file of a version and compares it with the manifest.
    ///
    /// # Errors
    /// The first damage found.
    pub fn verify(&self, number: u64) -> Result<Version, StoreError> {
        let path = self.path(number);
        if !path.is_dir() {
            return Err(StoreError::NoVersion { name: self.name.clone(), number });
        }
        manifest::verify(&path).map_err(|damage| StoreError::Damaged { path, damage })?;
        self.version(number)
    }

    /// All versions, oldest first. Files are not compared with their manifests.
    ///
    /// # Errors
    /// If the directory or the pointer can't be read.
    pub fn list(&self) -> Result<Vec<Listed>, StoreError> {
        let current = self.current()?;
        let listed = |number| Listed { number, is_current: current == Some(number), version: self.version(number) };
        Ok(self.numbers()?.into_iter().map(listed).collect())
    }

    /// The publication or rollback that did not end, if there is one.
    ///
    /// # Errors
    /// If the record can't be read.
    pub fn pending(&self) -> Result<Option<Pending>, StoreError> {
        Pending::read(&self.directory.join(PENDING))
    }

    /// Writes a new version; see the order of a publication. Returns its number. The version is not current yet.
    ///
    /// # Errors
    /// If it can't be written, or can't be read back.
    pub fn add(&self, _lock: &StoreLock, contents: &Contents) -> Result<u64, StoreError> {
        durable::remove_scratch(&self.directory)?;
        let current = self.current()?;
        let number = self.numbers()?.last().copied().max(current).unwrap_or(0) + 1;
        let scratch = ScratchDir::beside(&self.path(number))?;
        contents.write(scratch.path(), number, current)?;
        manifest::write(scratch.path())?;
        scratch.publish()?;
        self.verify(number)?;
        Ok(number)
    }

    /// Makes a version the current one: verify, hooks, switch. Returns the number of the version that was current.
    ///
    /// # Errors
    /// If the version is damaged, a hook fails, or the pointer can't be written. `current` is unchanged in that case, and
    /// the hooks that ran were run again for the current version.
    pub fn switch(&self, _lock: &StoreLock, number: u64, hooks: &[&dyn Hook]) -> Result<Option<u64>, StoreError> {
        self.verify(number)?;
        let before = self.current()?;
        let record = self.directory.join(PENDING);
        Pending { from: before, to: number }.write(&record)?;
        let (target, back) = (self.target(Some(number), before), self.target(before, Some(number)));
        for (index, hook) in hooks.iter().enumerate() {
            if let Err(source) = hook.apply(&target) {
                let left = undo(&hooks[..=index], &back);
                if left.is_empty() {
                    durable::remove_file(&record)?;
                }
                return Err(StoreError::Hook { source, left });
            }
        }
        if let Err(error) = durable::write_file(&self.directory.join(CURRENT), format!("{number}\n").as_bytes()) {
            // The new pointer may be in place nevertheless, if only its sync has failed. It is read to find out.
            if self.current()? == before {
                let left = undo(hooks, &back);
                if left.is_empty() {
                    durable::remove_file(&record).ok();
                }
                return Err(StoreError::Switch { source: error, left });
            }
            return Err(error.into());
        }
        durable::remove_file(&record)?;
        Ok(before)
    }

    /// The version to which a rollback returns: the one that was current when the current one was published.
    ///
    /// # Errors
    /// If nothing is published, or there was nothing before.
    pub fn previous(&self) -> Result<u64, StoreError> {
        let current = self.current()?.ok_or_else(|| StoreError::NothingPublished { name: self.name.clone() })?;
        let previous = self.version(current)?.previous;
        previous.ok_or_else(|| StoreError::NoPrevious { name: self.name.clone(), current })
    }

    /// Ends a publication that was killed: if `current` was not switched, the hooks run for the current version. Returns the
    /// record of the publication.
    ///
    /// # Errors
    /// If a hook fails. The next call tries again.
    pub fn settle(&self, _lock: &StoreLock, hooks: &[&dyn Hook]) -> Result<Option<Pending>, StoreError> {
        let Some(pending) = self.pending()? else { return Ok(None) };
        let current = self.current()?;
        if current != Some(pending.to) {
            let mut left = undo(hooks, &self.target(current, Some(pending.to)));
            if !left.is_empty() {
                let source = left.remove(0);
                return Err(StoreError::Hook { source, left });
            }
        }
        durable::remove_file(&self.directory.join(PENDING))?;
        Ok(Some(pending))
    }

    /// Removes all versions but the `keep` newest, the current one and the one before it. Returns the removed numbers.
    ///
    /// # Errors
    /// If a version can't be removed.
    pub fn prune(&self, _lock: &StoreLock, keep: usize) -> Result<Vec<u64>, StoreError> {
        let current = self.current()?;
        // A damaged record names no previous version. Then nothing is removed, because one of them is the previous one.
        let previous = match current {
            Some(number) => self.version(number)?.previous,
            None => None,
        };
        let mut old = self.numbers()?;
        old.truncate(old.len().saturating_sub(keep.max(1)));
        old.retain(|number| Some(*number) != current && Some(*number) != previous);
        for number in &old {
            manifest::remove(&self.path(*number))?;
        }
        Ok(old)
    }

    /// The numbers of all version directories, in their order.
    fn numbers(&self) -> Result<Vec<u64>, StoreError> {
        let names = entries(&self.directory)?.into_iter();
        let mut found: Vec<u64> = names.filter_map(|path| number_of(&path.file_name()?.to_string_lossy())).collect();
        found.sort_unstable();
        Ok(found)
    }

    fn target(&self, number: Option<u64>, instead_of: Option<u64>) -> Target {
        let path = |number| self.path(number);
        Target {
            name: self.name.clone(),
            number,
            path: number.map(path),
            instead_of,
            instead_of_path: instead_of.map(path),
        }
    }
}

/// Runs hooks in reverse order. Returns the errors of those that failed.
fn undo(hooks: &[&dyn Hook], target: &Target) -> Vec<HookError> {
    hooks.iter().rev().filter_map(|hook| hook.apply(target).err()).collect()
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let failed = |source| StoreError::Read { path: directory.to_owned(), source };
    match fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries.map_err(failed)?.map(|entry| Ok(entry.map_err(failed)?.path())).collect(),
    }
}

fn directory_name(number: u64) -> String {
    format!("{number:06}")
}

/// Only one spelling is accepted, so that no version has two directories.
fn number_of(name: &str) -> Option<u64> {
    let number = name.parse().ok()?;
    (number > 0 && directory_name(number) == name).then_some(number)
}

/// Whether a file of a version is written by the store itself.
fn is_own(name: &str) -> bool {
    [INFO, manifest::MANIFEST].contains(&name)
}

#[cfg(test)]
mod crash;
#[cfg(test)]
mod tests;
