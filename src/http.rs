//! A small HTTP/1.1 server for one page.
//!
//! Responsible for: requests without a body, a bounded number of simultaneous connections, and a deadline for each. So
//! slow or silent clients can't delay others or use up threads.
//! Must not depend on: the content of the page.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Maximum bytes of a request head; longer ones are refused.
const MAX_HEAD: usize = 8 << 10;
/// Bytes read and dropped after a response. Otherwise closing the connection would reset it before the client has read.
const MAX_REST: usize = 64 << 10;

/// Limits of a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Simultaneous connections; further ones get 503.
    pub(crate) connections: usize,
    /// Time from the connection to the end of the response.
    pub(crate) deadline: Duration,
}

/// The response to GET or HEAD.
pub(crate) struct Page {
    pub(crate) status: &'static str,
    pub(crate) content_type: &'static str,
    pub(crate) body: String,
}

impl Page {
    pub(crate) fn text(status: &'static str, body: &str) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: format!("{body}\n") }
    }
}

/// Answers requests until the listener fails. `page` receives the path without its query. Several threads call it.
pub(crate) fn serve(
    listener: &TcpListener,
    limits: Limits,
    page: impl Fn(&str) -> Page + Send + Sync + 'static,
) -> io::Result<()> {
    let page = Arc::new(page);
    let open = Arc::new(AtomicUsize::new(0));
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            // The client has closed the connection already, or the process has no free file handles at the moment.
            Err(error) if is_passing(&error) => {
                thread::sleep(Duration::from_millis(50));
                continue;
            }
            Err(error) => return Err(error),
        };
        let place = Place::take(&open);
        if place.number > limits.connections {
            // This response fits in the kernel's send buffer, so the accepting thread doesn't wait.
            let _ = stream.set_nonblocking(true);
            let busy = Page::text("503 Service Unavailable", "too many connections; try again");
            let _ = (&stream).write_all(&head_and_body(&busy, true));
            continue;
        }
        let page = Arc::clone(&page);
        let work = move || {
            let _place = place;
            // A client that is too slow or has disconnected gets no response.
            let _ = answer(&Timed { stream, until: Instant::now() + limits.deadline }, &*page);
        };
        // If no thread can be started, the connection is closed.
        let _ = thread::Builder::new().name("http".to_owned()).spawn(work);
    }
}

fn is_passing(error: &io::Error) -> bool {
    // `ErrorKind` has no variants for EMFILE and ENFILE.
    let no_handles = matches!(error.raw_os_error(), Some(23 | 24));
    no_handles
        || matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::Interrupted)
}

/// The slot of an open connection, until dropped.
struct Place {
    open: Arc<AtomicUsize>,
    /// Counted from 1.
    number: usize,
}

impl Place {
    fn take(open: &Arc<AtomicUsize>) -> Self {
        Self { number: open.fetch_add(1, Ordering::SeqCst) + 1, open: Arc::clone(open) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A connection with one deadline for all reads and writes.
struct Timed {
    stream: TcpStream,
    until: Instant,
}

impl Timed {
    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        (&self.stream).read(buffer)
    }

    fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.stream.set_write_timeout(self.left()?)?;
            match (&self.stream).write(bytes)? {
                0 => return Err(ErrorKind::WriteZero.into()),
                written => bytes = &bytes[written..],
            }
        }
        Ok(())
    }
}

/// Reads one request, answers it and closes the connection.
fn answer(client: &Timed, page: &impl Fn(&str) -> Page) -> io::Result<()> {
    let head = read_head(client)?;
    let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let mut words = std::str::from_utf8(line).unwrap_or_default().split_whitespace();
    let answer = match (words.next(), words.next(), words.next()) {
        _ if head.len() >= MAX_HEAD => {
            (Page::text("431 Request Header Fields Too Large", "the request is too long"), true)
        }
        (Some(method @ ("GET" | "HEAD")), Some(target), Some(version)) if version.starts_with("HTTP/1.") => {
            (page(target.split('?').next().unwrap_or_default()), method == "GET")
        }
        (Some(_), Some(_), Some(version)) if version.starts_with("HTTP/1.") => {
            (Page::text("405 Method Not Allowed", "only GET and HEAD are answered"), true)
        }
        _ => (Page::text("400 Bad Request", "this is not an HTTP/1.1 request"), true),
    };
    client.write_all(&head_and_body(&answer.0, answer.1))?;
    client.stream.shutdown(Shutdown::Write)?;
    let (mut rest, mut buffer) = (0, [0; 1024]);
    while rest < MAX_REST {
        match client.read(&mut buffer)? {
            0 => break,
            read => rest += read,
        }
    }
    Ok(())
}

/// The request up to the empty line; at most [`MAX_HEAD`] bytes.
fn read_head(client: &Timed) -> io::Result<Vec<u8>> {
    let (mut head, mut buffer) = (Vec::new(), [0; 1024]);
    let is_whole =
        |head: &[u8]| head.windows(4).any(|end| end == b"\r\n\r\n") || head.windows(2).any(|end| end == b"\n\n");
    while !is_whole(&head) && head.len() < MAX_HEAD {
        match client.read(&mut buffer)? {
            0 => break,
            read => head.extend_from_slice(&buffer[..read]),
        }
    }
    Ok(head)
}

fn head_and_body(page: &Page, with_body: bool) -> Vec<u8> {
    let Page { status, content_type, body } = page;
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    let mut bytes = head.into_bytes();
    if with_body {
        bytes.extend_from_slice(body.as_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    fn start(limits: Limits) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        thread::spawn(move || serve(&listener, limits, |path| Page::text("200 OK", path)));
        address
    }

    fn ask(address: SocketAddr, request: &[u8]) -> io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(request)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    const LIMITS: Limits = Limits { connections: 8, deadline: Duration::from_secs(60) };

    #[test]
    fn requests_are_answered_once_each() {
        let address = start(LIMITS);
        let answer = ask(address, b"GET /metrics?x=1 HTTP/1.1\r\nHost: a\r\n\r\n").expect("answered");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\n/metrics\n"), "{answer}");
        assert!(answer.contains("Content-Length: 9\r\n"), "{answer}");
        let head = ask(address, b"HEAD / HTTP/1.0\r\n\r\n").expect("answered");
        assert!(head.contains("Content-Length: 2\r\n") && head.ends_with("\r\n\r\n"), "{head}");
        assert!(
            ask(address, b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc")
                .expect("answered")
                .starts_with("HTTP/1.1 405")
        );
        for nonsense in [&b"\x16\x03\x01\x02\x00\n\n"[..], b"GET\n\n", b"\n\n", b"GET / SMTP\n\n"] {
            assert!(ask(address, nonsense).expect("answered").starts_with("HTTP/1.1 400"), "{nonsense:?}");
        }
        let long = [b"GET / HTTP/1.1\r\nX: ".as_slice(), &vec![b'a'; MAX_HEAD], b"\r\n\r\n"].concat();
        assert!(ask(address, &long).expect("answered").starts_with("HTTP/1.1 431"));
    }

    #[test]
    fn silent_clients_do_not_delay_other_clients() {
        let address = start(LIMITS);
        let mut silent: Vec<TcpStream> = (0..5).map(|_| TcpStream::connect(address).expect("connected")).collect();
        for stream in &mut silent {
            stream.write_all(b"GET / HT").expect("sent");
        }
        // None of the five has a response yet, and none will get one before the deadline.
        assert!(ask(address, b"GET /a HTTP/1.1\r\n\r\n").expect("answered").ends_with("/a\n"));
    }

    #[test]
    fn connections_above_the_limit_get_503() {
        let address = start(Limits { connections: 2, ..LIMITS });
        let silent = [(); 2].map(|()| TcpStream::connect(address).expect("connected"));
        assert!(ask(address, b"").expect("answered").starts_with("HTTP/1.1 503"));
        drop(silent);
        // A slot is free as soon as its thread has seen the end of its connection.
        while !ask(address, b"GET /b HTTP/1.1\r\n\r\n").is_ok_and(|answer| answer.ends_with("/b\n")) {
            thread::yield_now();
        }
    }

    #[test]
    fn a_client_is_cut_off_at_the_deadline() {
        let address = start(Limits { deadline: Duration::from_millis(50), ..LIMITS });
        assert_eq!(ask(address, b"").expect("closed"), "", "without an answer");
    }
}
