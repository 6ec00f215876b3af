use super::*;

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("readable");
    let mut names: Vec<_> = entries.map(|entry| entry.expect("entry").file_name().to_string_lossy().into()).collect();
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
