//! Prometheus text over HTTP.
//!
//! Responsible for: `--metrics-addr`: the address, which is loopback unless somebody says otherwise, and answering. It
//! reads event logs like any other viewer, so that nothing here can hold up or end a run.
//! Must not depend on: the trainer.

use std::path::{Path, PathBuf};
use std::thread;

use tiny_http::{Header, Method, Request, Response, Server};
use tonfall_runs::exporters::prometheus::{CONTENT_TYPE, Row, text};
use tonfall_runs::{EventReader, RunDir, Summary};

use crate::args::MetricsArgs;
use crate::diagnostics::{ExitCode, Failure, Result};
use crate::output;

/// A socket that listens.
pub(crate) struct MetricsServer {
    server: Server,
}

impl MetricsServer {
    /// Listens where `--metrics-addr` says; `None` without it.
    pub(crate) fn bind(args: &MetricsArgs) -> Result<Option<Self>> {
        let Some(address) = args.metrics_addr else { return Ok(None) };
        if !address.ip().is_loopback() && !args.metrics_public {
            let message = format!(
                "{address} can be reached from other machines\nhint: --metrics-public allows it; without it only \
                 addresses such as 127.0.0.1 are served"
            );
            return Err(Failure::new(ExitCode::Usage, message));
        }
        let server = Server::http(address)
            .map_err(|error| Failure::new(ExitCode::Io, format!("can't serve metrics at {address}: {error}")))?;
        output::note(&format!("metrics at http://{}/metrics", server.server_addr()));
        Ok(Some(Self { server }))
    }

    /// Answers until the process ends.
    pub(crate) fn serve(self, mut scrape: Scrape) -> Result<()> {
        loop {
            let request = self.server.recv()?;
            answer(request, &mut scrape);
        }
    }

    /// Answers beside other work.
    pub(crate) fn serve_beside(self, scrape: Scrape) -> Result<()> {
        let serve = move || self.serve(scrape).unwrap_or_else(|fault| output::note(&fault.render(false)));
        thread::Builder::new().name("metrics".to_owned()).spawn(serve)?;
        Ok(())
    }
}

fn answer(request: Request, scrape: &mut Scrape) {
    let path = request.url().split('?').next().unwrap_or_default();
    let known = matches!(path, "/" | "/metrics") && matches!(request.method(), Method::Get | Method::Head);
    let response = match known {
        true => Response::from_string(scrape.text()),
        false => Response::from_string("metrics are at /metrics\n").with_status_code(404),
    };
    let response = match Header::from_bytes("Content-Type", CONTENT_TYPE) {
        Ok(header) if known => response.with_header(header),
        _ => response,
    };
    // Whoever asked and went away needs no answer.
    let _ = request.respond(response);
}

/// What is told when somebody asks.
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

    /// All runs of a directory, later ones too.
    pub(crate) fn directory(path: &Path) -> Self {
        Self { runs: Vec::new(), directory: Some(path.to_owned()) }
    }

    /// Prometheus text as of now. Only what was added to the logs is read; a run that can't be read is told on stderr and
    /// left out.
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
            // The lock first: once it is free, the log is complete.
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
