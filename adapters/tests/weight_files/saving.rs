//! Saving full models and opening them again.

use std::collections::BTreeMap;

use tonfall_adapters::save_model::{SaveError, SaveOptions, save_model};
use tonfall_adapters::{BaseModel, SideFile};
use tonfall_blocks::Format;

use crate::files::{fixture, values};

const FAMILIES: [&str; 8] = ["llama", "llama_tied", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3"];

fn options(dtype: Format, max_shard_bytes: u64) -> SaveOptions {
    SaveOptions { dtype, max_shard_bytes }
}

#[test]
fn every_family_round_trips() {
    for family in FAMILIES {
        let source = BaseModel::open(&fixture("families").join(family)).unwrap();
        for (dtype, shard) in [(Format::F32, 5_000_000_000), (Format::Bf16, 20_000)] {
            let dir = tempfile::tempdir().unwrap();
            let mut asked: BTreeMap<String, usize> = BTreeMap::new();
            save_model(dir.path(), source.description(), &options(dtype, shard), &[], &mut |name| {
                *asked.entry(name.to_owned()).or_default() += 1;
                Ok(values(&source, name))
            })
            .unwrap();
            let saved = BaseModel::open(dir.path()).unwrap();
            assert_eq!(saved.description(), source.description(), "{family}");
            for name in source.weight_names() {
                assert_eq!(values(&saved, &name), values(&source, &name), "{family}: {name}");
                assert_eq!(asked[&name], 2, "once for writing, once for comparing");
            }
            assert_eq!(dir.path().join("model.safetensors.index.json").exists(), shard == 20_000);
        }
    }
}

#[test]
fn side_files_are_copied_and_the_configuration_is_generated() {
    let source = BaseModel::open(&fixture("families/llama")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| SideFile { name: name.to_owned(), bytes: b"{\"carried\": true}".to_vec() };
    let side = [file("tokenizer.json"), file("config.json")];
    save_model(dir.path(), source.description(), &options(Format::F16, 1 << 30), &side, &mut |name| {
        Ok(values(&source, name))
    })
    .unwrap();
    let read = |name: &str| String::from_utf8(std::fs::read(dir.path().join(name)).unwrap()).unwrap();
    assert!(read("tokenizer.json").contains("carried"));
    assert!(!read("config.json").contains("carried") && read("config.json").contains("float16"));
}

#[test]
fn weights_that_are_no_valid_model_are_refused() {
    let source = BaseModel::open(&fixture("families/llama_tied")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let save = |dtype, edit: fn(&mut Vec<f32>)| {
        save_model(dir.path(), source.description(), &options(dtype, 1 << 30), &[], &mut |name| {
            let mut values = values(&source, name);
            if name == "model.norm.weight" {
                edit(&mut values);
            }
            Ok(values)
        })
        .unwrap_err()
    };
    let error = save(Format::F32, |values| values.truncate(63));
    assert!(matches!(&error, SaveError::Values { found: 63, expected: 64, .. }), "{error:?}");
    let error = save(Format::F32, |values| values[5] = f32::NAN);
    assert!(matches!(&error, SaveError::NotFinite { place, .. } if place.column == 5), "{error:?}");
    let error = save(Format::F16, |values| values[5] = 70_000.0);
    assert!(matches!(&error, SaveError::Overflow { value: 70_000.0, dtype: "F16", .. }), "{error:?}");
    let error = save(Format::Nf4, |_| {});
    assert!(matches!(error, SaveError::Format { .. }), "{error:?}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left");
}

#[test]
fn a_model_is_not_overwritten() {
    let source = BaseModel::open(&fixture("families/llama_tied")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let save = || {
        save_model(dir.path(), source.description(), &options(Format::F32, 1 << 30), &[], &mut |name| {
            Ok(values(&source, name))
        })
    };
    save().unwrap();
    assert!(matches!(save(), Err(SaveError::OutputExists { .. })));
}
