//! Crashes at every operation of publications and rollbacks.
//!
//! The operations are recorded once ([`tonfall_durable::watch`]). Then the disk is built as a crash after each of them may
//! leave it: with all operations (a kill), with only those that were synced, and with random choices of the others (a
//! power cut). In each state the store must be whole, and the next publication must work.
#![expect(clippy::disallowed_methods, reason = "tests write their own files")]

use std::collections::BTreeMap;
use std::io::ErrorKind;

use tonfall_durable::watch::{Fault, Operation, watch};

use super::tests::contents;
use super::*;
use crate::statistics::Random;

/// A server whose version is a file, so that it is part of the disk.
struct Server(PathBuf);

impl Server {
    fn uses(&self) -> Option<u64> {
        fs::read_to_string(&self.0).ok().and_then(|text| text.parse().ok())
    }
}

impl Hook for Server {
    fn apply(&self, target: &Target) -> Result<(), HookError> {
        let text = target.number.map_or_else(|| "none".to_owned(), |number| number.to_string());
        let failed = |error: durable::DurableError| HookError { hook: "server".to_owned(), message: error.to_string() };
        durable::write_file(&self.0, text.as_bytes()).map_err(failed)
    }
}

/// A file or a directory, as programs see it and as it is on the disk.
enum Node {
    File { seen: Vec<u8>, kept: Vec<u8> },
    Dir { seen: BTreeMap<String, usize>, kept: BTreeMap<String, usize>, pending: Vec<Vec<Change>> },
}

/// An entry of a directory gets this node, or is removed.
type Change = (String, Option<usize>);

struct Disk {
    root: PathBuf,
    /// The first node is the root.
    nodes: Vec<Node>,
}

/// A directory in memory if there is one: a sync takes milliseconds on a disk, and the tests simulate it anyway.
fn temporary() -> tempfile::TempDir {
    let made = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    made.expect("temp dir")
}

/// How much of what was not synced is on the disk.
#[derive(Clone, Copy)]
enum Left {
    All,
    Nothing,
    Random,
}

impl Disk {
    /// Everything in a directory, durable.
    fn of(root: &Path) -> Self {
        let mut disk = Self { root: root.to_owned(), nodes: Vec::new() };
        disk.load(root);
        disk
    }

    fn load(&mut self, path: &Path) -> usize {
        let index = self.nodes.len();
        if path.is_file() {
            let content = fs::read(path).expect("readable");
            self.nodes.push(Node::File { seen: content.clone(), kept: content });
            return index;
        }
        self.nodes.push(Node::Dir { seen: BTreeMap::new(), kept: BTreeMap::new(), pending: Vec::new() });
        for entry in fs::read_dir(path).expect("readable") {
            let path = entry.expect("an entry").path();
            let child = self.load(&path);
            let Node::Dir { seen, kept, .. } = &mut self.nodes[index] else { unreachable!("a directory") };
            seen.insert(name(&path), child);
            kept.insert(name(&path), child);
        }
        index
    }

    fn find(&self, path: &Path) -> Option<usize> {
        let mut found = 0;
        for part in path.strip_prefix(&self.root).ok()?.components() {
            let Node::Dir { seen, .. } = &self.nodes[found] else { return None };
            found = *seen.get(part.as_os_str().to_str()?)?;
        }
        Some(found)
    }

    fn change(&mut self, dir: usize, changes: Vec<Change>) {
        let Node::Dir { seen, pending, .. } = &mut self.nodes[dir] else { unreachable!("a directory") };
        apply(seen, &changes);
        pending.push(changes);
    }

    fn parent(&self, path: &Path) -> Option<usize> {
        self.find(path.parent()?)
    }

    fn perform(&mut self, operation: &Operation) {
        match operation {
            Operation::CreateDir(path) => {
                if let (Some(parent), None) = (self.parent(path), self.find(path)) {
                    self.nodes.push(Node::Dir { seen: BTreeMap::new(), kept: BTreeMap::new(), pending: Vec::new() });
                    self.change(parent, vec![(name(path), Some(self.nodes.len() - 1))]);
                }
            }
            Operation::Write { path, content } => match (self.find(path), self.parent(path)) {
                (Some(file), _) => {
                    let Node::File { seen, .. } = &mut self.nodes[file] else { panic!("{path:?} is a directory") };
                    seen.clone_from(content);
                }
                (None, Some(parent)) => {
                    self.nodes.push(Node::File { seen: content.clone(), kept: Vec::new() });
                    self.change(parent, vec![(name(path), Some(self.nodes.len() - 1))]);
                }
                (None, None) => panic!("{path:?} has no directory"),
            },
            Operation::Rename { from, to } => {
                let Some(node) = self.find(from) else { return };
                let (old, new) = (self.parent(from).expect("a directory"), self.parent(to).expect("a directory"));
                assert_eq!(old, new, "the store renames within a directory");
                self.change(old, vec![(name(from), None), (name(to), Some(node))]);
            }
            Operation::RemoveFile(path) => {
                let is_file = self.find(path).is_some_and(|node| matches!(self.nodes[node], Node::File { .. }));
                if let Some(parent) = self.parent(path).filter(|_| is_file) {
                    self.change(parent, vec![(name(path), None)]);
                }
            }
            Operation::RemoveDir(path) => {
                if let (Some(node), Some(parent)) = (self.find(path), self.parent(path)) {
                    self.empty(node);
                    self.change(parent, vec![(name(path), None)]);
                }
            }
            Operation::SyncFile(path) => {
                if let Some(Node::File { seen, kept }) = self.find(path).map(|node| &mut self.nodes[node]) {
                    kept.clone_from(seen);
                }
            }
            Operation::SyncDir(path) => {
                if let Some(Node::Dir { seen, kept, pending }) = self.find(path).map(|node| &mut self.nodes[node]) {
                    kept.clone_from(seen);
                    pending.clear();
                }
            }
        }
    }

    fn empty(&mut self, node: usize) {
        let Node::Dir { seen, .. } = &self.nodes[node] else { return };
        for (name, child) in seen.clone() {
            self.empty(child);
            self.change(node, vec![(name, None)]);
        }
    }

    /// Writes the disk after a crash to an empty directory.
    fn build(&self, to: &Path, left: Left, random: &mut Random) {
        self.build_node(0, to, left, random);
    }

    fn build_node(&self, node: usize, to: &Path, left: Left, random: &mut Random) {
        match &self.nodes[node] {
            Node::File { seen, kept } => {
                let content = match left {
                    Left::All => &seen[..],
                    Left::Nothing => &kept[..],
                    Left::Random if seen == kept => &kept[..],
                    Left::Random => match random.below(3) {
                        0 => &kept[..],
                        1 => &seen[..],
                        _ => &seen[..random.below(seen.len() + 1)],
                    },
                };
                fs::write(to, content).expect("written");
            }
            Node::Dir { seen, kept, pending } => {
                let entries = match left {
                    Left::All => seen.clone(),
                    Left::Nothing => kept.clone(),
                    Left::Random => {
                        let mut entries = kept.clone();
                        for changes in pending.iter().filter(|_| random.below(2) == 0) {
                            apply(&mut entries, changes);
                        }
                        entries
                    }
                };
                fs::create_dir_all(to).expect("made");
                for (name, child) in entries {
                    self.build_node(child, &to.join(name), left, random);
                }
            }
        }
    }
}

fn apply(entries: &mut BTreeMap<String, usize>, changes: &[Change]) {
    for (name, node) in changes {
        match node {
            Some(node) => drop(entries.insert(name.clone(), *node)),
            None => drop(entries.remove(name)),
        }
    }
}

fn name(path: &Path) -> String {
    path.file_name().expect("a name").to_string_lossy().into_owned()
}

/// One command, as the program runs it.
#[derive(Clone, Copy, Debug)]
enum Step {
    Publish(&'static str),
    Rollback,
    Prune(usize),
}

const STEPS: [Step; 9] = [
    Step::Publish("a"),
    Step::Publish("b"),
    Step::Publish("c"),
    Step::Prune(1),
    Step::Rollback,
    Step::Publish("d"),
    Step::Prune(1),
    Step::Publish("e"),
    Step::Prune(1),
];

fn at(root: &Path) -> (Store, Server) {
    (Store::at(&root.join("store"), "style").expect("a name"), Server(root.join("server")))
}

fn run(root: &Path, made: &Path, step: Step) -> Result<(), StoreError> {
    let (store, server) = at(root);
    let lock = store.lock()?;
    store.settle(&lock, &[&server])?;
    match step {
        Step::Publish(text) => {
            let number = store.add(&lock, &contents(made, text))?;
            store.switch(&lock, number, &[&server])?;
        }
        Step::Rollback => drop(store.switch(&lock, store.previous()?, &[&server])?),
        Step::Prune(keep) => drop(store.prune(&lock, keep)?),
    }
    Ok(())
}

/// What is wrong with a store whose current version may be one of these, before and after the next commands.
fn fault(root: &Path, made: &Path, allowed: &[Option<u64>]) -> Option<String> {
    let (store, server) = at(root);
    let current = match store.current() {
        Ok(current) if allowed.contains(&current) => current,
        other => return Some(format!("current is {other:?} instead of {allowed:?}")),
    };
    if let Some(number) = current {
        let version = match store.verify(number) {
            Ok(version) => version,
            Err(error) => return Some(format!("current: {error}")),
        };
        // After a rollback, the version before may be an old one that was removed.
        let is_newest = store.numbers().is_ok_and(|numbers| numbers.last() == Some(&number));
        if let Some(Err(error)) = version.previous.filter(|_| is_newest).map(|previous| store.verify(previous)) {
            return Some(format!("previous: {error}"));
        }
    }
    let settled = store.lock().and_then(|lock| store.settle(&lock, &[&server]));
    if settled.is_err() || server.uses() != current {
        return Some(format!("the server uses {:?} instead of {current:?}: {settled:?}", server.uses()));
    }
    for step in [Step::Publish("z"), Step::Prune(1)] {
        if let Err(error) = run(root, made, step) {
            return Some(format!("{step:?}: {error}"));
        }
    }
    let number = store.current().ok().flatten();
    let weights = number.and_then(|number| fs::read_to_string(store.path(number).join("adapter/deep/more")).ok());
    let is_new = number > current && weights.as_deref() == Some("deep/more z") && server.uses() == number;
    let names = || entries(&root.join("store/style")).expect("readable").into_iter().map(|path| name(&path));
    let scratch = names().any(|name| name.starts_with(durable::SCRATCH_PREFIX) || name == PENDING);
    (!is_new || scratch)
        .then(|| format!("after the next publication: {number:?} {weights:?} {:?}", names().collect::<Vec<_>>()))
}

/// The faults after crashes. `performed` tells which operations reach the disk at all.
fn crashes(states: u64, performed: fn(&Operation) -> bool) -> (u64, Vec<String>) {
    let dir = temporary();
    let (root, made) = (dir.path().join("root"), dir.path().join("source"));
    fs::create_dir_all(&root).expect("made");
    let (mut count, mut faults) = (0, Vec::new());
    let mut disk = Disk::of(&root);
    let mut random = Random::new(7);
    for step in STEPS {
        let before = at(&root).0.current().expect("readable");
        let (done, operations) = watch(None, || run(&root, &made, step));
        done.unwrap_or_else(|error| panic!("{step:?}: {error}"));
        let after = at(&root).0.current().expect("readable");
        for (index, operation) in operations.iter().enumerate() {
            if performed(operation) {
                disk.perform(operation);
            }
            let is_last = index + 1 == operations.len();
            let allowed = if is_last { vec![after] } else { vec![before, after] };
            for state in 0..states {
                let left = match state {
                    0 => Left::All,
                    1 => Left::Nothing,
                    _ => Left::Random,
                };
                let crashed = dir.path().join("crashed");
                fs::remove_dir_all(&crashed).ok();
                disk.build(&crashed, left, &mut random);
                count += 1;
                if let Some(fault) = fault(&crashed, &made, &allowed) {
                    faults.push(format!("{step:?}, after operation {index} of {}: {fault}", operations.len()));
                }
            }
        }
    }
    (count, faults)
}

/// `TONFALL_CRASHES` sets how many states of the disk are built per operation.
#[test]
fn no_crash_loses_a_published_version() {
    let states = std::env::var("TONFALL_CRASHES").ok().and_then(|text| text.parse().ok()).unwrap_or(5);
    let (count, faults) = crashes(states, |_| true);
    eprintln!("{count} crashes");
    assert!(count > 1000, "{count} crashes are too few");
    assert_eq!(faults, Vec::<String>::new());
}

/// Whether the simulation finds a missing sync at all.
#[test]
fn without_syncs_versions_are_lost() {
    type Kind = (&'static str, fn(&Operation) -> bool);
    let kinds: [Kind; 2] = [
        ("files", |operation| !matches!(operation, Operation::SyncFile(_))),
        ("directories", |operation| !matches!(operation, Operation::SyncDir(_))),
    ];
    for (name, performed) in kinds {
        let (count, faults) = crashes(2, performed);
        assert!(!faults.is_empty(), "no fault in {count} crashes without syncs of {name}");
    }
}

#[test]
fn an_operation_that_fails_loses_nothing() {
    for lasting in [false, true] {
        for kind in [ErrorKind::StorageFull, ErrorKind::PermissionDenied] {
            let dir = temporary();
            let (root, made) = (dir.path().join("root"), dir.path().join("source"));
            fs::create_dir_all(&root).expect("made");
            for step in [Step::Publish("a"), Step::Publish("b"), Step::Rollback] {
                run(&root, &made, step).expect("published");
            }
            let whole = Disk::of(&root);
            for step in [Step::Publish("c"), Step::Prune(1)] {
                let (_, operations) = watch(None, || run(&root, &made, step));
                for operation in 0..operations.len() {
                    let broken = dir.path().join("broken");
                    fs::remove_dir_all(&broken).ok();
                    whole.build(&broken, Left::All, &mut Random::new(0));
                    let fail = Fault { operation, kind, lasting };
                    let (done, _) = watch(Some(fail), || run(&broken, &made, step));
                    let current = at(&broken).0.current().expect("readable");
                    assert!(
                        done.is_err() || current != Some(1) || matches!(step, Step::Prune(_)),
                        "{step:?} {operation}"
                    );
                    let allowed = [Some(1), Some(3)];
                    assert_eq!(fault(&broken, &made, &allowed), None, "{step:?} {operation} {lasting} {kind:?}");
                }
            }
        }
    }
}
