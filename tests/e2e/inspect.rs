//! `tonfall inspect`: tables, JSON, hashes and refusals.

use std::fs;
use std::path::Path;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::program::run;
use crate::tiny_model::Workshop;

fn gguf_fixture() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf/model.gguf").display().to_string()
}

#[test]
fn a_model_directory_as_a_table_and_as_json() {
    let workshop = Workshop::new();
    let table = run(workshop.home(), &["inspect", "base"]).expect(0).stdout;
    for part in ["Hugging Face model, format safetensors", " parameters, ", "1 file", "model.safetensors", "model_type"]
    {
        assert!(table.contains(part), "{part:?} is not in: {table}");
    }
    assert!(table.contains("--tensors lists all") && !table.contains("model.norm.weight"), "{table}");
    let all = run(workshop.home(), &["inspect", "base", "--tensors"]).expect(0).stdout;
    assert!(all.contains("model.norm.weight"), "{all}");

    let json = run(workshop.home(), &["inspect", "base", "--json", "--sha256"]).expect(0).stdout;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["kind"], &json["config"]["model_type"]), (&"hugging-face-model".into(), &"llama".into()));
    let hash = Sha256::digest(fs::read(workshop.path("base/model.safetensors")).unwrap());
    assert_eq!(json["files"][0]["sha256"], tonfall_durable::hex(&hash));
    let bytes: u64 = json["tensors"].as_array().unwrap().iter().map(|tensor| tensor["bytes"].as_u64().unwrap()).sum();
    assert_eq!(json["totals"][0]["bytes"], bytes);
}

#[test]
fn a_gguf_model_shows_shortened_metadata() {
    let home = tempfile::tempdir().unwrap();
    let table = run(home.path(), &["inspect", &gguf_fixture()]).expect(0).stdout;
    assert!(table.contains("GGUF model, format GGUF 3"), "{table}");
    let tokens = table.lines().find(|line| line.contains("tokenizer.ggml.tokens")).unwrap();
    assert!(tokens.contains(" elements: ") && tokens.chars().count() < 200, "{tokens}");
}

#[test]
fn files_that_are_damaged_refused_unknown_or_absent() {
    let home = tempfile::tempdir().unwrap();
    let gguf = fs::read(gguf_fixture()).unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(home.path().join(name), bytes).unwrap();
    write("cut.gguf", &gguf[..gguf.len() / 2]);
    write("weights.pt", b"PK\x03\x04");
    write("notes.txt", b"hello, world");
    fs::create_dir(home.path().join("empty")).unwrap();
    for (name, code, part) in [
        ("cut.gguf", 9, "fetch"),
        ("weights.pt", 9, "pickle"),
        ("notes.txt", 3, "neither a safetensors nor a GGUF file"),
        ("absent", 3, "absent"),
        ("empty", 3, "no weights"),
    ] {
        let refused = run(home.path(), &["inspect", name]).expect(code);
        assert!(refused.stdout.is_empty() && refused.stderr.contains(part), "{name}: {}", refused.stderr);
    }
}

/// Metadata can hold anything, also what a terminal would obey.
#[test]
fn control_characters_of_a_file_are_escaped() {
    let home = tempfile::tempdir().unwrap();
    let header =
        r#"{"__metadata__":{"tonfall.note":"a\u001b[2Jb\nc"},"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#;
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0]].concat();
    fs::write(home.path().join("a.safetensors"), bytes).unwrap();
    let table = run(home.path(), &["inspect", "a.safetensors"]).expect(0).stdout;
    assert!(table.contains("where it comes from\n  tonfall.note  a\\x1b[2Jb c\n"), "{table}");
    let json = run(home.path(), &["inspect", "a.safetensors", "--json"]).expect(0).stdout;
    assert!(!json.contains('\u{1b}'));
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["lineage"]["tonfall.note"], "a\u{1b}[2Jb\nc");
}
