//! The metrics of a run for other tools: pictures, TensorBoard, Prometheus. `.ci/run quickstart` also reads them with
//! the tools' own readers.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Stdio};

use crate::program::{run, tonfall};
use crate::tiny_model::Workshop;

fn trained() -> Workshop {
    let workshop = Workshop::new();
    run(workshop.home(), &["--progress", "none", "train", "recipe.toml", "--run-name", "short"]).expect(0);
    workshop
}

#[test]
fn plot_writes_pictures() {
    let workshop = trained();
    run(workshop.home(), &["plot", "short", "--out", "loss.svg"]).expect(0);
    let svg = fs::read_to_string(workshop.path("loss.svg")).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("short, held-out data"), "{svg}");
    run(workshop.home(), &["plot", "--out", "loss.PNG"]).expect(0);
    assert!(fs::read(workshop.path("loss.PNG")).unwrap().starts_with(b"\x89PNG\r\n\x1a\n"));
    let refused = run(workshop.home(), &["plot", "--out", "loss.pdf"]).expect(2).stderr;
    assert!(refused.contains(".svg or .png"), "{refused}");
}

#[test]
fn a_second_export_replaces_the_event_files() {
    let workshop = trained();
    let files = |home: &Path| {
        let told = run(home, &["metrics", "short", "--tensorboard", "logs"]).expect(0).stderr;
        let folder = fs::read_dir(home.join("logs/short")).unwrap();
        let files: Vec<_> = folder.map(|entry| fs::read(entry.unwrap().path()).unwrap()).collect();
        (told, files)
    };
    let (told, first) = files(workshop.home());
    assert!(told.contains("records") && !told.contains("could not be read"), "{told}");
    assert_eq!((first.len(), files(workshop.home()).1), (1, first));
}

/// A server that is stopped when the test ends.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn a_scrape_has_all_runs_and_other_paths_are_404() {
    let workshop = trained();
    let printed = run(workshop.home(), &["metrics", "short"]).expect(0).stdout;
    assert!(printed.contains("tonfall_step{run=\"short\"} 6\n"), "{printed}");
    assert!(printed.contains("tonfall_state{run=\"short\",state=\"finished\"} 1\n"), "{printed}");

    let refused = run(workshop.home(), &["metrics", "--metrics-addr", "0.0.0.0:0"]).expect(2).stderr;
    assert!(refused.contains("--metrics-public"), "{refused}");

    let mut command = tonfall(workshop.home());
    let mut server = Server(command.args(["metrics", "--metrics-addr", "0"]).stderr(Stdio::piped()).spawn().unwrap());
    let mut told = String::new();
    BufReader::new(server.0.stderr.take().unwrap()).read_line(&mut told).unwrap();
    let address = told.split("http://").nth(1).and_then(|rest| rest.split('/').next()).unwrap();
    assert!(address.starts_with("127.0.0.1:"), "{told}");
    let get = |path: &str| {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let answer = get("/metrics");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("text/plain; version=0.0.4"), "{answer}");
    assert!(answer.contains("tonfall_step{run=\"short\"} 6\n"), "{answer}");
    assert!(get("/other").starts_with("HTTP/1.1 404"));
}
