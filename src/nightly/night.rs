//! The record of a night: its log, its stages, and its summary.
//!
//! Responsible for: one line per stage on stderr and in the log, rotation of the log, and the summary as JSON.
//! Must not depend on: what the stages do.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use jiff::Timestamp;
use tonfall_durable::{self as durable, AppendFile};
use tonfall_runs::RunDir;
use tonfall_runs::nights::{NightRecord, NightResult, Stage};

use crate::diagnostics::{ExitCode, Failure, Result};
use crate::output;
use crate::progress::Reporter;
use crate::publishing::Published;

const LOG: &str = "nightly.log";
/// A night writes about ten lines, so a log of this size holds years.
const LOG_BYTES: u64 = 1 << 20;
const OLD_LOGS: u32 = 4;

/// A night that runs.
pub(crate) struct Night {
    log: Option<AppendFile>,
    started: Timestamp,
    since: Instant,
    stages: Vec<Stage>,
    run: Option<PathBuf>,
}

/// How a night has ended.
pub(crate) struct Ended {
    result: NightResult,
    code: i32,
    run: Option<PathBuf>,
    version: Option<u64>,
    previous: Option<u64>,
    reasons: Vec<String>,
    /// Of the adapter.
    measures: BTreeMap<String, f64>,
}

impl Ended {
    fn new(result: NightResult, code: i32, run: Option<&RunDir>, reasons: Vec<String>) -> Self {
        let run = run.map(|run| run.path().to_owned());
        Self { result, code, run, version: None, previous: None, reasons, measures: BTreeMap::new() }
    }

    pub(crate) fn unchanged(reason: String) -> Self {
        Self::new(NightResult::Unchanged, ExitCode::Done.number(), None, vec![format!("nothing to do: {reason}")])
    }

    pub(crate) fn rejected(run: &RunDir, reasons: Vec<String>) -> Self {
        Self::new(NightResult::GateFailed, ExitCode::GateFailed.number(), Some(run), reasons)
    }

    pub(crate) fn stopped(run: &RunDir, code: i32) -> Self {
        Self::new(NightResult::Stopped, code, Some(run), vec!["the next night continues the run".to_owned()])
    }

    /// By a signal, before there was a run.
    pub(crate) fn stopped_early(code: i32) -> Self {
        Self::new(NightResult::Stopped, code, None, vec!["a signal came before training".to_owned()])
    }

    /// Like a run that was stopped on request.
    pub(crate) fn out_of_time() -> Self {
        let reason = "`nightly.max_duration` was over before training";
        Self::new(
            NightResult::Stopped,
            crate::signals::exit_code(signal_hook::consts::SIGINT),
            None,
            vec![reason.to_owned()],
        )
    }

    pub(crate) fn published(run: &RunDir, published: &Published) -> Self {
        let version = Some(published.number);
        let ended = Self::new(NightResult::Published, ExitCode::Done.number(), Some(run), Vec::new());
        Self { version, previous: published.before, ..ended }
    }

    pub(crate) fn failed(failure: &Failure) -> Self {
        Self::new(NightResult::Failed, failure.code.number(), None, vec![failure.message()])
    }

    /// Adds the values of the adapter.
    pub(crate) fn with(self, measures: BTreeMap<String, f64>) -> Self {
        Self { measures, ..self }
    }

    pub(crate) fn code(&self) -> i32 {
        self.code
    }

    /// Whether people want to know about it.
    pub(crate) fn is_news(&self) -> bool {
        self.result != NightResult::Unchanged
    }

    /// One line for people.
    pub(crate) fn words(&self) -> String {
        let version = self.version.map(|number| format!(": version {number} is current"));
        let reasons = (!self.reasons.is_empty()).then(|| format!(": {}", self.reasons.join("; ")));
        format!("{}{}", self.result.name().replace('_', " "), version.or(reasons).unwrap_or_default())
    }
}

impl Night {
    /// Begins a night whose log is in `directory`. Rotates the log if it is long.
    pub(crate) fn begin(directory: &Path) -> Result<Self> {
        let log = directory.join(LOG);
        if log.metadata().is_ok_and(|found| found.len() > LOG_BYTES) {
            rotate(&log)?;
        }
        let log = Some(AppendFile::open(&log, u64::MAX)?);
        Ok(Self { log, started: Timestamp::now(), since: Instant::now(), stages: Vec::new(), run: None })
    }

    /// Remembers the run for the summary of a night that fails.
    pub(crate) fn run(&mut self, run: &RunDir) {
        self.run = Some(run.path().to_owned());
    }

    /// Runs a stage, and prints how it has ended.
    pub(crate) fn stage<T>(
        &mut self,
        name: &str,
        reporter: &mut Reporter,
        work: impl FnOnce(&mut Reporter) -> Result<T>,
    ) -> Result<T> {
        let since = Instant::now();
        let done = work(reporter);
        let seconds = since.elapsed().as_secs_f64();
        let error = done.as_ref().err().map(Failure::message);
        let words = error.as_deref().unwrap_or("done");
        self.note(&format!("{name}: {words} ({seconds:.1} s)"), reporter);
        self.stages.push(Stage { stage: name.to_owned(), seconds: round(seconds), error });
        done
    }

    /// A line on stderr and in the log, after the lines that the stages have recorded.
    pub(crate) fn note(&mut self, line: &str, reporter: &mut Reporter) {
        reporter.record(&format!("nightly: {line}"));
        for line in reporter.take_recorded() {
            let line = line.strip_prefix("nightly: ").unwrap_or(&line);
            let stamped = format!("{:.0} {}\n", Timestamp::now(), tonfall_recipes::printable::escaped(line));
            if let Some(log) = &mut self.log
                && let Err(error) = log.append(stamped.as_bytes())
            {
                // A full disk must not end a night that frees some. The lines are still printed.
                output::note(&format!("warning: {error}; the rest of the night is not in the log"));
                self.log = None;
            }
        }
    }

    /// The summary for programs.
    pub(crate) fn record(&mut self, name: &str, ended: Ended) -> NightRecord {
        NightRecord {
            name: name.to_owned(),
            result: ended.result,
            exit_code: ended.code,
            run: ended.run.or(self.run.take()),
            version: ended.version,
            previous: ended.previous,
            reasons: ended.reasons,
            measures: ended.measures,
            started: format!("{:.0}", self.started),
            seconds: round(self.since.elapsed().as_secs_f64()),
            stages: std::mem::take(&mut self.stages),
        }
    }
}

/// `nightly.log` becomes `nightly.log.1`, that `nightly.log.2`, and so on. The oldest one is replaced.
fn rotate(log: &Path) -> Result<()> {
    let numbered = |number: u32| match number {
        0 => log.to_owned(),
        number => log.with_extension(format!("log.{number}")),
    };
    for number in (0..OLD_LOGS).rev().filter(|number| numbered(*number).exists()) {
        durable::rename(&numbered(number), &numbered(number + 1))?;
    }
    Ok(())
}

/// To tenths of a second.
fn round(seconds: f64) -> f64 {
    (seconds * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_logs_are_rotated() {
        let dir = tempfile::tempdir().expect("a directory");
        let log = dir.path().join(LOG);
        for number in 0..7 {
            let text = format!("{number}\n").repeat(LOG_BYTES as usize / 2 + 1);
            durable::write_file(&log, text.as_bytes()).expect("written");
            drop(Night::begin(dir.path()).expect("begun"));
        }
        let first =
            |name: &str| std::fs::read_to_string(dir.path().join(name)).ok().and_then(|text| text.chars().next());
        let found = ["nightly.log", "nightly.log.1", "nightly.log.2", "nightly.log.4", "nightly.log.5"].map(first);
        assert_eq!(found, [None, Some('6'), Some('5'), Some('3'), None]);
    }
}
