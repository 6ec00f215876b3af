//! `tonfall metrics [RUN…]`: the metrics of runs for Prometheus and TensorBoard.
//!
//! Responsible for: selecting the runs and the destination of their metrics; `tonfall_runs::exporters` has the formats.

use std::path::Path;
use std::thread;
use std::time::Duration;

use tonfall_durable::{self as durable, AppendFile};
use tonfall_recipes::counted;
use tonfall_runs::exporters::tensorboard;
use tonfall_runs::{EventReader, RunDir};

use crate::args::Metrics;
use crate::diagnostics::{Failure, Result};
use crate::metrics_server::{MetricsServer, Scrape};
use crate::{output, runs, summary};

/// Interval between two reads of the logs of live runs.
const INTERVAL: Duration = Duration::from_secs(2);

pub(crate) fn run(args: &Metrics) -> Result<()> {
    let runs = match args.runs.is_empty() {
        true => runs::all(Path::new(runs::DIRECTORY))?.into_iter().filter(is_readable).collect(),
        false => runs::named_or_newest(&args.runs)?,
    };
    if let Some(directory) = &args.tensorboard {
        return tensorboard_files(&runs, directory, args.follow);
    }
    if let Some(server) = MetricsServer::bind(&args.serve)? {
        let scrape = match args.runs.is_empty() {
            true => Scrape::directory(Path::new(runs::DIRECTORY)),
            false => Scrape::runs(runs),
        };
        return server.serve(scrape);
    }
    Ok(output::data(Scrape::runs(runs).text().trim_end())?)
}

/// Whether lock and log of a run can be read. An unreadable run is a warning, and the other runs are still exported.
fn is_readable(run: &RunDir) -> bool {
    let begun = || Ok::<_, Failure>((run.is_held()?, EventReader::new(run.events()).scan_some(1, |_| {})?));
    begun().map_err(|fault| output::note(&format!("warning: {}", fault.message()))).is_ok()
}

/// A run and its event file.
struct Export {
    run: RunDir,
    reader: EventReader,
    file: AppendFile,
    records: u64,
}

fn tensorboard_files(runs: &[RunDir], directory: &Path, follow: bool) -> Result<()> {
    let mut exports = Vec::with_capacity(runs.len());
    for run in runs {
        let folder = directory.join(run.id());
        durable::create_dir_all(&folder)?;
        // TensorBoard finds files by `tfevents` in their name. The name is constant, so a second export replaces the
        // first.
        let mut file = AppendFile::open(&folder.join("events.out.tfevents.0000000000.tonfall"), 0)?;
        let mut reader = EventReader::new(run.events());
        let mut start = None;
        reader.scan_some(1, |event| start = Some(event.t))?;
        file.append(&tensorboard::header(start.unwrap_or(0.0)))?;
        exports.push(Export { run: run.clone(), reader: EventReader::new(run.events()), file, records: 0 });
    }
    loop {
        let mut alive = false;
        for export in &mut exports {
            // The lock is checked before the log: once the lock is free, the log is complete.
            alive |= export.run.is_held()?;
            export.append_new()?;
        }
        if !(follow && alive) {
            break;
        }
        thread::sleep(INTERVAL);
    }
    for export in &exports {
        export.file.sync()?;
        let folder = summary::shown(&directory.join(export.run.id()));
        let skipped = export.reader.damaged() + export.reader.unknown();
        let lost = if skipped > 0 {
            format!("; {} of the log could not be read", counted(skipped, "line"))
        } else {
            String::new()
        };
        output::note(&format!("{folder}: {}{lost}", counted(export.records, "record")));
    }
    Ok(())
}

impl Export {
    /// Appends the records of new log lines.
    fn append_new(&mut self) -> Result<()> {
        const PIECE: u64 = 4 << 20;
        loop {
            let before = self.reader.offset();
            let mut bytes = Vec::new();
            let records = &mut self.records;
            self.reader.scan_some(PIECE, |event| {
                let record = tensorboard::records(&event);
                *records += u64::from(!record.is_empty());
                bytes.extend_from_slice(&record);
            })?;
            if !bytes.is_empty() {
                self.file.append(&bytes)?;
            }
            if self.reader.offset() == before {
                return Ok(());
            }
        }
    }
}
