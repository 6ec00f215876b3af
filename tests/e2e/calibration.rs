//! Calibrated exports: which texts they use, what they write, and requests that have no effect.

use std::fs;

use crate::program::{Finished, run};
use crate::tiny_model::Workshop;

const TRAIN: [&str; 6] = ["--progress", "none", "train", "recipe.toml", "--run-name", "a"];
const MODEL: &str = "gguf/model-Q4_0.gguf";
const MATRIX: &str = "gguf/imatrix.gguf";

fn export(workshop: &Workshop, source: &str, out: &str, more: &[&str]) -> Finished {
    let args =
        ["--progress", "plain", "export", source, "--to", "gguf", "--types", "Q4_0", "--no-verify", "--out", out];
    run(workshop.home(), &[&args[..], more].concat())
}

#[test]
fn a_run_is_calibrated_on_its_eval_split() {
    let workshop = Workshop::new();
    workshop.edit(
        "recipe.toml",
        "to = [\"peft\", \"safetensors\"]",
        "to = [\"peft\", \"gguf\"]\ntypes = [\"Q4_0\"]\ncalibrate = true\nverify = false",
    );
    let trained = run(workshop.home(), &TRAIN).expect(0);
    assert!(trained.stdout.contains("note: calibrated on held-out texts: 4 sequences, "), "{}", trained.stdout);
    let bytes = |path: &str| fs::read(workshop.path(path)).unwrap();
    assert!(!bytes("runs/a/exports/gguf/imatrix.gguf").is_empty());

    export(&workshop, "runs/a", "plain", &[]).expect(0);
    assert!(!workshop.path("plain").join(MATRIX).exists());
    let done = export(&workshop, "runs/a", "calibrated", &["--calibrate"]).expect(0);
    assert!(done.stderr.contains("calibrated on eval split of tiny: 4 sequences, "), "{}", done.stderr);
    assert_ne!(bytes(&format!("plain/{MODEL}")), bytes(&format!("calibrated/{MODEL}")));

    // The written matrix gives the same model again.
    export(&workshop, "runs/a", "again", &["--imatrix", &format!("calibrated/{MATRIX}")]).expect(0);
    for name in [MODEL, MATRIX] {
        assert_eq!(bytes(&format!("again/{name}")), bytes(&format!("calibrated/{name}")), "{name}");
    }
}

#[test]
fn a_run_without_eval_split_is_calibrated_on_answers_to_its_prompts() {
    let workshop = Workshop::new();
    workshop.edit("recipe.toml", "eval = \"eval.jsonl\"\n", "");
    run(workshop.home(), &TRAIN).expect(0);
    let done = export(&workshop, "runs/a", "calibrated", &["--calibrate"]).expect(0);
    assert!(done.stderr.contains("prompts.jsonl: 1 sequence, "), "{}", done.stderr);
}

#[test]
fn any_source_is_calibrated_on_a_file() {
    let workshop = Workshop::new();
    fs::write(workshop.path("texts.txt"), "Where is my kettle?\n\nIt is on its way.\n").unwrap();
    let done = export(&workshop, "base", "lines", &["--calibrate-on", "texts.txt"]).expect(0);
    assert!(done.stderr.contains("calibrated on texts.txt: "), "{}", done.stderr);
    let done = export(&workshop, "base", "conversations", &["--calibrate-on", "train.jsonl"]).expect(0);
    assert!(done.stderr.contains("calibrated on train.jsonl: 24 sequences, "), "{}", done.stderr);
}

#[test]
fn calibrations_that_are_not_possible_are_refused() {
    let workshop = Workshop::new();
    let refused = |code: i32, more: &[&str], text: &str| {
        let done = export(&workshop, "base", "out", more).expect(code);
        assert!(done.stderr.contains(text), "{text:?} is not in\n{}", done.stderr);
        assert!(!workshop.path("out").exists());
    };
    refused(3, &["--calibrate"], "give texts with `--calibrate-on FILE`");
    refused(2, &["--calibrate", "--imatrix", "m.gguf"], "cannot be used with");
    refused(3, &["--imatrix", "missing.gguf"], "missing.gguf");
    fs::write(workshop.path("text.gguf"), "no matrix").unwrap();
    refused(9, &["--imatrix", "text.gguf"], "not an importance matrix");
    let useless = |to: &str, types: &str, text: &str| {
        let args = ["export", "base", "--calibrate", "--out", "out", "--to", to, "--types", types];
        let done = run(workshop.home(), &args).expect(2);
        assert!(done.stderr.contains(text), "{text:?} is not in\n{}", done.stderr);
    };
    useless("safetensors", "Q4_0", "add `--to gguf`");
    useless("gguf", "F16,Q8_0", "a calibration changes nothing in F16, Q8_0");
}
