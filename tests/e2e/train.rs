//! Training from end to end: run, interrupt, resume, export, chat.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};

use serde_json::Value;
use tonfall_adapters::BaseModel;

use crate::program::{run, tonfall, wait_until};
use crate::tiny_model::Workshop;

const ADAPTER: &str = "exports/adapter/adapter_model.safetensors";

/// Trains the workshop's recipe to the end.
fn trained(name: &str) -> Workshop {
    let workshop = Workshop::new();
    run(workshop.home(), &["train", "recipe.toml", "--run-name", name]).expect(0);
    workshop
}

fn events(workshop: &Workshop, name: &str) -> Vec<Value> {
    let text = fs::read_to_string(workshop.path("runs").join(name).join("events.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn of_kind<'a>(events: &'a [Value], kind: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["kind"] == kind).collect()
}

/// Starts training in the background, with more epochs so that it takes longer.
fn start(workshop: &Workshop, name: &str) -> Child {
    let mut command = tonfall(workshop.home());
    command.args(["--progress", "plain", "train", "recipe.toml", "--run-name", name, "--set", "training.epochs=10"]);
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits for the first checkpoint of a live run.
fn wait_for_checkpoint(workshop: &Workshop, name: &str) {
    let checkpoints = workshop.path("runs").join(name).join("checkpoints");
    wait_until("a checkpoint", || checkpoints.join("latest").is_file());
}

#[cfg(unix)]
fn signal(child: &Child, name: &str) {
    let status = std::process::Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status();
    assert!(status.unwrap().success());
}

#[test]
fn a_run_writes_events_checkpoints_and_exports() {
    let workshop = Workshop::new();
    let done = run(workshop.home(), &["train", "recipe.toml", "--run-name", "first"]).expect(0);
    for part in ["loss on held-out data", "right terms used", "prompt  Where is my parcel?", "tonfall chat runs/first"]
    {
        assert!(done.stdout.contains(part), "{part:?} is in\n{}", done.stdout);
    }
    assert!(
        done.stdout.contains("--max-lora-rank 8 --lora-modules tiny=runs/first/exports/adapter"),
        "{}",
        done.stdout
    );
    assert!(done.stderr.contains("step 6/6  epoch 1.00  loss "), "{}", done.stderr);
    assert!(!done.stderr.contains('\x1b'));

    let run_dir = workshop.path("runs/first");
    for file in ["recipe.toml", "plan.toml", "run.json", ADAPTER, "exports/merged/model.safetensors"] {
        assert!(run_dir.join(file).is_file(), "{file}");
    }
    let events = events(&workshop, "first");
    let steps = of_kind(&events, "step");
    assert_eq!(steps.len(), 6);
    assert!(steps.iter().all(|step| step["loss"].as_f64().unwrap() > 0.0 && step["grad_norm"].as_f64().unwrap() > 0.0));
    assert_eq!(of_kind(&events, "checkpoint").len(), 3);
    assert_eq!(events.last().unwrap()["kind"], "finished");
    let losses: Vec<f64> = of_kind(&events, "eval").iter().map(|eval| eval["loss"].as_f64().unwrap()).collect();
    assert!(losses.last().unwrap() < &(losses[0] - 0.1), "the loss falls: {losses:?}");

    let listed = run(workshop.home(), &["runs", "--json"]).expect(0).stdout;
    let row: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!((&row["id"], &row["state"], &row["step"]), (&"first".into(), &"finished".into(), &6.into()));
    assert!(run(workshop.home(), &["runs"]).expect(0).stdout.contains("finished"));
    let frame = run(workshop.home(), &["watch", "first", "--once"]).expect(0).stdout;
    assert!(frame.contains("FINISHED") && frame.contains("step 6/6"), "{frame}");
    run(workshop.home(), &["resume", "first"]).expect(3);
}

#[test]
fn the_same_seed_writes_the_same_bytes() {
    let (one, two) = (trained("a"), trained("a"));
    let bytes = |workshop: &Workshop| fs::read(workshop.path("runs/a").join(ADAPTER)).unwrap();
    assert_eq!(bytes(&one), bytes(&two));
}

/// Every reduction has a fixed order, for any number of threads.
#[test]
fn the_number_of_threads_changes_no_bit() {
    let workshop = Workshop::new();
    let with = |threads: &str| {
        let mut command = tonfall(workshop.home());
        command.args(["train", "recipe.toml", "--run-name", threads, "--set", "training.deterministic=true"]);
        let done = command.env("RAYON_NUM_THREADS", threads).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        fs::read(workshop.path("runs").join(threads).join(ADAPTER)).unwrap()
    };
    let one = with("1");
    assert!(one == with("2"), "two threads change the adapter");
    assert!(one == with("5"), "five threads change the adapter");
}

#[test]
fn the_instruction_set_can_be_chosen() {
    let workshop = Workshop::new();
    let with = |level: &str, name: &str| {
        let mut command = tonfall(workshop.home());
        command.args(["train", "recipe.toml", "--run-name", name]).env("TONFALL_CPU", level);
        command.output().unwrap()
    };
    let losses = |name: &str| -> Vec<f64> {
        let events = events(&workshop, name);
        of_kind(&events, "step").iter().map(|step| step["loss"].as_f64().unwrap()).collect()
    };
    assert!(with("", "fastest").status.success());
    assert!(with("portable", "portable").status.success());
    for (a, b) in losses("fastest").into_iter().zip(losses("portable")) {
        assert!((a / b - 1.0).abs() < 1e-3, "{a} and {b}");
    }
    let refused = with("mmx", "none");
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && text.contains("\"mmx\", but this processor has: portable"), "{text}");
}

#[test]
fn recompute_and_offload_change_no_bit_and_offload_without_a_gpu_is_noted() {
    let workshop = Workshop::new();
    let with = |recompute: &str| {
        let set = format!("training.recompute=\"{recompute}\"");
        run(workshop.home(), &["train", "recipe.toml", "--run-name", recompute, "--set", &set]).expect(0);
        let log = events(&workshop, recompute);
        assert_eq!(of_kind(&log, "memory")[0]["recompute"], recompute != "off", "{recompute}");
        let told = of_kind(&log, "notice").iter().any(|notice| notice.to_string().contains("it needs a CUDA GPU"));
        assert_eq!(told, recompute == "offload", "{recompute}");
        fs::read(workshop.path("runs").join(recompute).join(ADAPTER)).unwrap()
    };
    let kept = with("off");
    assert!(kept == with("on"), "recomputation changes the adapter");
    assert!(kept == with("offload"), "offload changes the adapter");
}

#[test]
fn memory_is_predicted_compared_and_refused() {
    let workshop = Workshop::new();
    let estimate = run(workshop.home(), &["estimate", "recipe.toml", "--json"]).expect(0).stdout;
    let estimate: Value = serde_json::from_str(&estimate).unwrap();
    assert_eq!((&estimate["device"], &estimate["micro_batch_size"]), (&"CPU, f32".into(), &2.into()));
    let predicted = estimate["peak_bytes"].as_u64().unwrap();
    assert!(estimate["limit_bytes"].as_u64().unwrap() > predicted);
    assert_eq!(estimate["size_classes"].as_array().unwrap().len(), 7);
    let text = run(workshop.home(), &["estimate", "recipe.toml", "--device", "cuda"]).expect(0).stdout;
    assert!(text.contains("tiny on CUDA, bf16: micro-batches of 2"), "{text}");
    assert!(text.contains("Llama-3.1-8B") && text.contains("training: activations"), "{text}");

    let done = run(workshop.home(), &["train", "recipe.toml", "--run-name", "a"]).expect(0);
    assert!(done.stdout.contains("peak memory ") && done.stdout.contains(", predicted "), "{}", done.stdout);
    let memory = &of_kind(&events(&workshop, "a"), "memory")[0].clone();
    assert_eq!((&memory["micro_batch_size"], &memory["recompute"]), (&2.into(), &false.into()));
    assert!(memory["parts"]["base"].as_u64().unwrap() > 0 && memory["limit_bytes"].as_u64().unwrap() > predicted);

    let little = ["--set", "training.max_memory=0.01"];
    let checked = run(workshop.home(), &[&["check", "recipe.toml"], &little[..]].concat()).expect(0);
    assert!(checked.stderr.contains("warning: not enough memory"), "{}", checked.stderr);
    let refused = run(workshop.home(), &[&["train", "recipe.toml", "--run-name", "b"], &little[..]].concat()).expect(6);
    for part in ["error: not enough memory: the run needs about", "11 MiB are available", "hint: try "] {
        assert!(refused.stderr.contains(part), "{part:?} is in\n{}", refused.stderr);
    }
    assert!(!workshop.path("runs/b").exists(), "nothing was written");
}

#[test]
fn json_lines_are_the_event_log() {
    let workshop = Workshop::new();
    let done = run(workshop.home(), &["--log-format", "json", "train", "recipe.toml", "--run-name", "a"]).expect(0);
    let lines: Vec<Value> = done.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let logged: Vec<&Value> = lines.iter().filter(|line| line.get("seq").is_some()).collect();
    assert_eq!(logged, events(&workshop, "a").iter().collect::<Vec<_>>());
    let summary: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!((&summary["steps"], &summary["after"]["adherence"]["prompts"]), (&6.into(), &1.into()));
}

/// Stops a run after some steps, resumes it, and compares it with an uninterrupted run.
fn resumed_equals_uninterrupted(workshop: &Workshop, stop: impl FnOnce(&Workshop, &mut Child)) {
    workshop.edit("recipe.toml", "save_every = 2", "save_every = 1");
    let mut child = start(workshop, "stopped");
    wait_for_checkpoint(workshop, "stopped");
    stop(workshop, &mut child);
    let listed = run(workshop.home(), &["runs", "--json"]).expect(0).stdout;
    assert!(listed.contains("\"interrupted\""), "{listed}");
    run(workshop.home(), &["--progress", "none", "resume", "stopped"]).expect(0);

    let whole = start(workshop, "whole").wait_with_output().unwrap();
    assert!(whole.status.success(), "{}", String::from_utf8_lossy(&whole.stderr));
    let bytes = |name: &str| fs::read(workshop.path("runs").join(name).join(ADAPTER)).unwrap();
    assert_eq!(bytes("stopped"), bytes("whole"), "the adapters are identical to the byte");
    let attempts = events(workshop, "stopped").last().unwrap()["attempt"].clone();
    assert_eq!(attempts, 2);
}

#[cfg(unix)]
#[test]
fn an_interrupted_and_resumed_run_equals_an_uninterrupted_one() {
    resumed_equals_uninterrupted(&Workshop::new(), |_, child| {
        signal(child, "INT");
        assert_eq!(child.wait().unwrap().code(), Some(130));
    });
}

#[cfg(unix)]
#[test]
fn a_killed_run_loses_only_the_steps_after_its_checkpoint() {
    resumed_equals_uninterrupted(&Workshop::new(), |_, child| {
        child.kill().unwrap();
        child.wait().unwrap();
    });
}

/// With rank 128, the tensors have at least 4,096 elements. Smaller tensors have f32 moments.
#[test]
fn eight_bit_moments_survive_a_stop() {
    let workshop = Workshop::new();
    workshop.edit("recipe.toml", "rank = 4", "rank = 128");
    workshop.edit("recipe.toml", "[training]", "[training]\noptimizer = \"adamw_8bit\"");
    resumed_equals_uninterrupted(&workshop, |workshop, child| {
        fs::write(workshop.path("runs/stopped/stop.request"), "").unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130));
        let checkpoints = fs::read_dir(workshop.path("runs/stopped/checkpoints")).unwrap();
        let checkpoint = checkpoints.map(|entry| entry.unwrap().path()).find(|path| path.is_dir()).unwrap();
        let size = |file: &str| fs::metadata(checkpoint.join(file)).unwrap().len();
        assert!(
            size("optimizer.safetensors") < size("trainable.safetensors"),
            "two moments in less than one value takes"
        );
    });
}

#[test]
fn a_stop_request_saves_and_exits() {
    resumed_equals_uninterrupted(&Workshop::new(), |workshop, child| {
        fs::write(workshop.path("runs/stopped/stop.request"), "").unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130));
    });
}

#[cfg(unix)]
#[test]
fn sigterm_and_sighup_save_too() {
    for (name, code) in [("TERM", 143), ("HUP", 129)] {
        let workshop = Workshop::new();
        let mut child = start(&workshop, "a");
        wait_for_checkpoint(&workshop, "a");
        signal(&child, name);
        assert_eq!(child.wait().unwrap().code(), Some(code));
        let events = events(&workshop, "a");
        assert_eq!(events.last().unwrap()["kind"], "interrupted");
    }
}

#[cfg(unix)]
#[test]
fn a_run_has_one_writer_and_survives_a_closed_stderr() {
    let workshop = Workshop::new();
    let mut child = start(&workshop, "a");
    drop(child.stderr.take());
    wait_for_checkpoint(&workshop, "a");
    run(workshop.home(), &["resume", "a"]).expect(7);
    assert!(child.try_wait().unwrap().is_none(), "a broken pipe does not stop a run");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_damaged_checkpoint_is_skipped() {
    let workshop = Workshop::new();
    workshop.edit("recipe.toml", "save_every = 2", "save_every = 1");
    let mut child = start(&workshop, "a");
    let second = workshop.path("runs/a/checkpoints/step-000002");
    wait_until("two checkpoints", || second.is_dir());
    child.kill().unwrap();
    child.wait().unwrap();
    let mut steps: Vec<_> = fs::read_dir(workshop.path("runs/a/checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir() && !path.file_name().unwrap().to_string_lossy().starts_with('.'))
        .collect();
    steps.sort();
    let newest = steps.last().unwrap().join("optimizer.safetensors");
    let mut bytes = fs::read(&newest).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&newest, bytes).unwrap();
    let resumed = run(workshop.home(), &["--progress", "plain", "resume", "a"]).expect(0);
    assert!(resumed.stderr.contains("warning: checkpoint"), "{}", resumed.stderr);
}

#[test]
fn a_run_killed_after_its_exports_finishes() {
    let workshop = trained("a");
    let log = workshop.path("runs/a/events.jsonl");
    let text = fs::read_to_string(&log).unwrap();
    let without_end = text.trim_end().rfind('\n').unwrap() + 1;
    fs::write(&log, &text[..without_end]).unwrap();
    let adapter = fs::read(workshop.path("runs/a").join(ADAPTER)).unwrap();
    run(workshop.home(), &["--progress", "none", "resume", "a"]).expect(0);
    assert_eq!(fs::read(workshop.path("runs/a").join(ADAPTER)).unwrap(), adapter);
}

#[test]
fn divergence_exits_with_5() {
    let workshop = Workshop::new();
    workshop.edit("recipe.toml", "learning_rate = 1e-2", "learning_rate = 10.0\nmax_grad_norm = 0.0\nepochs = 50");
    workshop.edit("recipe.toml", "epochs = 1\n", "");
    // Weights near the largest f32 number.
    let path = workshop.path("base/model.safetensors");
    let mut file = fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(*file.first_chunk().unwrap()) as usize;
    for value in file[header..].chunks_exact_mut(4).skip(20_000) {
        value.copy_from_slice(&1e30_f32.to_le_bytes());
    }
    fs::write(&path, file).unwrap();
    let done = run(workshop.home(), &["--progress", "none", "train", "recipe.toml", "--run-name", "a"]).expect(5);
    assert!(done.stderr.contains("diverged"), "{}", done.stderr);
    assert!(run(workshop.home(), &["runs"]).expect(0).stdout.contains("diverged"));
}

#[test]
fn chat_is_deterministic_and_compares() {
    let workshop = trained("a");
    let ask = |extra: &[&str]| {
        let fixed = ["chat", "runs/a", "--prompt", "Where is my lamp?", "--max-new-tokens", "12"];
        run(workshop.home(), &[&fixed, extra].concat()).expect(0).stdout
    };
    assert_eq!(ask(&[]), ask(&[]), "greedy");
    let sampled = ["--temperature", "1.5", "--top-p", "0.95", "--top-k", "50", "--seed", "3"];
    assert_eq!(ask(&sampled), ask(&sampled), "the seed decides");
    let both = ask(&["--compare"]);
    assert!(both.contains("[base]") && both.contains("[adapter]"), "{both}");

    let base = run(workshop.home(), &["chat", "base", "--prompt", "Where is my lamp?", "--max-new-tokens", "12"]);
    let adapter = ["--adapter", "runs/a/exports/adapter", "--prompt", "Where is my lamp?", "--max-new-tokens", "12"];
    let with_adapter = run(workshop.home(), &[&["chat", "base"], &adapter[..]].concat());
    assert_ne!(base.expect(0).stdout, with_adapter.expect(0).stdout, "the adapter has an effect");
    run(workshop.home(), &["chat", "base", "--compare", "--prompt", "Hello?"]).expect(2);
}

#[test]
fn chat_answers_line_by_line() {
    let workshop = Workshop::new();
    let mut command = tonfall(workshop.home());
    command.args(["chat", "base", "--max-new-tokens", "4"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"One?\n\nTwo?\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert!(output.stdout.iter().filter(|byte| **byte == b'\n').count() >= 2, "two answers");
}

#[test]
fn merge_equals_the_merged_export() {
    let workshop = trained("a");
    let merged = |args: &[&str], out: &str| {
        run(workshop.home(), &[&["merge"], args, &["--out", out]].concat()).expect(0);
        fs::read(workshop.path(out).join("model.safetensors")).unwrap()
    };
    let exported = fs::read(workshop.path("runs/a/exports/merged/model.safetensors")).unwrap();
    assert_eq!(merged(&["runs/a"], "one"), exported);
    assert_eq!(merged(&["runs/a/exports/adapter", "--base", "base"], "two"), exported);
    assert_ne!(exported, fs::read(workshop.path("base/model.safetensors")).unwrap());
    run(workshop.home(), &["merge", "runs/a", "--out", "one"]).expect(3);
    run(workshop.home(), &["chat", "one", "--prompt", "Hello?", "--max-new-tokens", "4"]).expect(0);
}

/// Changes the workshop's recipe to full training.
fn train_every_weight(workshop: &Workshop) {
    let recipe = fs::read_to_string(workshop.path("recipe.toml")).unwrap();
    let start = recipe.find("[lora]").unwrap();
    let end = recipe.find("[data]").unwrap();
    let recipe = recipe.replace(&recipe[start..end], "[adapter]\nkind = \"full\"\n\n").replace("\"nf4\"", "\"none\"");
    let recipe = recipe.replace("[export]\nto = [\"peft\", \"safetensors\"]\n", "");
    fs::write(workshop.path("recipe.toml"), recipe).unwrap();
}

#[test]
fn full_training_writes_a_model() {
    let workshop = Workshop::new();
    train_every_weight(&workshop);
    let done = run(workshop.home(), &["train", "recipe.toml", "--run-name", "a"]).expect(0);
    assert!(done.stdout.contains("runs/a/exports/model"), "{}", done.stdout);
    run(workshop.home(), &["chat", "runs/a", "--prompt", "Hello?", "--max-new-tokens", "4"]).expect(0);
}

/// Gemma's norms multiply by 1 + the stored weight, both frozen and trained.
#[test]
fn a_trained_gemma_stores_its_norms_without_the_offset() {
    let workshop = Workshop::new();
    workshop.edit("base/config.json", "LlamaForCausalLM", "GemmaForCausalLM");
    workshop.edit("base/config.json", "\"model_type\":\"llama\"", "\"model_type\":\"gemma\"");
    workshop.edit("base/config.json", "\"silu\"", "\"gelu_pytorch_tanh\"");
    workshop.edit("recipe.toml", "learning_rate = 1e-2", "learning_rate = 1e-6");
    let dense = ["train", "recipe.toml", "--set", "quantization=\"none\"", "--set", "lora.dropout=0.0"];
    run(workshop.home(), &[&dense[..], &["--run-name", "adapter"]].concat()).expect(0);
    train_every_weight(&workshop);
    run(workshop.home(), &["train", "recipe.toml", "--run-name", "full"]).expect(0);
    let first_loss = |name| of_kind(&events(&workshop, name), "step")[0]["loss"].as_f64().unwrap();
    let (adapter, full) = (first_loss("adapter"), first_loss("full"));
    assert!((adapter - full).abs() < 1e-5 * adapter, "{adapter} with frozen norms, {full} with trained ones");

    let trained = BaseModel::open(&workshop.path("runs/full/exports/model")).unwrap();
    for name in ["model.layers.0.input_layernorm.weight", "model.norm.weight"] {
        let weight = trained.weight(name).unwrap();
        let mut values = weight.bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
        assert!(values.all(|value| (value - 1.0).abs() < 1e-4), "{name}");
    }
}

#[test]
fn init_writes_a_recipe_that_checks_and_trains() {
    let workshop = Workshop::new();
    run(workshop.home(), &["init", "mine", "--base", "base", "--data", "train.jsonl"]).expect(0);
    let recipe = workshop.path("mine/recipe.toml");
    assert!(fs::read_to_string(&recipe).unwrap().contains("max_seq_len = 128"));
    let recipe = recipe.to_str().unwrap();
    let checked = run(workshop.home(), &["check", recipe]).expect(0);
    assert!(checked.stdout.contains("24 rows, 24 examples"), "{}", checked.stdout);
    run(workshop.home(), &["--quiet", "train", recipe, "--set", "training.max_steps=1", "--run-name", "m"]).expect(0);
    assert!(Path::new(&workshop.path("runs/m").join(ADAPTER)).is_file());
}
