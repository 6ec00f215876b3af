//! Exports after a kill: nothing looks finished that isn't, and the next export finishes.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tonfall_adapters::export::{self, Artifact, ExportError, ExportSettings, Trained};
use tonfall_adapters::peft::Adapter;
use tonfall_adapters::{BaseModel, ChatSettings};
use tonfall_blocks::Format;

use crate::files::fixture;
use crate::peft_files::trained;

/// Several small shards.
fn settings() -> ExportSettings {
    ExportSettings { dtype: Some(Format::F32), max_shard_bytes: 60_000, ..ExportSettings::default() }
}

/// Exports to `dir/model`. `at` is called at each progress with its number.
fn run(adapter: &Adapter, dir: &Path, at: &mut dyn FnMut(usize)) -> Result<(), ExportError> {
    let base = BaseModel::open(&fixture("families/llama")).unwrap();
    let chat = ChatSettings::default();
    let artifact = Artifact {
        name: "",
        lineage: &[],
        base: &base,
        trained: Trained::Adapter(adapter),
        chat: &chat,
        render_chat: None,
    };
    let mut count = 0;
    let export = export::find("safetensors").unwrap();
    let report = export.run(&artifact, &settings(), &dir.join("model"), &mut |done, total| {
        assert!(done <= total);
        at(count);
        count += 1;
        ControlFlow::Continue(())
    })?;
    assert_eq!(report.changed_tensors, 14);
    Ok(())
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to.join(entry.file_name())),
            false => drop(fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
        }
    }
}

fn content(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| (path.strip_prefix(dir).unwrap().to_owned(), fs::read(&path).unwrap())).collect()
}

/// The states of a directory that a kill at each progress of an export leaves.
fn killed() -> Vec<TempDir> {
    let dir = tempfile::tempdir().unwrap();
    let states = RefCell::new(Vec::new());
    run(&trained(), dir.path(), &mut |_| {
        let state = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(dir.path()).unwrap() {
            let entry = entry.unwrap();
            copy(&entry.path(), &state.path().join(entry.file_name()));
        }
        states.borrow_mut().push(state);
    })
    .unwrap();
    states.into_inner()
}

/// The records of finished shards, and the modification times of these shards.
fn finished(dir: &Path) -> Vec<PathBuf> {
    let scratch = fs::read_dir(dir).unwrap().next().unwrap().unwrap().path();
    let entries = fs::read_dir(&scratch).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.to_string_lossy().ends_with(".safetensors")).collect()
}

#[test]
fn after_a_kill_at_any_moment_the_next_export_finishes() {
    let clean = tempfile::tempdir().unwrap();
    run(&trained(), clean.path(), &mut |_| ()).unwrap();
    let expected = content(&clean.path().join("model"));
    let states = killed();
    assert!(states.len() > 8, "{}", states.len());
    let mut taken_over = 0;
    for (number, state) in states.iter().enumerate() {
        assert!(!state.path().join("model").exists(), "nothing looks finished");
        // Files that are taken over keep this mark, files that are written again don't.
        let old = std::time::SystemTime::UNIX_EPOCH;
        let marked = finished(state.path());
        for path in &marked {
            fs::File::options().write(true).open(path).unwrap().set_modified(old).unwrap();
        }
        run(&trained(), state.path(), &mut |_| ()).unwrap();
        let model = state.path().join("model");
        assert_eq!(content(&model), expected, "killed at {number}");
        let is_old =
            |path: &&PathBuf| model.join(path.file_name().unwrap()).metadata().unwrap().modified().unwrap() == old;
        taken_over += marked.iter().filter(is_old).count();
        assert_eq!(fs::read_dir(state.path()).unwrap().count(), 1, "no scratch is left");
    }
    assert!(taken_over > 3, "{taken_over} shards were taken over");
}

#[test]
fn shards_of_another_adapter_and_damaged_shards_are_written_again() {
    let mut other = trained();
    other.tensors.iter_mut().for_each(|tensor| tensor.values.iter_mut().for_each(|value| *value *= 2.0));
    for adapter in [trained(), other] {
        let clean = tempfile::tempdir().unwrap();
        run(&adapter, clean.path(), &mut |_| ()).unwrap();
        let state = killed().pop().unwrap();
        for path in finished(state.path()) {
            let mut bytes = fs::read(&path).unwrap();
            if adapter == trained() {
                *bytes.last_mut().unwrap() ^= 1;
            }
            fs::write(&path, bytes).unwrap();
        }
        run(&adapter, state.path(), &mut |_| ()).unwrap();
        assert_eq!(content(&state.path().join("model")), content(&clean.path().join("model")));
    }
}
