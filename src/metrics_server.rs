//! Prometheus text over HTTP.
//!
//! Responsible for: `--metrics-addr`: its address, which is loopback unless `--metrics-public` is set, and the page.
//! The server reads event logs like any other viewer, so it can't delay or end a run.
//! Must not depend on: the trainer.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tonfall_runs::exporters::prometheus::{CONTENT_TYPE, Row, text};
use tonfall_runs::{EventReader, RunDir, Summary};

use crate::args::MetricsArgs;
use crate::diagnostics::{ExitCode, Failure, Result};
use crate::http::{self, Limits, Page};
use crate::output;

/// Prometheus scrapes with one connection, and its default timeout is 10 s.
const LIMITS: Limits = Limits { connections: 16, deadline: Duration::from_secs(10) };

/// A listening socket.
pub(crate) struct MetricsServer {
    listener: TcpListener,
}

impl MetricsServer {
    /// Listens on the address of `--metrics-addr`; `None` without this option.
    pub(crate) fn bind(args: &MetricsArgs) -> Result<Option<Self>> {
        let Some(address) = args.metrics_addr else { return Ok(None) };
        if !address.ip().is_loopback() && !args.metrics_public {
            let message = format!(
                "other machines can reach {address}\nhint: add --metrics-public to allow it, or use an address such as \
                 127.0.0.1"
            );
            return Err(Failure::new(ExitCode::Usage, message));
        }
        let bound = TcpListener::bind(address).and_then(|listener| Ok((listener.local_addr()?, listener)));
        let (address, listener) =
            bound.map_err(|error| Failure::new(ExitCode::Io, format!("can't serve metrics at {address}: {error}")))?;
        output::note(&format!("metrics at http://{address}/metrics"));
        Ok(Some(Self { listener }))
    }

    /// Answers until the process ends.
    pub(crate) fn serve(self, scrape: Scrape) -> Result<()> {
        let scrape = Mutex::new(scrape);
        // The thread that panics while reading a log prints the panic; the next request continues to read.
        let read = move || scrape.lock().unwrap_or_else(PoisonError::into_inner).text();
        Ok(http::serve(&self.listener, LIMITS, move |path| match path {
            "/" | "/metrics" => Page { status: "200 OK", content_type: CONTENT_TYPE, body: read() },
            _ => Page::text("404 Not Found", "metrics are at /metrics"),
        })?)
    }

    /// Answers in a new thread.
    pub(crate) fn serve_beside(self, scrape: Scrape) -> Result<()> {
        let serve =
            move || self.serve(scrape).unwrap_or_else(|fault| output::note(&format!("warning: {}", fault.message())));
        thread::Builder::new().name("metrics".to_owned()).spawn(serve)?;
        Ok(())
    }
}

/// The runs whose metrics are served.
pub(crate) struct Scrape {
    runs: Vec<Followed>,
    directory: Option<PathBuf>,
}

struct Followed {
    run: RunDir,
    reader: EventReader,
    summary: Summary,
}

impl Followed {
    fn new(run: RunDir) -> Self {
        Self { reader: EventReader::new(run.events()), run, summary: Summary::default() }
    }
}

impl Scrape {
    pub(crate) fn runs(runs: Vec<RunDir>) -> Self {
        Self { runs: runs.into_iter().map(Followed::new).collect(), directory: None }
    }

    /// All runs of a directory, including runs created later.
    pub(crate) fn directory(path: &Path) -> Self {
        Self { runs: Vec::new(), directory: Some(path.to_owned()) }
    }

    /// The current metrics as Prometheus text. Reads only new lines of the logs. A run that can't be read is left out,
    /// with a warning on stderr.
    pub(crate) fn text(&mut self) -> String {
        if let Some(directory) = &self.directory {
            let found = RunDir::list(directory).unwrap_or_else(|fault| {
                output::note(&format!("warning: {fault}"));
                Default::default()
            });
            for run in found.runs {
                if !self.runs.iter().any(|known| known.run.path() == run.path()) {
                    self.runs.push(Followed::new(run));
                }
            }
        }
        let mut rows = Vec::with_capacity(self.runs.len());
        for followed in &mut self.runs {
            // The lock is checked before the log: once the lock is free, the log is complete.
            let held = match followed.run.is_held() {
                Ok(held) => held,
                Err(fault) => {
                    output::note(&format!("warning: {fault}"));
                    continue;
                }
            };
            let summary = &mut followed.summary;
            if let Err(fault) = followed.reader.scan(|event| summary.observe(&event)) {
                output::note(&format!("warning: {fault}"));
                *followed = Followed::new(followed.run.clone());
                continue;
            }
            let status = followed.summary.status(held);
            rows.push(Row { id: followed.run.id(), summary: followed.summary.clone(), status });
        }
        text(&rows)
    }
}
