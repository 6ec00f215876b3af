//! A run trains on any valid input. Input that can't train is refused before anything is written.

use std::fs;

use serde_json::{Value, json};
use tonfall_adapters::peft;

use crate::program::{Finished, run};
use crate::tiny_model::{HIDDEN, Workshop, conversations};

fn train(workshop: &Workshop, name: &str, args: &[&str]) -> Finished {
    run(workshop.home(), &[&["--progress", "plain", "train", "recipe.toml", "--run-name", name], args].concat())
}

fn events(workshop: &Workshop, name: &str, kind: &str) -> Vec<Value> {
    let text = fs::read_to_string(workshop.path("runs").join(name).join("events.jsonl")).unwrap();
    let events = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    events.filter(|event| event["kind"] == kind).collect()
}

fn numbers(events: &[Value], key: &str) -> Vec<f64> {
    events.iter().map(|event| event[key].as_f64().unwrap()).collect()
}

/// `check` and `train` refuse the input with the same exit code and error, and write nothing.
fn refused(workshop: &Workshop, code: i32, args: &[&str], part: &str) {
    let checked = run(workshop.home(), &[&["check", "recipe.toml"], args].concat()).expect(code).stderr;
    let trained = train(workshop, "a", args).expect(code).stderr;
    assert!(checked.contains(part) && trained.contains(part), "{part:?} is in\n{checked}\n{trained}");
    assert!(!workshop.path("runs").exists(), "nothing is written");
}

#[test]
fn three_rows_are_trained() {
    let workshop = Workshop::new();
    fs::write(workshop.path("three.jsonl"), conversations(3)).unwrap();
    run(workshop.home(), &["init", "mine", "--base", "base", "--data", "three.jsonl"]).expect(0);
    let start =
        ["--progress", "plain", "train", "mine/recipe.toml", "--set", "training.learning_rate=1e-2", "--run-name"];
    let b_matrices_changed = |name: &str| {
        let adapter = peft::read(&workshop.path(&format!("runs/{name}/exports/adapter"))).unwrap();
        let mut b = adapter.tensors.iter().filter(|tensor| tensor.name.ends_with("lora_B.weight"));
        b.all(|tensor| tensor.values.iter().any(|value| *value != 0.0))
    };
    // With the defaults, the run has one optimizer step.
    run(workshop.home(), &[&start[..], &["one"]].concat()).expect(0);
    let rates = numbers(&events(&workshop, "one", "step"), "lr");
    assert!(rates == [1e-2] && b_matrices_changed("one"), "{rates:?}");

    let twenty = run(workshop.home(), &[&start[..], &["twenty", "--set", "training.max_steps=20"]].concat()).expect(0);
    assert!(twenty.stderr.contains("20 optimizer steps: `training.max_steps` ends the run"), "{}", twenty.stderr);
    let steps = events(&workshop, "twenty", "step");
    let (losses, rates) = (numbers(&steps, "loss"), numbers(&steps, "lr"));
    assert_eq!(steps.len(), 20);
    assert!(losses[19] < losses[0] - 0.5 && b_matrices_changed("twenty"), "{losses:?}");
    assert!(rates.iter().all(|rate| *rate > 0.0), "{rates:?}");
}

#[test]
fn check_prints_what_ends_the_run() {
    let workshop = Workshop::new();
    let steps = |set: &[&str]| {
        let text = run(workshop.home(), &[&["check", "recipe.toml"], set].concat()).expect(0).stdout;
        text.lines().find_map(|line| line.strip_prefix("steps      ")).unwrap_or_else(|| panic!("{text}")).to_owned()
    };
    assert_eq!(steps(&[]), "6 optimizer steps: `training.epochs` = 1 ends the run, with 6 steps an epoch");
    let four = "4 optimizer steps: `training.max_steps` ends the run, after 0.67 epochs of 6 steps";
    assert_eq!(steps(&["--set", "training.max_steps=4"]), four);
    workshop.edit("recipe.toml", "epochs = 1\n", "max_steps = 50\n");
    assert!(steps(&[]).starts_with("50 optimizer steps: `training.max_steps`"), "{}", steps(&[]));
}

#[test]
fn a_warm_up_as_long_as_the_run_is_refused() {
    let workshop = Workshop::new();
    refused(&workshop, 3, &["--set", "training.warmup_steps=6"], "`training.warmup_steps` = 6");
    refused(&workshop, 3, &["--set", "training.learning_rate=1e-60"], "zero in f32");
    run(workshop.home(), &["check", "recipe.toml", "--set", "training.warmup_steps=5"]).expect(0);
}

#[test]
fn target_modules_that_select_nothing_are_refused_by_check() {
    let workshop = Workshop::new();
    let targets = |names: &str| format!("lora.target_modules={names}");
    let (unknown, misspelt, head) = (targets("[\"c_attn\"]"), targets("[\"q_porj\"]"), targets("[\"lm_head\"]"));
    refused(&workshop, 3, &["--set", &unknown], "no linear layer of this base is named `c_attn`;");
    refused(&workshop, 3, &["--set", &misspelt], "did you mean `q_proj` for `q_porj`?");
    refused(&workshop, 3, &["--set", &head], "this base ties its head to the embeddings");
}

#[test]
fn an_adapter_of_another_model_is_refused_by_check() {
    let workshop = Workshop::new();
    train(&workshop, "a", &[]).expect(0);
    let init = workshop.path("init");
    fs::rename(workshop.path("runs/a/exports/adapter"), &init).unwrap();
    fs::remove_dir_all(workshop.path("runs")).unwrap();
    workshop.edit("recipe.toml", "rank = 4\nalpha = 8\n", "init = \"init\"\n");
    run(workshop.home(), &["check", "recipe.toml"]).expect(0);

    let mut adapter = peft::read(&init).unwrap();
    for tensor in adapter.tensors.iter_mut().filter(|tensor| tensor.name.contains("q_proj.lora_A")) {
        tensor.shape = [4, HIDDEN / 2];
        tensor.values.truncate(4 * HIDDEN / 2);
    }
    peft::write_files(&init, &adapter).unwrap();
    refused(&workshop, 3, &[], "it was made for another model");
    for tensor in &mut adapter.tensors {
        tensor.name = tensor.name.replace("model.layers.", "model.layers.1");
    }
    peft::write_files(&init, &adapter).unwrap();
    refused(&workshop, 3, &[], "more; it was made for another model");
}

#[test]
fn a_held_out_prompt_that_fills_the_context_is_refused_by_check() {
    let workshop = Workshop::new();
    let prompt = format!("{{\"prompt\": \"{}\"}}\n", "word ".repeat(80));
    fs::write(workshop.path("prompts.jsonl"), prompt).unwrap();
    refused(&workshop, 3, &[], "the held-out prompt \"word word");
}

/// Changes one value of a weight.
fn damage(workshop: &Workshop, name: &str, at: usize, value: f32) {
    let path = workshop.path("base/model.safetensors");
    let mut file = fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(*file.first_chunk().unwrap()) as usize;
    let table: Value = serde_json::from_slice(&file[8..header]).unwrap();
    let begin = header + table[name]["data_offsets"][0].as_u64().unwrap() as usize + 4 * at;
    file[begin..begin + 4].copy_from_slice(&value.to_le_bytes());
    fs::write(&path, file).unwrap();
}

#[test]
fn weights_that_are_not_finite_are_named() {
    let cases = [
        ("model.layers.0.mlp.up_proj.weight", 3 * HIDDEN + 5, f32::NAN, "NaN at row 3, column 5"),
        ("model.embed_tokens.weight", HIDDEN, f32::INFINITY, "inf at row 1, column 0"),
        ("model.norm.weight", 7, f32::NEG_INFINITY, "-inf at row 0, column 7"),
    ];
    for (name, at, value, place) in cases {
        let workshop = Workshop::new();
        damage(&workshop, name, at, value);
        for quantization in ["nf4", "none"] {
            let set = format!("quantization=\"{quantization}\"");
            let failed = train(&workshop, quantization, &["--set", &set]).expect(9).stderr;
            assert!(failed.contains(&format!("weight `{name}` is {place}")), "{failed}");
        }
        let chat = run(workshop.home(), &["chat", "base", "--prompt", "Hello?"]).expect(9).stderr;
        assert!(chat.contains(place), "{chat}");
    }
}

/// The best evaluation has a checkpoint, with and without `save_every`, at a middle step or the last one.
#[test]
fn the_best_evaluation_has_a_checkpoint() {
    let workshop = Workshop::new();
    workshop.edit("recipe.toml", "save_every = 2", "save_every = 0");
    let best = |name: &str| fs::read_to_string(workshop.path(&format!("runs/{name}/checkpoints/best"))).unwrap();
    let lowest = |name: &str| {
        let evaluations = events(&workshop, name, "eval");
        let loss = |event: &&Value| event["loss"].as_f64().unwrap();
        let lowest = evaluations.iter().min_by(|a, b| loss(a).total_cmp(&loss(b))).unwrap();
        lowest["step"].as_u64().unwrap()
    };
    train(&workshop, "last", &["--set", "evaluation.every=2"]).expect(0);
    assert_eq!((lowest("last"), best("last").as_str()), (6, "step-000006\n"));
    // Three steps teach the answers of the eval split, three more teach others.
    let rows = |numbers: std::ops::Range<usize>, answer: &str| -> String {
        let row = |number| json!({"prompt": format!("Question {number}?"), "completion": answer}).to_string() + "\n";
        numbers.map(row).collect()
    };
    let (taught, other) = ("yes ".repeat(12), "no ".repeat(12));
    fs::write(workshop.path("train.jsonl"), rows(0..12, &taught) + &rows(12..24, &other)).unwrap();
    fs::write(workshop.path("eval.jsonl"), rows(24..28, &taught)).unwrap();
    workshop.edit("recipe.toml", "max_seq_len", "shuffle = false\nmax_seq_len");
    let set = [
        "training.learning_rate=0.05",
        "training.schedule=\"constant\"",
        "evaluation.every=1",
        "audit.near_duplicates=\"off\"",
        "audit.leakage=\"off\"",
    ];
    let set: Vec<&str> = set.iter().flat_map(|set| ["--set", set]).collect();
    train(&workshop, "early", &set).expect(0);
    let step = lowest("early");
    assert!((1..6).contains(&step), "the later steps make the evaluation worse, step {step} is the best");
    assert_eq!(best("early"), format!("step-{step:06}\n"));
}

#[test]
fn an_unfinished_run_says_which_checkpoint_is_used() {
    let workshop = Workshop::new();
    train(&workshop, "a", &[]).expect(0);
    // Simulates a kill before the end of the run.
    let events = workshop.path("runs/a/events.jsonl");
    let log = fs::read_to_string(&events).unwrap();
    let kept: Vec<&str> = log.lines().filter(|line| !line.contains("\"kind\":\"finished\"")).collect();
    fs::write(&events, kept.join("\n") + "\n").unwrap();
    let note = "the run runs/a is not finished; this is its adapter after step 6";
    let chat = run(workshop.home(), &["chat", "runs/a", "--prompt", "Hello?", "--max-new-tokens", "2"]).expect(0);
    assert!(chat.stderr.contains(note), "{}", chat.stderr);
    let merge = run(workshop.home(), &["merge", "runs/a", "--out", "merged"]).expect(0);
    assert!(merge.stderr.contains(note), "{}", merge.stderr);
}

#[test]
fn chat_uses_the_chat_template_of_the_run() {
    let workshop = Workshop::new();
    fs::copy(workshop.path("base/chat_template.jinja"), workshop.path("house.jinja")).unwrap();
    workshop.edit("recipe.toml", "max_seq_len", "chat_template = \"house.jinja\"\nmax_seq_len");
    let done = train(&workshop, "a", &[]).expect(0);
    assert!(done.stdout.contains(" --chat-template runs/a/exports/adapter/chat_template.jinja"), "{}", done.stdout);
    let chat = || run(workshop.home(), &["chat", "runs/a", "--prompt", "Hello?", "--max-new-tokens", "2"]);
    chat().expect(0);
    fs::write(workshop.path("house.jinja"), "{{ raise_exception('the house template') }}").unwrap();
    let refused = chat().expect(3).stderr;
    assert!(refused.contains("the house template") && refused.contains("house.jinja has changed"), "{refused}");
}
