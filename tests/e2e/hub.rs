//! `base = "hf:owner/name"` with a small server on the loopback interface.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use sha2::{Digest as _, Sha256};

use crate::program::{Finished, tonfall};
use crate::tiny_model::Workshop;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Serves a directory like the Hub serves the model acme/tiny.
struct Server {
    address: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(model: PathBuf, commit: &'static str) -> Self {
        Self::start_with(model, commit, false)
    }

    /// If `damage`, one bit of the weights is flipped.
    fn start_with(model: PathBuf, commit: &'static str, damage: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&requests);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let path = serve(stream.unwrap(), &model, commit, damage);
                log.lock().unwrap().push(path);
            }
        });
        Self { address, requests }
    }

    fn asked_for(&self, what: &str) -> bool {
        self.requests.lock().unwrap().iter().any(|path| path.contains(what))
    }
}

/// Answers one request and closes the connection; returns the requested path.
fn serve(mut stream: TcpStream, model: &Path, commit: &str, damage: bool) -> String {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let path = lines.next().unwrap_or_default().split(' ').nth(1).unwrap_or_default().to_owned();
    let headers: Vec<String> = lines.take_while(|line| !line.is_empty()).map(|line| line.to_lowercase()).collect();
    let answer = if path.starts_with("/api/models/acme/tiny/revision/") {
        let mut files: Vec<String> =
            std::fs::read_dir(model).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        files.push("pytorch_model.bin".to_owned());
        let siblings: Vec<_> = files.iter().map(|file| serde_json::json!({"rfilename": file})).collect();
        let body = serde_json::json!({"sha": COMMIT, "siblings": siblings}).to_string();
        response("200 OK", "Content-Type: application/json\r\n", body.as_bytes())
    } else if let Some((name, mut bytes)) = path.strip_prefix("/acme/tiny/resolve/").and_then(|rest| {
        let name = rest.split_once('/')?.1;
        Some((name, std::fs::read(model.join(name)).ok()?))
    }) {
        let range = headers.iter().find_map(|line| line.strip_prefix("range: bytes=")).unwrap_or("0-");
        let (from, to) = range.split_once('-').unwrap();
        let from: usize = from.parse().unwrap();
        let to = to.parse().map_or(bytes.len(), |to: usize| (to + 1).min(bytes.len()));
        let etag = path.replace('/', "-");
        // The etag of files in the large file storage is their SHA-256.
        let linked = match name.ends_with(".safetensors") {
            true => format!("X-Linked-Etag: \"{}\"\r\n", tonfall_durable::hex(&Sha256::digest(&bytes))),
            false => String::new(),
        };
        if damage && name.ends_with(".safetensors") {
            *bytes.last_mut().unwrap() ^= 1;
        }
        let extra = format!(
            "Content-Range: bytes {from}-{}/{}\r\nETag: \"{etag}\"\r\n{linked}X-Repo-Commit: {commit}\r\n",
            to - 1,
            bytes.len()
        );
        response("206 Partial Content", &extra, &bytes[from..to])
    } else {
        response("404 Not Found", "", b"")
    };
    stream.write_all(&answer).ok();
    path
}

fn response(status: &str, extra: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{extra}Connection: close\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// A workshop whose recipe names acme/tiny instead of its local base.
fn workshop(allow_download: bool) -> Workshop {
    let workshop = Workshop::new();
    let base = format!("base = \"hf:acme/tiny\"\nallow_download = {allow_download}");
    workshop.edit("recipe.toml", "base = \"base\"", &base);
    workshop
}

fn check(workshop: &Workshop, server: &Server, offline: &str) -> Finished {
    let mut command = tonfall(workshop.home());
    command.env("HF_ENDPOINT", &server.address).env("HF_HOME", workshop.path("hf")).env("HF_HUB_OFFLINE", offline);
    command.args(["check", "recipe.toml"]).output().unwrap().into()
}

#[test]
fn a_model_is_downloaded_once_and_without_pickles() {
    let workshop = workshop(true);
    for name in ["LICENSE", "USE_POLICY.md", "README.md"] {
        std::fs::write(workshop.path("base").join(name), name).unwrap();
    }
    let server = Server::start(workshop.path("base"), COMMIT);
    check(&workshop, &server, "0").expect(0);
    assert!(server.asked_for("model.safetensors") && !server.asked_for("pytorch_model.bin"));
    let snapshot = workshop.path("hf/hub/models--acme--tiny/snapshots").join(COMMIT);
    let same = |file: &str| {
        std::fs::read(snapshot.join(file)).unwrap() == std::fs::read(workshop.path("base").join(file)).unwrap()
    };
    assert!(same("config.json") && same("model.safetensors"));
    assert!(same("LICENSE") && same("USE_POLICY.md"), "licences stay with the weights");
    assert!(!server.asked_for("README.md"));

    let asked = server.requests.lock().unwrap().len();
    check(&workshop, &server, "1").expect(0);
    assert_eq!(server.requests.lock().unwrap().len(), asked, "the second time everything is in the cache");
}

#[test]
fn nothing_is_downloaded_unless_the_recipe_allows_it() {
    let workshop = workshop(false);
    let server = Server::start(workshop.path("base"), COMMIT);
    let refused = check(&workshop, &server, "0").expect(3);
    assert!(refused.stderr.contains("allow_download = true"), "{}", refused.stderr);
    assert!(server.requests.lock().unwrap().is_empty());
}

#[test]
fn offline_forbids_what_the_recipe_allows() {
    let workshop = workshop(true);
    let server = Server::start(workshop.path("base"), COMMIT);
    let refused = check(&workshop, &server, "1").expect(3);
    assert!(refused.stderr.contains("HF_HUB_OFFLINE"), "{}", refused.stderr);
    assert!(server.requests.lock().unwrap().is_empty());
}

#[test]
fn a_server_can_not_write_outside_the_cache() {
    let workshop = workshop(true);
    let server = Server::start(workshop.path("base"), "../../../../escaped");
    let refused = check(&workshop, &server, "0").expect(9);
    assert!(refused.stderr.contains("unusable commit"), "{}", refused.stderr);
    assert!(!workshop.path("escaped").exists());
}

#[test]
fn the_error_for_a_missing_model_names_the_server() {
    let workshop = workshop(true);
    workshop.edit("recipe.toml", "acme/tiny", "acme/absent");
    let server = Server::start(workshop.path("base"), COMMIT);
    let refused = check(&workshop, &server, "0").expect(8);
    assert!(refused.stderr.contains("404") && refused.stderr.contains(&server.address), "{}", refused.stderr);
}

#[test]
fn damaged_weights_are_refused_and_not_kept() {
    let workshop = workshop(true);
    let server = Server::start_with(workshop.path("base"), COMMIT, true);
    let refused = check(&workshop, &server, "0").expect(9);
    let expected =
        tonfall_durable::hex(&Sha256::digest(std::fs::read(workshop.path("base/model.safetensors")).unwrap()));
    for part in ["model.safetensors has the SHA-256", &expected, "run it again"] {
        assert!(refused.stderr.contains(part), "{part:?} is not in: {}", refused.stderr);
    }
    let server = Server::start(workshop.path("base"), COMMIT);
    check(&workshop, &server, "0").expect(0);
}

#[test]
fn two_models_in_one_repository_are_refused_before_the_weights_are_fetched() {
    let workshop = workshop(true);
    let index = r#"{"weight_map": {"a": "model-00001-of-00001.safetensors"}}"#;
    std::fs::write(workshop.path("base/model.safetensors.index.json"), index).unwrap();
    let server = Server::start(workshop.path("base"), COMMIT);
    let refused = check(&workshop, &server, "0").expect(9);
    assert!(refused.stderr.contains("these are two models"), "{}", refused.stderr);
    let requests = server.requests.lock().unwrap();
    assert!(!requests.iter().any(|path| path.ends_with(".safetensors")), "{requests:?}");
}

#[test]
fn the_error_for_an_incomplete_snapshot_names_present_and_missing_files() {
    let workshop = workshop(false);
    let model = workshop.path("hf/hub/models--acme--tiny");
    let snapshot = model.join("snapshots").join(COMMIT);
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::create_dir_all(model.join("refs")).unwrap();
    std::fs::write(model.join("refs/main"), COMMIT).unwrap();
    std::fs::copy(workshop.path("base/config.json"), snapshot.join("config.json")).unwrap();
    for name in ["tokenizer.model", "pytorch_model.bin"] {
        std::fs::write(snapshot.join(name), "").unwrap();
    }
    let server = Server::start(workshop.path("base"), COMMIT);
    let refused = check(&workshop, &server, "0").expect(3);
    for part in ["is in the Hub cache", "tokenizer.model alone", "only pytorch_model.bin"] {
        assert!(refused.stderr.contains(part), "{part:?} is not in: {}", refused.stderr);
    }
}

#[test]
fn an_adapter_keeps_the_name_and_the_revision_of_its_base() {
    let workshop = workshop(true);
    workshop.edit("recipe.toml", "hf:acme/tiny", "hf:acme/tiny@v1");
    let server = Server::start(workshop.path("base"), COMMIT);
    let with_hub = |args: &[&str]| -> Finished {
        let mut command = tonfall(workshop.home());
        command.env("HF_ENDPOINT", &server.address).env("HF_HOME", workshop.path("hf")).env("HF_HUB_OFFLINE", "0");
        command.args(args).output().unwrap().into()
    };
    let trained = with_hub(&["--progress", "none", "train", "recipe.toml", "--run-name", "a"]).expect(0);
    assert!(trained.stdout.contains("vllm serve acme/tiny --revision v1 "), "{}", trained.stdout);
    let config = std::fs::read(workshop.path("runs/a/exports/adapter/adapter_config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    assert_eq!((&config["base_model_name_or_path"], &config["revision"]), (&"acme/tiny".into(), &"v1".into()));

    // A merge of the exported adapter finds the base in the cache. If it is not there, the error names the base.
    let merge = ["merge", "runs/a/exports/adapter", "--out", "merged"];
    with_hub(&merge).expect(0);
    std::fs::remove_dir_all(workshop.path("merged")).unwrap();
    let refused: Finished = {
        let mut command = tonfall(workshop.home());
        command.env("HF_HOME", workshop.path("empty")).args(merge).output().unwrap().into()
    };
    let refused = refused.expect(3);
    for part in ["trained on `hf:acme/tiny@v1`", "--base", "hf:owner/name", "not in the Hub cache"] {
        assert!(refused.stderr.contains(part), "{part:?} is not in: {}", refused.stderr);
    }
}
