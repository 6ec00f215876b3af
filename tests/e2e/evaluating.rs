//! `eval`: reports, the table, the cache, servers.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;

use serde_json::{Value, json};

use crate::program::{Finished, run};
use crate::tiny_model::{Workshop, conversations};

/// A workshop with a finished run, `runs/a`, whose recipe has a rule of style and eight held-out prompts.
fn trained() -> Workshop {
    let workshop = Workshop::new();
    let rule = "[[style]]\nname = \"no-shouting\"\nmust_not_match = \"!\"\n";
    let recipe = fs::read_to_string(workshop.path("recipe.toml")).unwrap();
    fs::write(workshop.path("recipe.toml"), format!("{recipe}\n{rule}")).unwrap();
    let prompt = |index: usize| {
        let text = format!("Where is my parcel, number {index}?");
        json!({"prompt": text, "expect": ["handover"], "avoid": ["delivery"], "reference": "The handover is near."})
    };
    let prompts: String = (0..8).map(|index| format!("{}\n", prompt(index))).collect();
    fs::write(workshop.path("prompts.jsonl"), prompts).unwrap();
    run(workshop.home(), &["--progress", "none", "train", "recipe.toml", "--run-name", "a"]).expect(0);
    workshop
}

fn eval(workshop: &Workshop, args: &[&str]) -> Finished {
    run(workshop.home(), &[&["--progress", "plain", "eval"], args].concat())
}

fn report(workshop: &Workshop, path: &str) -> Value {
    serde_json::from_slice(&fs::read(workshop.path(path)).unwrap()).unwrap()
}

fn value(report: &Value, name: &str) -> f64 {
    let measure = report["measures"].as_array().unwrap().iter().find(|measure| measure["name"] == name);
    let parts = measure.unwrap_or_else(|| panic!("no {name}"))["parts"].as_array().unwrap();
    let sum = |key: &str| parts.iter().map(|part| part[key].as_f64().unwrap()).sum::<f64>();
    sum("numerator") / sum("denominator")
}

/// The loss of the log's evaluations, first and last.
fn logged_losses(workshop: &Workshop) -> (f64, f64) {
    let events = fs::read_to_string(workshop.path("runs/a/events.jsonl")).unwrap();
    let events = events.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let losses: Vec<f64> =
        events.filter(|event| event["kind"] == "eval").map(|event| event["loss"].as_f64().unwrap()).collect();
    (losses[0], *losses.last().unwrap())
}

#[test]
fn a_run_has_a_report_of_its_base_and_of_its_adapter() {
    let workshop = trained();
    let done = eval(&workshop, &["a", "--terms"]).expect(0);
    for part in [
        "loss",
        "perplexity",
        "retention.perplexity",
        "terms.preferred.handover",
        "style.no-shouting",
        "reference.chrf",
        "degeneration.loops",
        " to ",
    ] {
        assert!(done.stdout.contains(part), "{part}: {}", done.stdout);
    }
    assert!(done.stdout.contains("prompt   Where is my parcel, number 0?\nbase     "), "{}", done.stdout);
    let (base, adapter) = (report(&workshop, "runs/a/eval/base.json"), report(&workshop, "runs/a/eval/adapter.json"));
    assert_eq!(base["questions"], adapter["questions"]);
    assert_eq!((adapter["answers"].as_array().unwrap().len(), &adapter["subject"]["name"]), (8, &json!("a")));
    assert!(adapter["subject"]["sha256"]["adapter"].is_string() && base["subject"]["sha256"]["adapter"].is_null());
    // The losses are those of the training run.
    let (first, last) = logged_losses(&workshop);
    assert!((value(&base, "loss") - first).abs() < 1e-4, "{} {first}", value(&base, "loss"));
    assert!((value(&adapter, "loss") - last).abs() < 1e-4, "{} {last}", value(&adapter, "loss"));
    assert!(value(&adapter, "retention.perplexity") > 0.0);
    // Without an adapter, the base alone.
    let alone = eval(&workshop, &["base", "--prompts", "prompts.jsonl", "--out", "alone.json", "--json"]).expect(0);
    let printed: Value = serde_json::from_str(&alone.stdout).unwrap();
    assert!(printed["trained"].is_null());
    assert_eq!(printed["base"]["measures"], report(&workshop, "alone.json")["measures"]);
    // An adapter names its base, or gets one.
    let adapter = eval(&workshop, &["runs/a/exports/adapter", "--base", "base", "--out", "adapter.json"]).expect(0);
    assert!(adapter.stdout.contains("retention.perplexity"), "{}", adapter.stdout);
}

#[test]
fn the_base_is_asked_the_same_only_once() {
    let workshop = trained();
    let entries = || -> Vec<_> {
        let found = fs::read_dir(workshop.path(".cache/tonfall/evaluations"));
        found.map(|found| found.map(|entry| entry.unwrap().path()).collect()).unwrap_or_default()
    };
    let asked = |finished: &Finished| finished.stderr.contains("asking the base");
    let first = eval(&workshop, &["a"]).expect(0);
    let stored = report(&workshop, "runs/a/eval/base.json");
    assert!(asked(&first) && entries().len() == 1, "{}", first.stderr);
    let second = eval(&workshop, &["a"]).expect(0);
    assert!(!asked(&second) && second.stderr.contains("come from the cache"), "{}", second.stderr);
    assert_eq!((report(&workshop, "runs/a/eval/base.json")["measures"]).to_string(), stored["measures"].to_string());
    assert_eq!(first.stdout, second.stdout);
    // A damaged entry is not used.
    let entry = entries().remove(0);
    let text = fs::read_to_string(&entry).unwrap();
    fs::write(&entry, text.replacen("\"ended\":", "\"ended\": ", 1)).unwrap();
    let third = eval(&workshop, &["a"]).expect(0);
    assert!(asked(&third) && third.stderr.contains("damaged"), "{}", third.stderr);
    // Other questions are asked.
    let other = eval(&workshop, &["a", "--max-new-tokens", "4"]).expect(0);
    assert!(asked(&other) && entries().len() == 2, "{}", other.stderr);
    // Another base has other answers.
    let weights = workshop.path("base/model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&weights, bytes).unwrap();
    let changed = eval(&workshop, &["a"]).expect(0);
    assert!(asked(&changed) && changed.stderr.contains("base weights"), "{}", changed.stderr);
}

#[test]
fn data_that_changed_since_the_training_is_named() {
    let workshop = trained();
    fs::write(workshop.path("train.jsonl"), conversations(20)).unwrap();
    let done = eval(&workshop, &["a"]).expect(0);
    assert!(done.stderr.contains("train.jsonl: changed"), "{}", done.stderr);
}

#[test]
fn a_server_is_asked_the_same_prompts() {
    let workshop = trained();
    let url = chat_server();
    let done = eval(&workshop, &["a", "--server", &url, "--model", "m"]).expect(0);
    assert!(done.stderr.contains("a server gives no losses"), "{}", done.stderr);
    let report = report(&workshop, "runs/a/eval/server.json");
    let names: Vec<&str> =
        report["measures"].as_array().unwrap().iter().map(|measure| measure["name"].as_str().unwrap()).collect();
    assert!(!names.contains(&"loss") && !names.contains(&"retention.perplexity"), "{names:?}");
    assert_eq!((value(&report, "terms.preferred"), value(&report, "degeneration.endless")), (1.0, 1.0));
    // The questions are those of the run, so the reports can be compared.
    eval(&workshop, &["a"]).expect(0);
    let base: Value = serde_json::from_slice(&fs::read(workshop.path("runs/a/eval/base.json")).unwrap()).unwrap();
    assert_eq!(base["questions"], report["questions"]);
    // Without a run: the prompts of a file.
    let alone = eval(&workshop, &["--server", &url, "--prompts", "prompts.jsonl", "--base-model", "m"]).expect(0);
    assert!(alone.stdout.contains("terms.preferred") && alone.stdout.contains("base"), "{}", alone.stdout);
}

/// A server that answers every chat alike, and cuts it off.
fn chat_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let (mut line, mut length, mut first) = (String::new(), 0, String::new());
            while reader.read_line(&mut line).unwrap_or(0) > 2 {
                if first.is_empty() {
                    first.clone_from(&line);
                }
                let lower = line.to_lowercase();
                length = lower.strip_prefix("content-length:").map_or(length, |text| text.trim().parse().unwrap());
                line.clear();
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let (status, answer) = match first.split(' ').nth(1).unwrap_or_default() {
                "/v1/models" => ("200 OK", json!({"object": "list", "data": [{"id": "m"}]})),
                "/v1/chat/completions" => {
                    let message = json!({"role": "assistant", "content": " The handover is near. "});
                    ("200 OK", json!({"choices": [{"message": message, "finish_reason": "length"}]}))
                }
                _ => ("404 Not Found", json!({"detail": "Not Found"})),
            };
            let text = answer.to_string();
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", text.len());
            let _ = stream.write_all(format!("{head}{text}").as_bytes());
        }
    });
    format!("http://{address}")
}

#[test]
fn wrong_arguments_and_inputs_name_the_way_out() {
    let workshop = trained();
    let fails = |args: &[&str], code: i32, part: &str| {
        let failed = eval(&workshop, args).expect(code);
        assert!(failed.stderr.contains(part), "{part:?} is not in: {}", failed.stderr);
    };
    fails(&[], 2, "RUN|MODEL|ADAPTER");
    fails(&["--server", "http://127.0.0.1:9"], 2, "--prompts FILE");
    fails(&["--server", "http://127.0.0.1:9", "--prompts", "prompts.jsonl"], 8, "no server answers there");
    fails(&["nothing"], 3, "nothing");
    fails(&["a", "--prompts", "recipe.toml"], 3, "recipe.toml");
    fs::write(workshop.path("long.jsonl"), json!({"prompt": "long ".repeat(5000)}).to_string()).unwrap();
    fails(&["a", "--prompts", "long.jsonl"], 3, "held-out prompt");
    fs::write(workshop.path("other.jsonl"), r#"{"prompt": "a", "language": "klingon"}"#).unwrap();
    fails(&["a", "--prompts", "other.jsonl"], 3, "klingon");
}
