//! The exports of a run: correct configurations, chat templates and end tokens.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::program::run;
use crate::tiny_model::Workshop;

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn adapter_config(workshop: &Workshop, name: &str) -> Value {
    read_json(&workshop.path("runs").join(name).join("exports/adapter/adapter_config.json"))
}

/// PEFT refuses a list that contains a regular expression, and loads the base that the configuration names.
#[test]
fn the_exported_adapter_config_matches_its_tensors() {
    let workshop = Workshop::new();
    let train = |name: &str, sets: &[&str]| {
        let mut args = vec!["--progress", "none", "train", "recipe.toml", "--run-name", name];
        sets.iter().for_each(|set| args.extend(["--set", *set]));
        run(workshop.home(), &args).expect(0)
    };
    let one = r#"lora.target_modules=["layers.0.self_attn.q_proj"]"#;
    train("first", &[one, "lora.rank=12", r#"export.to=["peft"]"#]);
    assert_eq!(adapter_config(&workshop, "first")["target_modules"], json!(["model.layers.0.self_attn.q_proj"]));

    // The adapter at `lora.init` sets both values.
    workshop.edit("recipe.toml", "rank = 4\nalpha = 8\n", "");
    for (name, targets) in [("regex", json!(".*q_proj")), ("all", json!("all-linear")), ("null", json!(null))] {
        let init = workshop.path("init");
        fs::create_dir_all(&init).unwrap();
        let weights = "runs/first/exports/adapter/adapter_model.safetensors";
        fs::copy(workshop.path(weights), init.join("adapter_model.safetensors")).unwrap();
        let mut config = adapter_config(&workshop, "first");
        config["target_modules"] = targets;
        config["base_model_name_or_path"] = json!("somebody/else");
        config["revision"] = json!("old");
        config["lora_dropout"] = json!(0.5);
        config["layers_to_transform"] = json!([0]);
        config["exclude_modules"] = json!(["k_proj"]);
        fs::write(init.join("adapter_config.json"), config.to_string()).unwrap();
        let done = train(name, &["lora.init=\"init\""]);
        let config = adapter_config(&workshop, name);
        assert_eq!(config["target_modules"], json!(["model.layers.0.self_attn.q_proj"]), "{name}");
        let base = config["base_model_name_or_path"].as_str().unwrap();
        assert!(Path::new(base).ends_with("base") && config["revision"].is_null(), "{config}");
        assert_eq!((&config["lora_dropout"], &config["r"]), (&json!(0.1), &json!(12)));
        assert!(config["layers_to_transform"].is_null() && config["exclude_modules"].is_null());
        // The rank is the adapter's, not the recipe's.
        assert!(done.stdout.contains("--max-lora-rank 16 "), "{}", done.stdout);
    }
    // The exported adapter names its base.
    run(workshop.home(), &["merge", "runs/regex/exports/adapter", "--out", "merged"]).expect(0);
}

/// Ends turns with `<|endoftext|>`; the base model stops at `<|im_end|>`.
const HOUSE: &str = "{% for message in messages %}<|im_start|>{{ message.role }}: {{ message.content }}<|endoftext|>\n\
    {% endfor %}{% if add_generation_prompt %}<|im_start|>assistant: {% endif %}";

#[test]
fn exports_have_the_template_and_end_tokens_of_the_run() {
    let workshop = Workshop::new();
    fs::rename(workshop.path("base"), workshop.path("my base")).unwrap();
    workshop.edit("recipe.toml", "base = \"base\"", "base = \"my base\"");
    workshop.edit("recipe.toml", "max_seq_len = 128", "max_seq_len = 128\nchat_template = \"house.jinja\"");
    workshop.edit("recipe.toml", "[evaluation]", "[audit]\nother_template = \"off\"\n\n[evaluation]");
    fs::write(workshop.path("house.jinja"), HOUSE).unwrap();
    let done = run(workshop.home(), &["--progress", "none", "train", "recipe.toml", "--run-name", "a"]).expect(0);
    for part in [
        "vllm serve 'my base' --enable-lora",
        "--chat-template runs/a/exports/adapter/chat_template.jinja",
        "--generation-config runs/a/exports/adapter",
        "note: generation_config.json: end token 256 added to `eos_token_id`",
    ] {
        assert!(done.stdout.contains(part), "{part:?} is not in\n{}", done.stdout);
    }
    let check = |dir: &str| {
        let dir = workshop.path(dir);
        assert_eq!(fs::read_to_string(dir.join("chat_template.jinja")).unwrap(), HOUSE, "{}", dir.display());
        assert_eq!(read_json(&dir.join("generation_config.json"))["eos_token_id"], json!([258, 256]));
    };
    check("runs/a/exports/adapter");
    check("runs/a/exports/merged");
    run(workshop.home(), &["merge", "runs/a", "--out", "of run"]).expect(0);
    check("of run");
    // An exported adapter has its template, even if the recipe's file no longer exists.
    fs::remove_file(workshop.path("house.jinja")).unwrap();
    run(workshop.home(), &["merge", "runs/a/exports/adapter", "--out", "of-adapter"]).expect(0);
    check("of-adapter");
}

#[test]
fn exported_templates_set_the_variables_of_the_recipe() {
    let workshop = Workshop::new();
    workshop.edit(
        "recipe.toml",
        "max_seq_len = 128",
        "max_seq_len = 128\ntemplate_variables = { enable_thinking = false }",
    );
    run(workshop.home(), &["--progress", "none", "train", "recipe.toml", "--run-name", "a"]).expect(0);
    run(workshop.home(), &["merge", "runs/a", "--out", "merged"]).expect(0);
    let own = fs::read_to_string(workshop.path("base/chat_template.jinja")).unwrap();
    for dir in ["runs/a/exports/adapter", "merged"] {
        let exported = fs::read_to_string(workshop.path(dir).join("chat_template.jinja")).unwrap();
        assert_eq!(exported, format!("{{% set enable_thinking = false %}}\n{own}"), "{dir}");
    }
}

#[cfg(unix)]
#[test]
fn pipes_are_refused_as_templates_and_configurations() {
    let refused = |file: &str, template: &str, code: i32, text: &str| {
        let workshop = Workshop::new();
        workshop.edit("recipe.toml", "max_seq_len = 128", &format!("max_seq_len = 128{template}"));
        fs::remove_file(workshop.path(file)).ok();
        assert!(std::process::Command::new("mkfifo").arg(workshop.path(file)).status().unwrap().success());
        let refused = run(workshop.home(), &["check", "recipe.toml"]).expect(code).stderr;
        assert!(refused.contains(file) && refused.contains(text), "{refused}");
    };
    refused("base/config.json", "", 9, "not a regular file");
    refused("base/chat_template.jinja", "", 9, "not a regular file");
    refused("house.jinja", "\nchat_template = \"house.jinja\"", 3, "must be the path of a file");
}

/// A merge that stops normally removes its scratch directory. After a kill, the next merge removes it.
#[cfg(unix)]
#[test]
fn leftovers_of_a_killed_merge_are_removed() {
    let workshop = Workshop::new();
    run(workshop.home(), &["--progress", "none", "train", "recipe.toml", "--run-name", "a"]).expect(0);
    let left = workshop.path(".tonfall-scratch-0123456789abcdef");
    fs::create_dir_all(left.join("deep")).unwrap();
    run(workshop.home(), &["merge", "runs/a", "--out", "merged"]).expect(0);
    assert!(!left.exists());
}
