//! A small HTTP server whose answers a test gives.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tonfall_serving::{ApiKey, Limits, Server, ServingError};

/// A request, as the fake server received it.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<String>,
    /// Null if there is no body.
    pub(crate) body: Value,
}

/// What the fake server does with a request.
pub(crate) enum Reply {
    /// Status and body.
    Text(u16, String),
    /// Exactly these bytes instead of an HTTP answer.
    Raw(Vec<u8>),
    /// Nothing, with an open connection.
    Silence,
    /// A correct head, and then one byte every 100 ms.
    Drip,
}

pub(crate) fn json(value: Value) -> Reply {
    Reply::Text(200, value.to_string())
}

pub(crate) fn not_found() -> Reply {
    Reply::Text(404, r#"{"error":{"message":"File Not Found"}}"#.to_owned())
}

pub(crate) struct Fake {
    pub(crate) url: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Fake {
    pub(crate) fn start(reply: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (log, reply) = (Arc::clone(&requests), Arc::new(reply));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (log, reply) = (Arc::clone(&log), Arc::clone(&reply));
                std::thread::spawn(move || serve(stream.unwrap(), &log, &*reply));
            }
        });
        Self { url, requests }
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// Connects without an API key, with short limits.
    pub(crate) fn connect(&self) -> Result<Server, ServingError> {
        connect(&self.url)
    }
}

pub(crate) fn connect(url: &str) -> Result<Server, ServingError> {
    let limits =
        Limits { connect: Duration::from_secs(5), generate: Duration::from_secs(2), ask: Duration::from_secs(2) };
    Server::with(url, ApiKey::from_env("TONFALL_NO_SUCH_VARIABLE")?, limits)
}

fn serve(stream: TcpStream, log: &Mutex<Vec<Request>>, reply: &dyn Fn(&Request) -> Reply) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let mut words = line.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap(), words.next().unwrap_or_default());
    let lines = reader.by_ref().lines().map_while(Result::ok);
    let headers: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let length = headers.iter().find_map(|header| header.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).unwrap();
    let request = Request { method, path, headers, body: serde_json::from_slice(&body).unwrap_or_default() };
    log.lock().unwrap().push(request.clone());
    let mut stream = stream;
    match reply(&request) {
        Reply::Text(status, text) => {
            let length = text.len();
            let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
            stream.write_all(&[head.as_bytes(), text.as_bytes()].concat()).ok();
        }
        Reply::Raw(bytes) => {
            stream.write_all(&bytes).ok();
        }
        Reply::Silence => std::thread::sleep(Duration::from_secs(30)),
        Reply::Drip => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n").ok();
            while stream.write_all(b" ").is_ok() {
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}
