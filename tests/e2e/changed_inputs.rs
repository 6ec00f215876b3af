//! Resuming a run whose base, data or other inputs have changed since its first start.

use std::fs;
use std::process::Stdio;

use serde_json::{Value, json};
use tonfall_adapters::peft;

use crate::program::{Finished, run, tonfall, wait_until};
use crate::tiny_model::{Workshop, conversations};

/// Trains ten epochs of the recipe with the additional `args`, and requests a stop once `step` steps are saved.
fn stop_after(workshop: &Workshop, step: u64, args: &[&str]) {
    let mut command = tonfall(workshop.home());
    command.args(["train", "recipe.toml", "--run-name", "a", "--set", "training.epochs=10"]);
    command.args(["--set", "training.save_every=1"]).args(args).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let saved = || {
        let latest = fs::read_to_string(workshop.path("runs/a/checkpoints/latest")).unwrap_or_default();
        latest.trim().strip_prefix("step-").and_then(|step| step.parse::<u64>().ok()).unwrap_or(0)
    };
    wait_until("a checkpoint", || saved() >= step);
    fs::write(workshop.path("runs/a/stop.request"), "").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

fn resume(workshop: &Workshop, args: &[&str]) -> Finished {
    run(workshop.home(), &[&["--progress", "plain", "resume", "a"], args].concat())
}

/// Changes `run.json`.
fn edit_run(workshop: &Workshop, change: impl FnOnce(&mut serde_json::Map<String, Value>)) {
    let path = workshop.path("runs/a/run.json");
    let mut info: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(info.as_object_mut().unwrap());
    fs::write(&path, info.to_string()).unwrap();
}

#[test]
fn resume_names_changed_inputs_and_continues_only_with_accept_changes() {
    let workshop = Workshop::new();
    stop_after(&workshop, 1, &[]);
    type Change = fn(&Workshop);
    let changes: [(&str, &str, Change); 7] = [
        ("base/tokenizer_config.json", "special tokens: changed", |workshop| {
            workshop.edit("base/tokenizer_config.json", "\"pad_token\":\"<|endoftext|>\"", "\"pad_token\":null");
        }),
        ("base/chat_template.jinja", "base chat template: changed", |workshop| {
            workshop.edit("base/chat_template.jinja", "<|im_end|>\n", "<|im_end|>");
        }),
        ("train.jsonl", "train.jsonl: changed", |workshop| {
            workshop.edit("train.jsonl", "kettle, number 0", "kettle, number 9");
        }),
        ("eval.jsonl", "eval.jsonl: changed", |workshop| {
            let rows = fs::read_to_string(workshop.path("eval.jsonl")).unwrap();
            fs::write(workshop.path("eval.jsonl"), &rows[..rows.find('\n').unwrap() + 1]).unwrap();
        }),
        ("base/model.safetensors", "base weights: changed", |workshop| {
            let path = workshop.path("base/model.safetensors");
            let mut bytes = fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(&path, bytes).unwrap();
        }),
        ("base/config.json", "base config: changed", |workshop| {
            workshop.edit("base/config.json", "\"rope_theta\":10000.0", "\"rope_theta\":20000.0");
        }),
        ("prompts.jsonl", "prompts.jsonl: changed", |workshop| {
            workshop.edit("prompts.jsonl", "parcel", "package");
        }),
    ];
    for (file, named, change) in changes {
        let before = fs::read(workshop.path(file)).unwrap();
        change(&workshop);
        let refused = resume(&workshop, &[]).expect(3).stderr;
        assert!(refused.contains(named) && refused.contains("--accept-changes"), "{file}: {refused}");
        assert_eq!(refused.matches(": changed").count(), 1, "{file}: {refused}");
        fs::write(workshop.path(file), before).unwrap();
    }

    let rows = conversations(25);
    fs::write(workshop.path("train.jsonl"), rows).unwrap();
    resume(&workshop, &[]).expect(3);
    let going_on = resume(&workshop, &["--accept-changes"]).expect(0).stderr;
    assert!(going_on.contains("going on with other inputs") && going_on.contains("train.jsonl"), "{going_on}");
    let log = fs::read_to_string(workshop.path("runs/a/events.jsonl")).unwrap();
    assert!(log.contains("going on with other inputs"), "the log keeps it");
}

#[test]
fn a_run_without_fingerprints_can_be_resumed() {
    let workshop = Workshop::new();
    stop_after(&workshop, 1, &[]);
    edit_run(&workshop, |info| {
        info.remove("inputs").unwrap();
        info.remove("now").unwrap();
    });
    let resumed = resume(&workshop, &[]).expect(0).stderr;
    assert!(resumed.contains("stored no fingerprints"), "{resumed}");
}

#[test]
fn a_run_with_fewer_rows_is_not_resumed_as_finished() {
    let workshop = Workshop::new();
    stop_after(&workshop, 12, &[]);
    edit_run(&workshop, |info| drop(info.remove("inputs").unwrap()));
    fs::write(workshop.path("train.jsonl"), conversations(1)).unwrap();
    let refused = resume(&workshop, &[]).expect(3).stderr;
    assert!(refused.contains("the run has 10 steps"), "{refused}");
}

/// The template is rendered with the date in `run.json`, not with today's date.
#[test]
fn strftime_now_returns_the_date_of_the_first_start() {
    let workshop = Workshop::new();
    let template = fs::read_to_string(workshop.path("base/chat_template.jinja")).unwrap();
    let fault = "{% if strftime_now('%Y') == '1999' %}{{ raise_exception('it is 1999') }}{% endif %}";
    let dated = format!("{fault}{{{{ strftime_now('%Y') }}}}\n{template}");
    fs::write(workshop.path("base/chat_template.jinja"), dated).unwrap();
    stop_after(&workshop, 1, &[]);
    edit_run(&workshop, |info| {
        assert!(info["now"].as_str().unwrap().contains('T'), "{info:?}");
        info.insert("now".to_owned(), json!("1999-12-31T12:00:00+00:00[UTC]"));
    });
    let refused = resume(&workshop, &[]).expect(3).stderr;
    assert!(refused.contains("it is 1999"), "{refused}");
}

#[test]
fn lora_init_is_not_needed_after_the_first_checkpoint() {
    let workshop = Workshop::new();
    run(workshop.home(), &["train", "recipe.toml", "--run-name", "first"]).expect(0);
    let init = workshop.path("init");
    fs::rename(workshop.path("runs/first/exports/adapter"), &init).unwrap();
    workshop.edit("recipe.toml", "rank = 4\nalpha = 8\n", "init = \"init\"\n");
    stop_after(&workshop, 1, &[]);
    fs::rename(&init, workshop.path("elsewhere")).unwrap();
    resume(&workshop, &[]).expect(0);
    let exported = peft::read(&workshop.path("runs/a/exports/adapter")).unwrap().config;
    assert_eq!(exported.target_modules, ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]);
    assert_eq!((exported.r, exported.lora_alpha, exported.lora_dropout), (4, 8.0, 0.1));
    assert_eq!(exported.base_model_name_or_path, Some(workshop.path("base").display().to_string()));
}

#[test]
fn a_changed_lora_init_is_reported_before_the_first_checkpoint() {
    let workshop = Workshop::new();
    run(workshop.home(), &["train", "recipe.toml", "--run-name", "first"]).expect(0);
    fs::rename(workshop.path("runs/first/exports/adapter"), workshop.path("init")).unwrap();
    workshop.edit("recipe.toml", "rank = 4\nalpha = 8\n", "init = \"init\"\n");
    run(workshop.home(), &["train", "recipe.toml", "--run-name", "a"]).expect(0);
    // Simulates a kill before the first checkpoint.
    fs::remove_dir_all(workshop.path("runs/a/checkpoints")).unwrap();
    fs::remove_file(workshop.path("runs/a/events.jsonl")).unwrap();
    workshop.edit("init/adapter_config.json", "\"lora_alpha\": 8", "\"lora_alpha\": 16");
    let refused = resume(&workshop, &[]).expect(3).stderr;
    assert!(refused.contains("init/adapter_config.json: changed"), "{refused}");
}
