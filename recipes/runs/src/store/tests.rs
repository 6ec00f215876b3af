#![expect(clippy::disallowed_methods, reason = "tests write their own files")]

use std::cell::{Cell, RefCell};

use super::*;
use crate::checkpoint_dir::Damage;
use crate::lock::LockError;

/// A server, which uses a version or refuses to.
#[derive(Default)]
pub(super) struct Server {
    pub(super) uses: Cell<Option<u64>>,
    refuses: Cell<Option<u64>>,
    calls: RefCell<Vec<Target>>,
}

impl Hook for Server {
    fn apply(&self, target: &Target) -> Result<(), HookError> {
        self.calls.borrow_mut().push(target.clone());
        if target.number.is_some() && target.number == self.refuses.get() {
            return Err(HookError { hook: "http://server".to_owned(), message: "no".to_owned() });
        }
        self.uses.set(target.number);
        Ok(())
    }
}

/// An adapter directory whose weights are `text`.
pub(super) fn contents(dir: &Path, text: &str) -> Contents {
    let adapter = dir.join("made");
    fs::create_dir_all(adapter.join("deep")).expect("made");
    for name in ["adapter_config.json", "adapter_model.safetensors", "deep/more"] {
        fs::write(adapter.join(name), format!("{name} {text}")).expect("written");
    }
    let mut contents = Contents { run: format!("run-{text}"), ..Contents::default() };
    contents.add_dir("adapter", &adapter).expect("readable");
    contents
}

fn publish(store: &Store, dir: &Path, text: &str, hooks: &[&dyn Hook]) -> Result<u64, StoreError> {
    let lock = store.lock()?;
    let number = store.add(&lock, &contents(dir, text))?;
    store.switch(&lock, number, hooks)?;
    Ok(number)
}

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().expect("temp dir");
    let store = Store::at(&dir.path().join("store"), "house-style").expect("a name");
    (dir, store)
}

#[test]
fn versions_are_numbered_and_one_is_current() {
    let (dir, store) = store();
    let server = Server::default();
    assert_eq!((store.current().expect("readable"), store.list().expect("readable").len()), (None, 0));
    for (number, text) in [(1, "a"), (2, "b"), (3, "c")] {
        assert_eq!(publish(&store, dir.path(), text, &[&server]).expect("published"), number);
        assert_eq!((store.current().expect("readable"), server.uses.get()), (Some(number), Some(number)));
        let version = store.verify(number).expect("whole");
        assert_eq!((version.previous, version.run), (number.checked_sub(1).filter(|n| *n > 0), format!("run-{text}")));
        let weights = store.path(number).join("adapter/adapter_model.safetensors");
        assert_eq!(fs::read_to_string(weights).expect("readable"), format!("adapter_model.safetensors {text}"));
        assert!(store.path(number).join("adapter/deep/more").is_file());
    }
    let pointer = dir.path().join("store/house-style/current");
    assert_eq!(fs::read_to_string(pointer).expect("readable"), "3\n");
    assert!(store.pending().expect("readable").is_none());
    let call = server.calls.borrow().last().cloned().expect("three calls");
    assert_eq!((call.number, call.instead_of), (Some(3), Some(2)));
    assert_eq!(call.path, Some(store.path(3)));
    let stores = Store::all(&dir.path().join("store")).expect("readable");
    assert_eq!(stores.iter().map(Store::name).collect::<Vec<_>>(), ["house-style"]);
}

#[test]
fn a_rollback_steps_back_and_the_next_version_has_a_new_number() {
    let (dir, store) = store();
    let server = Server::default();
    for text in ["a", "b", "c"] {
        publish(&store, dir.path(), text, &[&server]).expect("published");
    }
    for expected in [2, 1] {
        let lock = store.lock().expect("free");
        let previous = store.previous().expect("one");
        assert_eq!(previous, expected);
        store.switch(&lock, previous, &[&server]).expect("switched");
        assert_eq!((store.current().expect("readable"), server.uses.get()), (Some(expected), Some(expected)));
    }
    assert!(matches!(store.previous(), Err(StoreError::NoPrevious { current: 1, .. })));
    assert_eq!(publish(&store, dir.path(), "d", &[]).expect("published"), 4);
    assert_eq!(store.verify(4).expect("whole").previous, Some(1));
}

#[test]
fn a_hook_that_fails_changes_nothing() {
    let (dir, store) = store();
    let (first, second) = (Server::default(), Server::default());
    let hooks: [&dyn Hook; 2] = [&first, &second];
    publish(&store, dir.path(), "a", &hooks).expect("published");
    second.refuses.set(Some(2));
    let error = publish(&store, dir.path(), "b", &hooks).expect_err("the second server refuses");
    assert!(matches!(&error, StoreError::Hook { left, .. } if left.is_empty()), "{error:?}");
    assert_eq!(store.current().expect("readable"), Some(1));
    assert_eq!((first.uses.get(), second.uses.get()), (Some(1), Some(1)), "the first server is switched back");
    assert!(store.pending().expect("readable").is_none());

    // The first publication has nothing to go back to.
    let (other_dir, other) = self::store();
    first.refuses.set(Some(1));
    publish(&other, other_dir.path(), "a", &[&second, &first]).expect_err("refused");
    assert_eq!((other.current().expect("readable"), second.uses.get()), (None, None));
}

#[test]
fn an_undo_that_fails_is_tried_again() {
    struct Broken;
    impl Hook for Broken {
        fn apply(&self, _: &Target) -> Result<(), HookError> {
            Err(HookError { hook: "false".to_owned(), message: "exit code 1".to_owned() })
        }
    }
    let (dir, store) = store();
    let server = Server::default();
    publish(&store, dir.path(), "a", &[&server]).expect("published");
    let error = publish(&store, dir.path(), "b", &[&server, &Broken]).expect_err("broken");
    assert!(error.to_string().contains("a server may still use the new one"), "{error}");
    assert_eq!(store.pending().expect("readable"), Some(Pending { from: Some(1), to: 2 }));
    server.uses.set(Some(2));
    let lock = store.lock().expect("free");
    assert!(store.settle(&lock, &[&server, &Broken]).is_err());
    assert!(store.settle(&lock, &[&server]).expect("settled").is_some());
    assert_eq!((server.uses.get(), store.pending().expect("readable")), (Some(1), None));
}

#[test]
fn damaged_versions_never_become_current() {
    let (dir, store) = store();
    publish(&store, dir.path(), "a", &[]).expect("published");
    type Case = (&'static str, fn(&Path), fn(&Damage) -> bool);
    let damages: [Case; 5] = [
        (
            "content",
            |dir| fs::write(dir.join("adapter/deep/more"), "deep/more x").expect("written"),
            |damage| matches!(damage, Damage::Content(name) if name == "adapter/deep/more"),
        ),
        (
            "size",
            |dir| fs::write(dir.join("adapter/deep/more"), "").expect("written"),
            |damage| matches!(damage, Damage::Size { .. }),
        ),
        (
            "missing",
            |dir| fs::remove_file(dir.join("version.json")).expect("removed"),
            |damage| matches!(damage, Damage::Missing(name) if name == "version.json"),
        ),
        (
            "manifest",
            |dir| fs::remove_file(dir.join("MANIFEST.json")).expect("removed"),
            |damage| matches!(damage, Damage::NoManifest),
        ),
        (
            "outside",
            |dir| {
                let path = dir.join("MANIFEST.json");
                let text = fs::read_to_string(&path).expect("readable").replace("adapter/deep/more", "../current");
                fs::write(path, text).expect("written");
            },
            |damage| matches!(damage, Damage::FileName(_)),
        ),
    ];
    for (index, (name, damage, expected)) in damages.into_iter().enumerate() {
        let lock = store.lock().expect("free");
        let number = store.add(&lock, &contents(dir.path(), "b")).expect("written");
        assert_eq!(number, index as u64 + 2);
        damage(&store.path(number));
        let server = Server::default();
        let error = store.switch(&lock, number, &[&server]).expect_err(name);
        assert!(matches!(&error, StoreError::Damaged { damage, .. } if expected(damage)), "{name}: {error:?}");
        assert_eq!((store.current().expect("readable"), server.calls.borrow().len()), (Some(1), 0));
    }
}

#[test]
fn prune_keeps_the_newest_the_current_and_the_one_before() {
    let (dir, store) = store();
    for text in ["a", "b", "c", "d", "e", "f"] {
        publish(&store, dir.path(), text, &[]).expect("published");
    }
    let lock = store.lock().expect("free");
    // The current version is 3 now, and the one before it is 2.
    store.switch(&lock, 3, &[]).expect("switched");
    assert_eq!(store.prune(&lock, 2).expect("pruned"), [1, 4]);
    let left: Vec<u64> = store.list().expect("readable").iter().map(|listed| listed.number).collect();
    assert_eq!(left, [2, 3, 5, 6]);
    assert_eq!(store.prune(&lock, 0).expect("pruned"), [5]);
    for number in [2, 3, 6] {
        store.verify(number).expect("whole");
    }
}

#[test]
fn a_store_has_one_publisher() {
    let (dir, store) = store();
    let lock = store.lock().expect("free");
    let error = publish(&store, dir.path(), "a", &[]).expect_err("busy");
    assert!(matches!(error, StoreError::Lock(LockError::Taken { .. })), "{error:?}");
    drop(lock);
    publish(&store, dir.path(), "a", &[]).expect("free again");
}

#[test]
fn names_and_pointers_stay_inside() {
    for name in ["", ".", "..", "a/b", "../a", "a\\b", ".hidden", "ü"] {
        assert!(matches!(Store::at(Path::new("store"), name), Err(StoreError::Name(_))), "{name}");
    }
    let (dir, store) = store();
    publish(&store, dir.path(), "a", &[]).expect("published");
    for text in ["", "1", "x\n", "-1\n", "../1\n", "99999999999999999999999999999999\n"] {
        fs::write(dir.path().join("store/house-style/current"), text).expect("written");
        assert!(store.current().is_err(), "{text:?}");
    }
    fs::write(dir.path().join("store/house-style/current"), "7\n").expect("written");
    assert_eq!(store.current().expect("a number"), Some(7));
    assert!(store.previous().is_err() && store.prune(&store.lock().expect("free"), 1).is_err());
}

#[test]
fn files_of_the_store_can_not_be_replaced() {
    let (dir, store) = store();
    for name in ["version.json", "MANIFEST.json", "../x", "/etc/x", ""] {
        let mut contents = contents(dir.path(), "a");
        contents.files.insert(name.to_owned(), dir.path().join("made/deep/more"));
        let error = store.add(&store.lock().expect("free"), &contents).expect_err(name);
        assert!(matches!(error, StoreError::FileName { .. }), "{name}: {error:?}");
        assert!(store.list().expect("readable").is_empty());
    }
}
