//! Several processes that train one model, started like torchrun starts them.

use std::fs;
use std::net::TcpListener;
use std::process::{Child, Stdio};

use serde_json::Value;

use crate::program::{Finished, run, tonfall, wait_until};
use crate::tiny_model::Workshop;

/// The micro-batches that one process computes per step; 2 in the recipe.
const ACCUMULATION: &str = "training.gradient_accumulation_steps";

/// Starts `size` processes with torchrun's variables. Each gets `args`, but the last one gets `last`.
fn start(workshop: &Workshop, size: usize, args: &[&str], last: &[&str]) -> Vec<Child> {
    // A port that was free just now.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let (size_text, one) = (size.to_string(), |rank: usize| if rank + 1 == size { last } else { args });
    let process = |rank: usize| {
        let mut command = tonfall(workshop.home());
        command.args(one(rank)).env("RANK", rank.to_string()).env("LOCAL_RANK", rank.to_string());
        command.env("WORLD_SIZE", &size_text).env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", &port);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    (0..size).map(process).collect()
}

fn ended(processes: Vec<Child>) -> Vec<Finished> {
    processes.into_iter().map(|process| process.wait_with_output().unwrap().into()).collect()
}

fn train<'a>(name: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["train", "recipe.toml", "--run-name", name], more].concat()
}

fn losses(workshop: &Workshop, name: &str, kind: &str) -> Vec<f64> {
    let text = fs::read_to_string(workshop.path("runs").join(name).join("events.jsonl")).unwrap();
    let events = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    events.filter(|event| event["kind"] == kind).map(|event| event["loss"].as_f64().unwrap()).collect()
}

fn assert_close(got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(want) {
        assert!((got - want).abs() <= 1e-5 * want.abs(), "{got} for {want}");
    }
}

/// The recipe has dropout, and its last step has too few examples for four processes.
#[test]
fn several_processes_have_the_losses_of_one_process_with_the_whole_batch() {
    for size in [2, 3, 4] {
        let workshop = Workshop::new();
        let summed = format!("{ACCUMULATION}={size}");
        run(workshop.home(), &train("alone", &["--set", &summed])).expect(0);
        let args = ["--set".to_owned(), format!("{ACCUMULATION}=1")];
        let args = train("together", &[&args[0], &args[1]]);
        let finished = ended(start(&workshop, size, &args, &args));
        for (rank, finished) in finished.into_iter().enumerate() {
            let finished = finished.expect(0);
            assert_eq!(finished.stdout.is_empty(), rank > 0, "the first process alone tells the result");
            assert_eq!(finished.stderr.is_empty(), rank > 0, "{}", finished.stderr);
        }
        for kind in ["step", "eval"] {
            assert_close(&losses(&workshop, "together", kind), &losses(&workshop, "alone", kind));
        }
        assert!(losses(&workshop, "together", "step").len() >= 3);
        assert_eq!(
            fs::read_dir(workshop.path("runs")).unwrap().count(),
            2,
            "one run, whatever the number of processes"
        );
    }
}

#[cfg(unix)]
#[test]
fn a_signal_to_one_process_stops_all_and_the_run_resumes() {
    let workshop = Workshop::new();
    workshop.edit("recipe.toml", "save_every = 2", "save_every = 1");
    let more = ["--set", "training.epochs=20"];
    let args = train("stopped", &more);
    let processes = start(&workshop, 2, &args, &args);
    wait_until("a checkpoint", || workshop.path("runs/stopped/checkpoints/latest").is_file());
    let kill = std::process::Command::new("kill").args(["-TERM", &processes[1].id().to_string()]).status();
    assert!(kill.unwrap().success());
    for finished in ended(processes) {
        finished.expect(143);
    }

    let alone = run(workshop.home(), &["resume", "stopped"]).expect(3).stderr;
    assert!(alone.contains("made by 2 processes, but this run has 1"), "{alone}");

    let resume = ["resume", "stopped"];
    for finished in ended(start(&workshop, 2, &resume, &resume)) {
        finished.expect(0);
    }
    let args = train("whole", &more);
    for finished in ended(start(&workshop, 2, &args, &args)) {
        finished.expect(0);
    }
    let adapter = |name: &str| {
        fs::read(workshop.path("runs").join(name).join("exports/adapter/adapter_model.safetensors")).unwrap()
    };
    assert_eq!(adapter("stopped"), adapter("whole"), "the adapters are identical to the byte");
}

#[test]
fn a_process_that_dies_ends_the_others_and_is_named() {
    let workshop = Workshop::new();
    let args = train("a", &["--set", "training.epochs=200"]);
    let mut processes = start(&workshop, 3, &args, &args);
    wait_until("a checkpoint", || workshop.path("runs/a/checkpoints/latest").is_file());
    processes[2].kill().unwrap();
    let finished = ended(processes);
    let texts: Vec<&str> = finished.iter().map(|finished| finished.stderr.as_str()).collect();
    assert!(texts[0].contains("rank 2 is gone"), "{}", texts[0]);
    assert!(texts[1].contains("rank 0 is gone"), "{}", texts[1]);
    assert_eq!((finished[0].code, finished[1].code), (8, 8));
    let listed = run(workshop.home(), &["runs", "--json"]).expect(0).stdout;
    assert!(listed.contains("failed"), "{listed}");
}

/// The first process saves the completed steps, although no checkpoint was due.
#[test]
fn completed_steps_are_saved_when_a_process_dies() {
    let workshop = Workshop::new();
    workshop.edit("recipe.toml", "save_every = 2", "save_every = 0");
    let args = train("a", &["--set", "training.epochs=200"]);
    let mut processes = start(&workshop, 2, &args, &args);
    let log = workshop.path("runs/a/events.jsonl");
    wait_until("three steps", || fs::read_to_string(&log).unwrap_or_default().contains("\"step\":3,"));
    processes[1].kill().unwrap();
    let first = ended(processes).remove(0).expect(8);
    assert!(first.stderr.contains("rank 1 is gone"), "{}", first.stderr);
    let latest = fs::read_to_string(workshop.path("runs/a/checkpoints/latest")).unwrap();
    assert!(latest.starts_with("step-") && latest.trim() >= "step-000003", "{latest}");
}

#[test]
fn processes_with_different_recipes_are_refused() {
    let workshop = Workshop::new();
    let (args, other) = (train("a", &[]), train("a", &["--set", "training.learning_rate=0.5"]));
    for finished in ended(start(&workshop, 3, &args, &other)) {
        let stderr = finished.expect(3).stderr;
        assert!(stderr.contains("rank 2 has another plan than rank 0"), "{stderr}");
    }
    assert!(!workshop.path("runs").exists());
}

#[test]
fn incomplete_variables_are_named() {
    let workshop = Workshop::new();
    let mut command = tonfall(workshop.home());
    let finished: Finished =
        command.args(train("a", &[])).envs([("RANK", "0"), ("WORLD_SIZE", "2")]).output().unwrap().into();
    let stderr = finished.expect(2).stderr;
    assert!(stderr.contains("WORLD_SIZE is 2, but MASTER_ADDR is not set"), "{stderr}");
}
