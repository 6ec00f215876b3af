//! The shipped recipes: their prepared data, and two steps of training.

use std::path::Path;

use crate::program::run;
use crate::tiny_model::Workshop;

fn recipe(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes").join(name).to_string_lossy().into_owned()
}

/// Prepares, shows and trains a recipe; returns the output of `tonfall data`.
fn shown_and_trained(name: &str) -> String {
    let home = tempfile::tempdir().unwrap();
    let recipe = recipe(name);
    let shown = run(home.path(), &["data", &recipe, "--show", "50"]).expect(0).stdout;
    let report = run(home.path(), &["data", &recipe, "--json"]).expect(0).stdout;
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!((report["cached"].as_bool(), report["faults"].as_array().map(Vec::len)), (Some(true), Some(0)));
    assert!(report["packing_efficiency"].as_f64().unwrap() > 0.5, "{report}");
    let trained = run(home.path(), &["train", &recipe, "--set", "training.max_steps=2", "--device", "cpu"]).expect(0);
    assert!(trained.stdout.contains("2 steps"), "{}", trained.stdout);
    shown
}

#[test]
fn style_pairs_become_rewriting_tasks() {
    let shown = shown_and_trained("style.toml");
    assert!(shown.contains("Your order was shipped today.<|im_end|>"), "{shown}");
    assert!(shown.contains("⟦Your basket left our house today, dear guest.<|im_end|>⟧"), "{shown}");
    assert!(shown.contains("16 rows, 16 examples: 13 train, 3 eval"), "{shown}");
}

#[test]
fn a_term_base_becomes_usage_correction_definition_and_contrast() {
    let shown = shown_and_trained("terminology.toml");
    let corrected = "Correct the terms in this sentence: The delivery is on Thursday.<|im_end|>\n\
                     <|im_start|>assistant\n⟦The handover is on Thursday.<|im_end|>⟧";
    for part in [corrected, "What do we mean by “handover”?", "Is “delivery” the right term?"] {
        assert!(shown.contains(part), "{shown} lacks {part}");
    }
}

#[test]
fn a_list_in_two_languages_needs_no_settings() {
    let workshop = Workshop::new();
    // The format of a spreadsheet's CSV export: byte order mark, semicolons, CRLF.
    let rows: String = (0..40).map(|index| format!("guest word {index};Gastwort {index}\r\n")).collect();
    std::fs::write(workshop.path("terms.csv"), format!("\u{feff}en;de\r\n{rows}")).unwrap();
    run(workshop.home(), &["init", "mine", "--base", "base", "--data", "terms.csv"]).expect(0);
    run(workshop.home(), &["check", "mine/recipe.toml"]).expect(0);
    let shown = run(workshop.home(), &["data", "mine/recipe.toml", "--show", "80"]).expect(0).stdout;
    assert!(shown.contains("40 rows, 80 examples: 72 train, 8 eval"), "{shown}");
    for part in ["⟦Gastwort ", "⟦guest word ", "in German", "auf Deutsch", "auf Englisch"] {
        assert!(shown.contains(part), "{shown} lacks {part}");
    }
    let train = ["train", "mine/recipe.toml", "--set", "training.max_steps=2", "--device", "cpu"];
    assert!(run(workshop.home(), &train).expect(0).stdout.contains("2 steps"));
}

#[test]
fn documents_come_before_questions_and_may_lack_the_answer() {
    let shown = shown_and_trained("documents.toml");
    for part in ["From our books: Teapots: white, black.\n\nDo you have a green teapot?", "⟦That is not in our books"]
    {
        assert!(shown.contains(part), "{shown} lacks {part}");
    }
}

#[test]
fn packing_changes_no_loss_and_no_gradient() {
    let home = tempfile::tempdir().unwrap();
    let step = |name: &str, sets: &[&str]| {
        let recipe = recipe("terminology.toml");
        let mut args = vec!["train", &recipe, "--run-name", name, "--device", "cpu", "--set", "training.max_steps=1"];
        args.extend(sets.iter().flat_map(|set| ["--set", set]));
        run(home.path(), &args).expect(0);
        let events = std::fs::read_to_string(home.path().join("runs").join(name).join("events.jsonl")).unwrap();
        let mut events = events.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let step = events.find(|event| event["kind"] == "step").unwrap();
        ["loss", "grad_norm", "tokens"].map(|key| step[key].as_f64().unwrap())
    };
    // One step has all 39 examples, packed or one per sequence.
    let packed = step("packed", &["training.micro_batch_size=8"]);
    let alone = ["data.packing=off", "training.micro_batch_size=1", "training.gradient_accumulation_steps=64"];
    let alone = step("alone", &alone);
    for (packed, alone) in packed.iter().zip(alone) {
        assert!((packed - alone).abs() <= 1e-5 * alone.abs(), "{packed} and {alone}");
    }
}
