//! Faulty input: the exit code and the error of each kind.
//!
//! Errors are snapshots. Paths of temporary directories are replaced with `[dir]`.

use std::fs;

use serde_json::json;

use crate::program::{Finished, run};
use crate::tiny_model::{self, HIDDEN, Noise, Workshop, conversations, safetensors, tensors};

/// Compares stderr with the snapshot `name`.
fn assert_text(name: &str, workshop: &Workshop, finished: &Finished) {
    let home = workshop.home().display().to_string();
    let resolved = fs::canonicalize(workshop.home()).unwrap().display().to_string();
    let text = finished.stderr.replace(&resolved, "[dir]").replace(&home, "[dir]");
    assert!(!text.contains("panicked"), "{text}");
    insta::with_settings!({ snapshot_path => "snapshots", prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!(name, text);
    });
}

/// Runs `tonfall check`, and compares exit code and stderr.
fn check(name: &str, workshop: &Workshop, code: i32) {
    assert_text(name, workshop, &run(workshop.home(), &["check", "recipe.toml"]).expect(code));
    assert!(!workshop.path("runs").exists(), "nothing is written for a recipe that can't run");
}

#[test]
fn misspelt_key() {
    let workshop = Workshop::new();
    workshop.edit("recipe.toml", "rank = 4", "rnak = 4");
    check("misspelt_key", &workshop, 3);
}

#[test]
fn all_faults_of_a_recipe_at_once() {
    let workshop = Workshop::new();
    workshop.edit("recipe.toml", "rank = 4", "rank = 0");
    workshop.edit("recipe.toml", "\"nf4\"", "\"nf8\"");
    workshop.edit("recipe.toml", "train = \"train.jsonl\"", "train = \"absent.jsonl\"");
    check("all_faults_of_a_recipe_at_once", &workshop, 3);
}

#[test]
fn override_of_an_unknown_key() {
    let workshop = Workshop::new();
    let finished = run(workshop.home(), &["check", "recipe.toml", "--set", "training.lerning_rate=1e-4"]).expect(3);
    assert_text("override_of_an_unknown_key", &workshop, &finished);
}

#[test]
fn missing_recipe() {
    let workshop = Workshop::new();
    let finished = run(workshop.home(), &["train", "absent.toml"]).expect(3);
    assert_text("missing_recipe", &workshop, &finished);
}

#[test]
fn missing_base() {
    let workshop = Workshop::new();
    fs::remove_dir_all(workshop.path("base")).unwrap();
    check("missing_base", &workshop, 3);
}

#[test]
fn missing_weights() {
    let workshop = Workshop::new();
    fs::remove_file(workshop.path("base/model.safetensors")).unwrap();
    check("missing_weights", &workshop, 3);
}

#[test]
fn truncated_safetensors() {
    let workshop = Workshop::new();
    let path = workshop.path("base/model.safetensors");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 1000]).unwrap();
    check("truncated_safetensors", &workshop, 9);
}

#[test]
fn header_length_of_2_to_the_60() {
    let workshop = Workshop::new();
    let path = workshop.path("base/model.safetensors");
    let mut file = fs::read(&path).unwrap();
    file[..8].copy_from_slice(&(1_u64 << 60).to_le_bytes());
    fs::write(&path, file).unwrap();
    check("header_length_of_2_to_the_60", &workshop, 9);
}

#[test]
fn shard_index_that_points_outside() {
    let workshop = Workshop::new();
    fs::rename(workshop.path("base/model.safetensors"), workshop.path("outside.safetensors")).unwrap();
    let map: serde_json::Map<_, _> =
        tensors().into_iter().map(|(name, _)| (name, json!("../outside.safetensors"))).collect();
    let index = json!({"metadata": {"total_size": 1}, "weight_map": map});
    fs::write(workshop.path("base/model.safetensors.index.json"), index.to_string()).unwrap();
    check("shard_index_that_points_outside", &workshop, 9);
}

#[test]
fn pickle_renamed_to_safetensors() {
    let workshop = Workshop::new();
    // The first bytes of older `torch.save` files: protocol 2, then a magic number.
    let mut pickle = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.".to_vec();
    pickle.resize(4096, 0);
    fs::write(workshop.path("base/model.safetensors"), pickle).unwrap();
    check("pickle_renamed_to_safetensors", &workshop, 9);
}

#[test]
fn zipped_pickle_renamed_to_safetensors() {
    let workshop = Workshop::new();
    let mut zip = b"PK\x03\x04\x00\x00\x08\x08\x00\x00archive/data.pkl".to_vec();
    zip.resize(4096, 0);
    fs::write(workshop.path("base/model.safetensors"), zip).unwrap();
    check("zipped_pickle_renamed_to_safetensors", &workshop, 9);
}

#[test]
fn unknown_family() {
    let workshop = Workshop::new();
    workshop.edit("base/config.json", "LlamaForCausalLM", "MambaForCausalLM");
    workshop.edit("base/config.json", "\"model_type\":\"llama\"", "\"model_type\":\"mamba\"");
    check("unknown_family", &workshop, 3);
}

#[test]
fn config_key_that_changes_the_mathematics() {
    let workshop = Workshop::new();
    workshop.edit("base/config.json", "\"model_type\":", "\"attn_logit_softcapping\":30.0,\"model_type\":");
    check("config_key_that_changes_the_mathematics", &workshop, 3);
}

#[test]
fn tokenizer_that_does_not_fit() {
    let workshop = Workshop::new();
    workshop.edit("base/config.json", "\"vocab_size\":259", "\"vocab_size\":258");
    let mut smaller = tensors();
    smaller[0].1 = vec![258, HIDDEN];
    fs::write(workshop.path("base/model.safetensors"), safetensors(&smaller, &mut Noise(1))).unwrap();
    check("tokenizer_that_does_not_fit", &workshop, 3);
}

#[test]
fn empty_dataset() {
    let workshop = Workshop::new();
    fs::write(workshop.path("train.jsonl"), "").unwrap();
    check("empty_dataset", &workshop, 3);
}

#[test]
fn row_without_the_column() {
    let workshop = Workshop::new();
    let rows = conversations(3) + "{\"massages\": []}\n";
    fs::write(workshop.path("train.jsonl"), rows).unwrap();
    check("row_without_the_column", &workshop, 3);
}

#[test]
fn row_that_is_no_json() {
    let workshop = Workshop::new();
    fs::write(workshop.path("train.jsonl"), conversations(1) + "{\"messages\": [}\n").unwrap();
    check("row_that_is_no_json", &workshop, 3);
}

#[test]
fn conversation_without_an_assistant() {
    let workshop = Workshop::new();
    let row = json!({"messages": [{"role": "user", "content": "Hello?"}]});
    fs::write(workshop.path("train.jsonl"), conversations(2) + &format!("{row}\n")).unwrap();
    check("conversation_without_an_assistant", &workshop, 3);
}

#[test]
fn row_that_is_too_long() {
    let workshop = Workshop::new();
    workshop.edit("recipe.toml", "max_seq_len = 128", "max_seq_len = 16");
    check("row_that_is_too_long", &workshop, 3);
}

#[test]
fn template_that_loops_forever() {
    let workshop = Workshop::new();
    let template = "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}x";
    fs::write(workshop.path("base/chat_template.jinja"), template).unwrap();
    check("template_that_loops_forever", &workshop, 3);
}

#[test]
fn template_that_writes_forever() {
    let workshop = Workshop::new();
    let template = "{% for a in range(100000) %}{{ 'x' * 100000 }}{% endfor %}";
    fs::write(workshop.path("base/chat_template.jinja"), template).unwrap();
    check("template_that_writes_forever", &workshop, 3);
}

#[test]
fn template_that_doubles_a_list() {
    let workshop = Workshop::new();
    let template = format!("{{% set x = [1] %}}{}{{{{ x | length }}}}", "{% set x = x + x %}".repeat(40));
    fs::write(workshop.path("base/chat_template.jinja"), template).unwrap();
    let finished = run(workshop.home(), &["check", "recipe.toml"]).expect(3);
    assert!(finished.stderr.contains("takes too many steps"), "{}", finished.stderr);
}

#[test]
fn tokenizer_that_makes_texts_explode() {
    let workshop = Workshop::new();
    let path = workshop.path("base/tokenizer.json");
    let mut tokenizer: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let step = json!({"type": "Replace", "pattern": {"String": "e"}, "content": "ee"});
    tokenizer["normalizer"] = json!({"type": "Sequence", "normalizers": vec![step; 40]});
    fs::write(&path, tokenizer.to_string()).unwrap();
    let finished = run(workshop.home(), &["check", "recipe.toml"]).expect(9);
    assert!(finished.stderr.contains("its normalizer makes a text more than 16 times longer"), "{}", finished.stderr);
}

#[test]
fn faults_of_base_and_prompts_at_once() {
    let workshop = Workshop::new();
    fs::remove_file(workshop.path("base/tokenizer.json")).unwrap();
    fs::write(workshop.path("prompts.jsonl"), "{\"prompt\": \"a\", \"expcet\": []}\n").unwrap();
    check("faults_of_base_and_prompts_at_once", &workshop, 3);
}

#[test]
fn init_does_not_overwrite() {
    let workshop = Workshop::new();
    let finished = run(workshop.home(), &["init", ".", "--base", "base", "--data", "train.jsonl"]).expect(3);
    assert_text("init_does_not_overwrite", &workshop, &finished);
    assert_eq!(fs::read_to_string(workshop.path("recipe.toml")).unwrap(), tiny_model::RECIPE);
}

#[test]
fn chat_with_nothing() {
    let workshop = Workshop::new();
    let finished = run(workshop.home(), &["chat", "absent", "--prompt", "Hello?"]).expect(3);
    assert_text("chat_with_nothing", &workshop, &finished);
}

/// A limit on the file size replaces a full disk: the write that exceeds it fails in the same way.
#[cfg(target_os = "linux")]
#[test]
fn disk_full_at_save() {
    use std::process::Command;

    let workshop = Workshop::new();
    // Blocks of 1024 bytes. bash ignores the signal, so the write itself fails.
    let script = "trap '' XFSZ; ulimit -f 16; exec \"$0\" --progress none train recipe.toml --run-name full";
    let mut command = Command::new("bash");
    command.args(["-c", script, env!("CARGO_BIN_EXE_tonfall")]).current_dir(workshop.home());
    let finished: Finished = command.env("HOME", workshop.home()).env("NO_COLOR", "1").output().unwrap().into();
    let finished = finished.expect(8);
    let named = finished.stderr.contains("/checkpoints/") && finished.stderr.contains("File too large");
    assert!(named, "{}", finished.stderr);
    let checkpoints = fs::read_dir(workshop.path("runs/full/checkpoints")).unwrap();
    assert_eq!(checkpoints.count(), 0, "nothing half-written stays");

    let listed = run(workshop.home(), &["runs", "--json"]).expect(0).stdout;
    assert!(listed.contains("\"failed\""), "{listed}");
    run(workshop.home(), &["--progress", "none", "resume", "full"]).expect(0);
}
