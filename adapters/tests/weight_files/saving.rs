//! Saving full models and opening them again.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use tonfall_adapters::export::{self, Artifact, ExportError, ExportSettings, Trained, Values};
use tonfall_adapters::{BaseModel, ChatSettings};
use tonfall_blocks::Format;

use crate::files::{copy_of, fixture, values};

const FAMILIES: [&str; 8] = ["llama", "llama_tied", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3"];

fn save(
    base: &BaseModel,
    dtype: Format,
    max_shard_bytes: u64,
    out: &Path,
    values: Values<'_>,
) -> Result<(), ExportError> {
    let artifact = Artifact {
        name: "",
        lineage: &[],
        render_chat: None,
        base,
        trained: Trained::Full(values),
        chat: &ChatSettings::default(),
    };
    let settings = ExportSettings { dtype: Some(dtype), max_shard_bytes, ..ExportSettings::default() };
    let safetensors = export::find("safetensors").unwrap();
    safetensors.run(&artifact, &settings, out, &mut |_, _| ControlFlow::Continue(())).map(|_| ())
}

#[test]
fn every_family_round_trips() {
    for family in FAMILIES {
        let source = BaseModel::open(&fixture("families").join(family)).unwrap();
        for (dtype, shard) in [(Format::F32, 5_000_000_000), (Format::Bf16, 20_000)] {
            let dir = tempfile::tempdir().unwrap();
            let asked: RefCell<BTreeMap<String, usize>> = RefCell::default();
            save(&source, dtype, shard, dir.path(), &|name| {
                *asked.borrow_mut().entry(name.to_owned()).or_default() += 1;
                Ok(values(&source, name))
            })
            .unwrap();
            let saved = BaseModel::open(dir.path()).unwrap();
            assert_eq!(saved.description(), source.description(), "{family}");
            for name in source.weight_names() {
                assert_eq!(values(&saved, &name), values(&source, &name), "{family}: {name}");
                assert_eq!(asked.borrow()[&name], 1, "{name}");
            }
            assert_eq!(dir.path().join("model.safetensors.index.json").exists(), shard == 20_000);
        }
    }
}

#[test]
fn side_files_are_copied_and_the_configuration_is_generated() {
    let copy = copy_of("llama");
    std::fs::write(copy.path().join("tokenizer.json"), "{\"carried\": true}").unwrap();
    let source = BaseModel::open(copy.path()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    save(&source, Format::F16, 1 << 30, dir.path(), &|name| Ok(values(&source, name))).unwrap();
    let read = |name: &str| String::from_utf8(std::fs::read(dir.path().join(name)).unwrap()).unwrap();
    assert!(read("tokenizer.json").contains("carried"));
    assert!(read("config.json").contains("float16"));
}

#[test]
fn weights_that_are_no_valid_model_are_refused() {
    let source = BaseModel::open(&fixture("families/llama_tied")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let save = |dtype, edit: fn(&mut Vec<f32>)| {
        save(&source, dtype, 1 << 30, dir.path(), &|name| {
            let mut values = values(&source, name);
            if name == "model.norm.weight" {
                edit(&mut values);
            }
            Ok(values)
        })
        .unwrap_err()
    };
    let error = save(Format::F32, |values| values.truncate(63));
    assert!(matches!(&error, ExportError::Values { found: 63, expected: 64, .. }), "{error:?}");
    let error = save(Format::F32, |values| values[5] = f32::NAN);
    assert!(matches!(&error, ExportError::NotFinite { place, .. } if place.column == 5), "{error:?}");
    let error = save(Format::F16, |values| values[5] = 70_000.0);
    assert!(matches!(&error, ExportError::Overflow { value: 70_000.0, format: Format::F16, .. }), "{error:?}");
    let error = save(Format::Nf4, |_| {});
    assert!(matches!(error, ExportError::Format { .. }), "{error:?}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left");
}

#[test]
fn a_model_is_not_overwritten() {
    let source = BaseModel::open(&fixture("families/llama_tied")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let save = || save(&source, Format::F32, 1 << 30, dir.path(), &|name| Ok(values(&source, name)));
    save().unwrap();
    assert!(matches!(save(), Err(ExportError::OutputExists { .. })));
}
