//! `base = "hf:owner/name"` against a small server on the loopback interface.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::program::{Finished, tonfall};
use crate::tiny_model::Workshop;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Serves a directory as the Hub serves the model acme/tiny.
struct Server {
    address: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(model: PathBuf, commit: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&requests);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let path = serve(stream.unwrap(), &model, commit);
                log.lock().unwrap().push(path);
            }
        });
        Self { address, requests }
    }

    fn asked_for(&self, what: &str) -> bool {
        self.requests.lock().unwrap().iter().any(|path| path.contains(what))
    }
}

/// Answers one request and closes; returns the path that was asked for.
fn serve(mut stream: TcpStream, model: &Path, commit: &str) -> String {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let path = lines.next().unwrap_or_default().split(' ').nth(1).unwrap_or_default().to_owned();
    let headers: Vec<String> = lines.take_while(|line| !line.is_empty()).map(|line| line.to_lowercase()).collect();
    let answer = if path == "/api/models/acme/tiny/revision/main" {
        let mut files: Vec<String> =
            std::fs::read_dir(model).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        files.push("pytorch_model.bin".to_owned());
        let siblings: Vec<_> = files.iter().map(|file| serde_json::json!({"rfilename": file})).collect();
        let body = serde_json::json!({"sha": COMMIT, "siblings": siblings}).to_string();
        response("200 OK", "Content-Type: application/json\r\n", body.as_bytes())
    } else if let Some(bytes) =
        path.strip_prefix("/acme/tiny/resolve/main/").and_then(|file| std::fs::read(model.join(file)).ok())
    {
        let range = headers.iter().find_map(|line| line.strip_prefix("range: bytes=")).unwrap_or("0-");
        let (from, to) = range.split_once('-').unwrap();
        let from: usize = from.parse().unwrap();
        let to = to.parse().map_or(bytes.len(), |to: usize| (to + 1).min(bytes.len()));
        let etag = path.replace('/', "-");
        let extra = format!(
            "Content-Range: bytes {from}-{}/{}\r\nETag: \"{etag}\"\r\nX-Repo-Commit: {commit}\r\n",
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

/// A workshop whose recipe names acme/tiny instead of its own base.
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
    let server = Server::start(workshop.path("base"), COMMIT);
    check(&workshop, &server, "0").expect(0);
    assert!(server.asked_for("model.safetensors") && !server.asked_for("pytorch_model.bin"));
    let snapshot = workshop.path("hf/hub/models--acme--tiny/snapshots").join(COMMIT);
    let same = |file: &str| {
        std::fs::read(snapshot.join(file)).unwrap() == std::fs::read(workshop.path("base").join(file)).unwrap()
    };
    assert!(same("config.json") && same("model.safetensors"));

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
fn a_model_that_is_not_there_names_the_server() {
    let workshop = workshop(true);
    workshop.edit("recipe.toml", "acme/tiny", "acme/absent");
    let server = Server::start(workshop.path("base"), COMMIT);
    let refused = check(&workshop, &server, "0").expect(8);
    assert!(refused.stderr.contains("404") && refused.stderr.contains(&server.address), "{}", refused.stderr);
}

/// The adapter names the model as the Hub does, not the folder of the local cache.
#[test]
fn an_adapter_of_a_model_from_the_hub_names_it() {
    let workshop = workshop(true);
    let server = Server::start(workshop.path("base"), COMMIT);
    check(&workshop, &server, "0").expect(0);
    workshop.edit("recipe.toml", "hf:acme/tiny", &format!("hf:acme/tiny@{COMMIT}"));
    let mut command = tonfall(workshop.home());
    command.env("HF_HOME", workshop.path("hf")).args(["train", "recipe.toml", "--run-name", "a"]);
    let done: Finished = command.output().unwrap().into();
    let done = done.expect(0);
    assert!(done.stdout.contains(&format!("vllm serve acme/tiny --revision {COMMIT} ")), "{}", done.stdout);
    let config = std::fs::read_to_string(workshop.path("runs/a/exports/adapter/adapter_config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    assert_eq!(config["base_model_name_or_path"], "acme/tiny");
    assert_eq!(config["revision"], COMMIT);
}
