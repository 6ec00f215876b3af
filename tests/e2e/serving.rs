//! Exports for servers: `export`, `verify`, and how they fail.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;

use serde_json::Value;

use crate::program::run;
use crate::tiny_model::Workshop;

/// A workshop with a finished run, `runs/a`.
fn trained() -> Workshop {
    let workshop = Workshop::new();
    run(workshop.home(), &["--progress", "none", "train", "recipe.toml", "--run-name", "a"]).expect(0);
    workshop
}

fn read_json(workshop: &Workshop, path: &str) -> Value {
    serde_json::from_slice(&fs::read(workshop.path(path)).unwrap()).unwrap()
}

const EXPORT: [&str; 6] = ["export", "runs/a", "--to", "peft,safetensors,gguf,gguf-adapter,ollama", "--out", "out"];

#[test]
fn every_export_computes_what_the_trained_model_computes() {
    let workshop = trained();
    run(workshop.home(), &[&EXPORT[..], &["--types", "F32,Q8_0"]].concat()).expect(0);
    let mut checked = Vec::new();
    for directory in ["adapter", "merged", "gguf", "gguf-adapter", "ollama"] {
        assert!(workshop.path("out").join(directory).join("SERVE.md").is_file(), "{directory}");
        let verification = read_json(&workshop, &format!("out/{directory}/verify.json"));
        assert_eq!(verification["prompts"][0]["messages"][0]["content"], "Where is my parcel?");
        for artefact in verification["artefacts"].as_array().unwrap() {
            for check in artefact["checks"].as_array().unwrap() {
                assert!(check["value"].as_f64() <= check["limit"].as_f64(), "{artefact}");
            }
            checked.push(format!("{directory} {}", artefact["artefact"].as_str().unwrap()));
        }
        run(workshop.home(), &["verify", &format!("out/{directory}"), "--base", "base"]).expect(0);
    }
    let expected = [
        "adapter .",
        "merged .",
        "gguf model-F32.gguf",
        "gguf model-Q8_0.gguf",
        "gguf-adapter adapter.gguf",
        "ollama model-F32.gguf",
    ];
    assert_eq!(checked, expected);
    let modelfile = fs::read_to_string(workshop.path("out/ollama/Modelfile")).unwrap();
    assert!(modelfile.starts_with("FROM ./model-F32.gguf\nTEMPLATE"), "{modelfile}");
    let shown = run(workshop.home(), &["inspect", "out/gguf/model-F32.gguf"]).expect(0);
    assert!(shown.stdout.contains("recipe") && shown.stdout.contains("base_weights"), "{}", shown.stdout);

    let again = run(workshop.home(), &EXPORT).expect(3);
    assert!(again.stderr.contains("out/adapter exists already"), "{}", again.stderr);
}

#[test]
fn an_artefact_that_answers_like_the_base_fails() {
    let workshop = trained();
    run(workshop.home(), &["export", "runs/a", "--to", "gguf", "--types", "F32", "--out", "out"]).expect(0);
    run(workshop.home(), &["export", "base", "--to", "gguf", "--types", "F32", "--no-verify", "--out", "plain"])
        .expect(0);
    fs::copy(workshop.path("plain/gguf/model-F32.gguf"), workshop.path("out/gguf/model-F32.gguf")).unwrap();
    let failed = run(workshop.home(), &["verify", "out/gguf"]).expect(4);
    assert!(failed.stdout.contains("0 of 1 generations are equal"), "{}", failed.stdout);
    run(workshop.home(), &["verify", "out/gguf", "--at-least", "0"]).expect(0);
}

#[test]
fn a_run_writes_and_verifies_the_exports_of_its_recipe() {
    let workshop = Workshop::new();
    workshop.edit("recipe.toml", r#"to = ["peft", "safetensors"]"#, "to = [\"peft\", \"gguf\"]\ntypes = [\"F16\"]");
    run(workshop.home(), &["--progress", "none", "train", "recipe.toml", "--run-name", "a"]).expect(0);
    for path in ["adapter/verify.json", "gguf/verify.json", "gguf/model-F16.gguf"] {
        assert!(workshop.path("runs/a/exports").join(path).is_file(), "{path}");
    }
}

#[test]
fn wrong_arguments_name_the_way_out() {
    let workshop = trained();
    let fails = |args: &[&str], code: i32, part: &str| {
        let failed = run(workshop.home(), args).expect(code);
        assert!(failed.stderr.contains(part), "{part:?} is not in: {}", failed.stderr);
    };
    fails(&["export", "runs/a", "--to", "onnx", "--out", "x"], 2, "peft, safetensors, gguf, gguf-adapter, ollama");
    fails(&["export", "runs/a", "--to", "gguf", "--types", "Q3_K", "--out", "x"], 2, "Q4_K_M");
    fails(&["export", "base", "--to", "peft", "--out", "x"], 3, "needs an adapter");
    fails(&["verify", "base"], 3, "`tonfall export` writes it");
    assert!(!workshop.path("x").exists() || fs::read_dir(workshop.path("x")).unwrap().next().is_none());

    // A chat template for which Ollama has no known equivalent.
    fs::write(workshop.path("base/chat_template.jinja"), "{% for m in messages %}[[{{ m.content }}]]{% endfor %}")
        .unwrap();
    let unknown = ["export", "base", "--to", "ollama", "--no-verify", "--out", "y"];
    fails(&unknown, 3, "template");
}

/// A server that sends the same bytes to each request.
fn server(response: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(response.as_bytes());
        }
    });
    format!("http://{address}")
}

#[test]
fn servers_that_do_not_answer_or_answer_nonsense_are_errors() {
    let workshop = trained();
    run(workshop.home(), &["export", "runs/a", "--to", "gguf", "--out", "out"]).expect(0);
    let absent = run(workshop.home(), &["verify", "out/gguf", "--server", "http://127.0.0.1:9"]).expect(8);
    assert!(absent.stderr.contains("no server answers there"), "{}", absent.stderr);
    let nonsense = server("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello");
    let failed = run(workshop.home(), &["verify", "out/gguf", "--server", &nonsense]).expect(9);
    assert!(failed.stderr.contains("of no use"), "{}", failed.stderr);
    run(workshop.home(), &["verify", "out/gguf", "--server", "ftp://x"]).expect(2);
}
