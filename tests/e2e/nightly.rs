//! Nights: train, judge, publish, roll back, and everything that can go wrong in between.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::program::{Finished, run, tonfall, wait_until};
use crate::tiny_model::{RECIPE, Workshop, conversations};

/// Few steps, one export, and whatever the test adds.
fn workshop(more: &str) -> Workshop {
    let workshop = Workshop::new();
    let recipe =
        RECIPE.replace("to = [\"peft\", \"safetensors\"]", "to = [\"peft\"]").replace("epochs = 1", "max_steps = 2");
    fs::write(workshop.path("recipe.toml"), format!("{recipe}\n{more}")).unwrap();
    workshop
}

fn night(workshop: &Workshop, options: &[&str]) -> Finished {
    let mut args = vec!["--progress", "none", "nightly", "recipe.toml"];
    args.extend(options);
    run(workshop.home(), &args)
}

/// The last line on stdout.
fn summary(finished: &Finished) -> Value {
    let line = finished.stdout.lines().last().unwrap_or_else(|| panic!("no summary\n{}", finished.stderr));
    serde_json::from_str(line).unwrap()
}

fn current(workshop: &Workshop) -> Option<String> {
    fs::read_to_string(workshop.path("store/tiny/current")).ok()
}

fn runs(workshop: &Workshop) -> usize {
    fs::read_dir(workshop.path("runs"))
        .unwrap()
        .filter(|run| run.as_ref().unwrap().path().join("run.json").is_file())
        .count()
}

/// The run that made a version.
fn run_of_version(workshop: &Workshop, number: u64) -> String {
    let text = fs::read_to_string(workshop.path(&format!("store/tiny/{number:06}/version.json"))).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()["run"].as_str().unwrap().to_owned()
}

#[test]
fn changed_data_is_published_and_unchanged_data_is_not_trained() {
    let workshop = workshop("[nightly]\nkeep_runs = 2\n[publish]\nkeep = 1\n");
    let first = night(&workshop, &[]).expect(0);
    let found = summary(&first);
    assert_eq!((&found["result"], &found["version"], &found["exit_code"]), (&json!("published"), &json!(1), &json!(0)));
    let stages: Vec<&str> =
        found["stages"].as_array().unwrap().iter().map(|stage| stage["stage"].as_str().unwrap()).collect();
    assert_eq!(stages, ["check", "train", "evaluate", "gate", "publish", "prune"]);
    assert_eq!(current(&workshop).as_deref(), Some("1\n"));
    let version = workshop.path("store/tiny/000001");
    for file in [
        "adapter/adapter_model.safetensors",
        "adapter/adapter_config.json",
        "plan.toml",
        "verdict.json",
        "MANIFEST.json",
    ] {
        assert!(version.join(file).is_file(), "{file}");
    }
    let log = fs::read_to_string(workshop.path("store/tiny/nightly.log")).unwrap();
    assert!(log.contains(" train: done (") && log.contains(" published: version 1 is current"), "{log}");

    let second = night(&workshop, &[]).expect(0);
    assert_eq!(summary(&second)["result"], "unchanged");
    assert_eq!(runs(&workshop), 1);

    for (index, rows) in [30, 31, 32].into_iter().enumerate() {
        fs::write(workshop.path("train.jsonl"), conversations(rows)).unwrap();
        assert_eq!(summary(&night(&workshop, &[]).expect(0))["version"], index + 2);
    }
    assert_eq!(runs(&workshop), 2);
    let listed = run(workshop.home(), &["store", "tiny", "--json"]).expect(0).stdout;
    let versions: Vec<Value> = listed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let numbers: Vec<_> =
        versions.iter().map(|version| (version["version"].as_u64().unwrap(), version["current"] == true)).collect();
    assert_eq!(numbers, [(3, false), (4, true)]);

    // The page of a run names what changed since the version before; the list has a row for each night.
    let newest = run_of_version(&workshop, 4);
    run(workshop.home(), &["report", &newest, "--out", "run.html"]).expect(0);
    let page = fs::read_to_string(workshop.path("run.html")).unwrap();
    assert!(page.contains("tiny version 3") && page.contains("data file"), "{page}");
    run(workshop.home(), &["report", "--nights", "tiny", "--out", "nights.html"]).expect(0);
    let page = fs::read_to_string(workshop.path("nights.html")).unwrap();
    assert_eq!(page.matches("<td class=\"good\">✓ published</td>").count(), 4, "{page}");
    assert!(page.contains("nothing to do") && page.contains("<code>loss</code>"), "{page}");
    let none = run(workshop.home(), &["report", "--nights", "other", "--out", "none.html"]).expect(3);
    assert!(none.stderr.contains("there are no nights of other in store"), "{}", none.stderr);

    // A version that was rolled back is not published again.
    let back = run(workshop.home(), &["rollback", "tiny"]).expect(0);
    assert_eq!(back.stdout, "tiny version 3 is current, instead of 4\n");
    let withdrawn = night(&workshop, &[]).expect(0);
    assert_eq!((&summary(&withdrawn)["result"], current(&workshop).as_deref()), (&json!("unchanged"), Some("3\n")));
    assert_eq!(summary(&night(&workshop, &["--force"]).expect(0))["version"], 5);
}

#[cfg(unix)]
#[test]
fn a_night_that_is_stopped_is_continued_by_the_next_one() {
    let workshop = workshop("");
    let over = night(&workshop, &["--set", "nightly.max_duration=0.0000001"]).expect(130);
    assert_eq!((&summary(&over)["result"], current(&workshop)), (&json!("stopped"), None));

    let mut command = tonfall(workshop.home());
    command.args(["--progress", "none", "nightly", "recipe.toml", "--set", "training.max_steps=100"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let checkpoints = || {
        let runs = fs::read_dir(workshop.path("runs")).into_iter().flatten();
        runs.filter(|run| run.as_ref().unwrap().path().join("checkpoints/latest").is_file()).count()
    };
    wait_until("a checkpoint", || checkpoints() == 1);
    let killed = std::process::Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let stopped = Finished::from(child.wait_with_output().unwrap()).expect(143);
    assert_eq!((&summary(&stopped)["result"], current(&workshop)), (&json!("stopped"), None));

    let done = night(&workshop, &["--set", "training.max_steps=100"]).expect(0);
    let found = summary(&done);
    assert_eq!((&found["result"], &found["stages"][1]["stage"]), (&json!("published"), &json!("resume")));
    assert_eq!(runs(&workshop), 1);
}

#[cfg(unix)]
#[test]
fn a_hook_that_fails_keeps_the_published_version() {
    let hook = "[[hook]]\ncommand = \"echo $TONFALL_VERSION >> used; test ! -e broken\"\n";
    let workshop = workshop(hook);
    night(&workshop, &[]).expect(0);
    fs::write(workshop.path("broken"), "").unwrap();
    fs::write(workshop.path("train.jsonl"), conversations(30)).unwrap();
    let failed = night(&workshop, &[]).expect(8);
    assert_eq!((&summary(&failed)["result"], current(&workshop).as_deref()), (&json!("failed"), Some("1\n")));
    assert!(failed.stderr.contains("the published version is unchanged"), "{}", failed.stderr);
    fs::remove_file(workshop.path("broken")).unwrap();
    // The trained run is published without training again, as the same version.
    let done = night(&workshop, &[]).expect(0);
    assert_eq!((&summary(&done)["version"], runs(&workshop)), (&json!(2), 2));
    let used = fs::read_to_string(workshop.path("used")).unwrap();
    // New, back to the old one, that again at the start of the next night, and new.
    assert_eq!(used.split_whitespace().collect::<Vec<_>>(), ["1", "2", "1", "1", "2"]);
}

#[test]
fn only_one_night_at_a_time() {
    let workshop = workshop("");
    let store = workshop.path("store/tiny");
    fs::create_dir_all(&store).unwrap();
    let lock = fs::File::create(store.join("nightly.lock")).unwrap();
    lock.lock().unwrap();
    let busy = night(&workshop, &[]).expect(7);
    assert!(busy.stderr.contains("another process is in a nightly run"), "{}", busy.stderr);
}

#[cfg(unix)]
#[test]
fn secrets_are_in_no_file() {
    let notify = "[notify]\nwebhook = \"env:NIGHTLY_WEBHOOK\"\ntoken = \"env:NIGHTLY_TOKEN\"\n\
                  command = \"cat > sent\"\n";
    let workshop = workshop(notify);
    let mut command = tonfall(workshop.home());
    command.args(["--progress", "none", "nightly", "recipe.toml"]);
    command.env("NIGHTLY_WEBHOOK", "http://127.0.0.1:1/s3cret").env("NIGHTLY_TOKEN", "s3cret");
    let done = Finished::from(command.output().unwrap()).expect(0);
    assert!(done.stderr.contains("warning: notify.webhook: http://127.0.0.1:1/…"), "{}", done.stderr);
    let sent: Value = serde_json::from_str(&fs::read_to_string(workshop.path("sent")).unwrap()).unwrap();
    assert_eq!(sent["result"], "published");
    assert!(!done.stderr.contains("s3cret") && !done.stdout.contains("s3cret"));
    nothing_holds("s3cret", workshop.home());
}

fn nothing_holds(text: &str, dir: &Path) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            nothing_holds(text, &path);
        } else {
            let found = fs::read(&path).unwrap().windows(text.len()).any(|bytes| bytes == text.as_bytes());
            assert!(!found, "{}", path.display());
        }
    }
}

/// A report of one rate, over 40 prompts.
fn report(hits: usize) -> String {
    let parts: Vec<Value> =
        (0..40).map(|index| json!({"numerator": u8::from(index < hits), "denominator": 1})).collect();
    let measure = json!({"name": "terms.preferred", "better": "higher", "scale": "ratio", "parts": parts});
    json!({
        "format": 1, "tonfall": "0.1.0", "created": "2026-12-01T02:00:00Z", "subject": {"name": "x"}, "questions": "00",
        "measures": [measure], "answers": [],
    })
    .to_string()
}

#[test]
fn publish_asks_the_gate() {
    let gate = "[[gate]]\nmeasure = \"terms.preferred\"\nover_base = 0.1\nover_published = 0.0\n";
    let workshop = workshop(gate);
    let publish = |name: &str, adapter: usize, base: usize| {
        run(workshop.home(), &["--progress", "none", "train", "recipe.toml", "--run-name", name]).expect(0);
        let unjudged = run(workshop.home(), &["publish", name]).expect(3);
        assert!(unjudged.stderr.contains("the run was not evaluated"), "{}", unjudged.stderr);
        let eval = workshop.path("runs").join(name).join("eval");
        fs::write(eval.join("adapter.json"), report(adapter)).unwrap();
        fs::write(eval.join("base.json"), report(base)).unwrap();
        run(workshop.home(), &["publish", name])
    };
    let first = publish("good", 30, 5).expect(0);
    assert!(first.stdout.starts_with("tiny version 1 is current"), "{}", first.stdout);
    let worse = publish("worse", 20, 5).expect(4);
    assert!(worse.stderr.contains("terms.preferred: 0.5 against 0.75 of the published adapter"), "{}", worse.stderr);
    assert_eq!(current(&workshop).as_deref(), Some("1\n"));
    let verdict = fs::read_to_string(workshop.path("runs/worse/eval/verdict.json")).unwrap();
    let verdict: Value = serde_json::from_str(&verdict).unwrap();
    assert_eq!((&verdict["passed"], &verdict["conditions"][0]["passed"]), (&json!(false), &json!(true)));
    let listed = run(workshop.home(), &["runs", "--json"]).expect(0).stdout;
    assert!(
        listed.contains("\"verdict\":\"failed\"") && listed.contains("\"published\":\"tiny version 1\""),
        "{listed}"
    );
    assert!(listed.lines().all(|line| line.contains("\"attempt\":1")), "{listed}");
    run(workshop.home(), &["publish", "worse", "--no-gate"]).expect(0);
    assert_eq!(current(&workshop).as_deref(), Some("2\n"));
    let back = run(workshop.home(), &["rollback", "tiny", "--to", "7"]).expect(3);
    assert!(back.stderr.contains("no version 7 of tiny"), "{}", back.stderr);
}

#[test]
fn a_night_judges_its_own_evaluation() {
    let gate = "[[gate]]\nmeasure = \"loss\"\nat_most = 0.001\nover_base = 0.0\nconfidence = 0.8\n";
    let workshop = workshop(gate);
    let refused = night(&workshop, &[]).expect(4);
    let found = summary(&refused);
    assert_eq!((&found["result"], current(&workshop)), (&json!("gate_failed"), None));
    let reasons = found["reasons"].as_array().unwrap();
    assert!(reasons.len() == 1 && reasons[0].as_str().unwrap().contains("instead of at most 0.001"), "{reasons:?}");
    // The run is kept, and not trained again.
    let again = summary(&night(&workshop, &[]).expect(4));
    assert_eq!(
        (&again["reasons"], again["stages"].as_array().unwrap().len(), runs(&workshop)),
        (&found["reasons"], 1, 1)
    );

    // Other rules: the same run is judged again.
    workshop.edit("recipe.toml", "at_most = 0.001", "over_published = -1.0");
    assert_eq!((&summary(&night(&workshop, &[]).expect(0))["version"], runs(&workshop)), (&json!(1), 1));
    // Other questions: the published adapter is asked them, too.
    let more = r#"{"prompt": "Where is my lamp?", "expect": ["handover"], "avoid": ["delivery"]}"#;
    fs::write(workshop.path("prompts.jsonl"), format!("{more}\n")).unwrap();
    let asked = night(&workshop, &[]).expect(0);
    assert!(asked.stderr.contains("version 1 is asked tonight's questions"), "{}", asked.stderr);
    assert_eq!(summary(&asked)["version"], 2);
}
