//! The first ten minutes of a new user: `init` on real data, `check`, `data --show`, and the faults of a first recipe.

use std::fs;

use serde_json::{Value, json};

use crate::program::{run, tonfall};
use crate::tiny_model::{Workshop, conversations};

/// A realistic data folder: two duplicate rows, a column that is always null, and a README file.
fn real_data(workshop: &Workshop) {
    let rows = conversations(60);
    let again: String = rows.lines().take(2).map(|row| format!("{row}\n")).collect();
    let with_null = (rows + &again).replace("{\"messages\"", "{\"note\":null,\"messages\"");
    fs::create_dir(workshop.path("data")).unwrap();
    fs::write(workshop.path("data/train.jsonl"), with_null).unwrap();
    fs::write(workshop.path("data/README.md"), "# Letters\n\nLetters of the year.\n").unwrap();
}

#[test]
fn init_writes_a_recipe_for_real_data_and_prints_the_faults_that_check_reports() {
    let workshop = Workshop::new();
    real_data(&workshop);
    let init = ["init", "my-style", "--base", "base", "--data", "data"];
    let told = run(workshop.home(), &init).expect(0);
    assert!(told.stderr.contains("duplicate") && told.stderr.contains("train.jsonl:61"), "{}", told.stderr);
    assert!(told.stdout.starts_with("my-style/recipe.toml\n"), "{}", told.stdout);
    let recipe = fs::read_to_string(workshop.path("my-style/recipe.toml")).unwrap();
    for line in ["base = \"../base\"", "train = \"../data\"", "max_seq_len = 128", "eval_fraction = 0.1"] {
        assert!(recipe.contains(line), "{line} is in\n{recipe}");
    }
    let checked = tonfall(workshop.home()).args(["check", "my-style/recipe.toml"]).output().unwrap();
    let checked = [checked.stdout, checked.stderr].concat();
    assert!(String::from_utf8(checked).unwrap().contains("duplicate"), "check tells the same");

    let sets = ["--set", "audit.duplicates=warn", "--set", "audit.leakage=warn", "--set", "training.max_steps=4"];
    let train = [&["--quiet", "train", "my-style/recipe.toml", "--set", "training.learning_rate=1e-2"], &sets[..]];
    run(workshop.home(), &train.concat()).expect(0);
    let runs: Vec<Value> = run(workshop.home(), &["runs", "--json"])
        .expect(0)
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let id = runs[0]["id"].as_str().unwrap();
    assert!(id.starts_with("my-style-"), "a recipe.toml gives its runs the name of its folder: {id}");
    let events = fs::read_to_string(workshop.path("runs").join(id).join("events.jsonl")).unwrap();
    let losses: Vec<f64> = events
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|event| event["kind"] == "eval")
        .map(|event| event["loss"].as_f64().unwrap())
        .collect();
    assert!(losses.len() >= 2 && losses[losses.len() - 1] < losses[0], "the loss falls: {losses:?}");
}

#[test]
fn init_writes_a_recipe_for_faulty_data() {
    let broken = conversations(2) + "{\"messages\": [}\n";
    for (name, text) in
        [("broken.jsonl", broken.as_str()), ("unknown.jsonl", "{\"a\": 1, \"b\": 2}\n"), ("empty.jsonl", "")]
    {
        let workshop = Workshop::new();
        fs::write(workshop.path(name), text).unwrap();
        let told = run(workshop.home(), &["init", "new", "--base", "base", "--data", name]).expect(0);
        let warning = "warning: `tonfall check new/recipe.toml` will refuse the data: ";
        assert!(told.stderr.contains(warning) && told.stderr.contains(name), "{name}: {}", told.stderr);
        assert!(!told.stdout.contains("train"), "{}", told.stdout);
        let refused = run(workshop.home(), &["check", "new/recipe.toml"]).expect(3);
        let fault = told.stderr.split(warning).nth(1).unwrap().trim();
        assert!(refused.stderr.contains(fault), "{fault} is in\n{}", refused.stderr);
    }
    let workshop = Workshop::new();
    let refused = run(workshop.home(), &["init", "new", "--base", "base", "--data", "absent.jsonl"]).expect(3);
    assert!(refused.stderr.contains("--data names a path that does not exist"), "{}", refused.stderr);
    assert!(!workshop.path("new").exists());
}

/// ESC `[2J` clears the screen; U+009B is CSI in one character; U+202E reverses the text direction.
const HOSTILE: &str = "clear\u{1b}[2J\u{9b}2J and turn\u{202e}\u{7f}";

fn is_harmless(text: &str) -> bool {
    !text.chars().any(|c| (c.is_control() && !matches!(c, '\n' | '\t')) || matches!(c, '\u{202a}'..='\u{202e}'))
}

#[test]
fn data_is_escaped_on_the_terminal() {
    let workshop = Workshop::new();
    let row = json!({"messages": [{"role": "user", "content": HOSTILE}, {"role": "assistant", "content": HOSTILE}]});
    fs::write(workshop.path("train.jsonl"), format!("{row}\n") + &conversations(3)).unwrap();
    let data = ["data", "recipe.toml", "--set", "audit.mojibake=off"];
    let shown = run(workshop.home(), &[&data[..], &["--show", "4"]].concat()).expect(0);
    assert!(is_harmless(&shown.stdout) && is_harmless(&shown.stderr), "{}", shown.stdout);
    assert!(shown.stdout.contains("clear\\x1b[2J\\x9b2J and turn\\u202e\\x7f<|im_end|>⟧"), "{}", shown.stdout);

    let report = run(workshop.home(), &[&data[..], &["--json", "--show", "4"]].concat()).expect(0).stdout;
    assert!(is_harmless(&report), "{report}");
    let report: Value = serde_json::from_str(&report).unwrap();
    let examples = report["examples"].as_array().unwrap();
    assert_eq!(examples.len(), 4);
    let text = |example: &Value| -> String {
        example["stretches"].as_array().unwrap().iter().map(|part| part["text"].as_str().unwrap()).collect()
    };
    assert!(examples.iter().any(|example| text(example).contains(HOSTILE)), "the text itself is unchanged");
    assert!(examples.iter().all(|example| example["tokens"].as_u64() > example["trained_tokens"].as_u64()));

    // This error quotes the data.
    let row = json!({"conversations": [{"from": HOSTILE, "value": "a"}]});
    fs::write(workshop.path("train.jsonl"), format!("{row}\n")).unwrap();
    let refused = run(workshop.home(), &["check", "recipe.toml"]).expect(3);
    assert!(refused.stderr.contains("clear") && is_harmless(&refused.stderr), "{}", refused.stderr);
}

#[test]
fn keys_are_listed_only_with_the_option() {
    let workshop = Workshop::new();
    workshop.edit("recipe.toml", "rank = 4", "rnak = 4");
    assert_eq!(run(workshop.home(), &["check", "recipe.toml"]).expect(3).stdout, "");
    assert_eq!(run(workshop.home(), &["check", "absent.toml"]).expect(3).stdout, "");
    let keys = run(workshop.home(), &["check", "--keys"]).expect(0).stdout;
    assert!(keys.lines().count() > 70, "{keys}");
    assert!(keys.contains("lora.rank") && keys.contains("a whole number from 1 to 4096; default 16"), "{keys}");
    run(workshop.home(), &["check"]).expect(2);
    let directory = run(workshop.home(), &["check", "."]).expect(3).stderr;
    assert!(directory.contains("hint: this is a directory; is ./recipe.toml meant?"), "{directory}");
}

/// Linux file names are bytes, but a recipe is UTF-8. Commands that need a plan refuse such a directory and name it.
#[cfg(target_os = "linux")]
#[test]
fn a_non_utf8_working_directory_causes_no_panic() {
    use std::os::unix::ffi::OsStrExt;

    let workshop = Workshop::new();
    let home = workshop.home().join(std::ffi::OsStr::from_bytes(b"caf\xe9"));
    fs::create_dir(&home).unwrap();
    let base = workshop.path("base").display().to_string();
    let data = workshop.path("train.jsonl").display().to_string();
    let recipe = workshop.path("recipe.toml").display().to_string();
    let commands: [(&[&str], &[i32]); 8] = [
        (&["runs"], &[0]),
        (&["runs", "--json"], &[0]),
        (&["watch", "--once"], &[3]),
        (&["metrics"], &[0]),
        (&["doctor"], &[0]),
        (&["chat", &base, "--prompt", "Hello?", "--max-new-tokens", "2"], &[0]),
        (&["init", "mine", "--base", &base, "--data", &data], &[0, 3]),
        (&["check", &recipe], &[0, 3]),
    ];
    for (args, codes) in commands {
        let output = tonfall(&home).args(args).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(codes.contains(&output.status.code().unwrap()), "{args:?}: {:?}\n{stderr}", output.status.code());
        assert!(!stderr.contains("panicked") && !stderr.contains("unexpected"), "{args:?}: {stderr}");
    }
    let left: Vec<_> = fs::read_dir(workshop.home()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(
        left.iter().all(|name| !name.to_string_lossy().contains('\u{fffd}') || name.as_bytes() == b"caf\xe9"),
        "{left:?}"
    );
}
