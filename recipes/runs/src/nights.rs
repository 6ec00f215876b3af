//! The nights of a store, one line of JSON each.
//!
//! Responsible for: the record of a night, which is its summary for programs too, and `nights.jsonl` next to the versions.
//! Must not depend on: what a night does.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tonfall_durable::{AppendFile, DurableError};

use crate::run_dir::RunDirError;

const FILE: &str = "nights.jsonl";
/// Nights that are read, the newest ones.
const NIGHTS: usize = 10_000;

/// One night. Readers ignore unknown fields; a new field needs a default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NightRecord {
    /// The name in the store.
    pub name: String,
    pub result: NightResult,
    pub exit_code: i32,
    /// The run that was trained or judged.
    pub run: Option<PathBuf>,
    /// The version that was published, and the one that was current before.
    pub version: Option<u64>,
    pub previous: Option<u64>,
    /// Why nothing was published.
    pub reasons: Vec<String>,
    /// Values of the adapter for the measures that the gate names; without a gate, for the most important ones.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub measures: BTreeMap<String, f64>,
    /// UTC, to the second.
    pub started: String,
    pub seconds: f64,
    #[serde(default)]
    pub stages: Vec<Stage>,
}

/// How a night has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NightResult {
    Published,
    /// Nothing to do.
    Unchanged,
    GateFailed,
    /// By a signal or `nightly.max_duration`; the next night continues.
    Stopped,
    Failed,
    /// A result of a newer version.
    #[serde(other)]
    Other,
}

/// A stage that has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    pub stage: String,
    pub seconds: f64,
    pub error: Option<String>,
}

impl NightResult {
    /// The name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Published => "published",
            Self::Unchanged => "unchanged",
            Self::GateFailed => "gate_failed",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::Other => "other",
        }
    }
}

impl NightRecord {
    /// Appends the night to the file in the store's `directory`.
    ///
    /// # Errors
    /// If the file can't be written.
    pub fn append(&self, directory: &Path) -> Result<(), DurableError> {
        let mut line = serde_json::to_vec(self).expect("texts and numbers");
        line.push(b'\n');
        AppendFile::open(&directory.join(FILE), u64::MAX)?.append(&line)
    }
}

/// The newest nights of the store in `directory`, oldest first, and the number of lines that are no nights.
///
/// # Errors
/// If the file can't be read.
pub fn read(directory: &Path) -> Result<(Vec<NightRecord>, u64), RunDirError> {
    let path = directory.join(FILE);
    let failed = |source| RunDirError::Read { path: path.clone(), source };
    let file = match File::open(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok((Vec::new(), 0)),
        file => file.map_err(failed)?,
    };
    let (mut nights, mut damaged) = (Vec::new(), 0);
    for line in BufReader::new(file).split(b'\n') {
        match serde_json::from_slice(&line.map_err(failed)?) {
            Ok(night) => nights.push(night),
            Err(_) => damaged += 1,
        }
        if nights.len() >= 2 * NIGHTS {
            nights.drain(..NIGHTS);
        }
    }
    nights.drain(..nights.len().saturating_sub(NIGHTS));
    Ok((nights, damaged))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn night(number: u64) -> NightRecord {
        NightRecord {
            name: "style".to_owned(),
            result: NightResult::Published,
            exit_code: 0,
            run: Some("runs/a".into()),
            version: Some(number),
            previous: number.checked_sub(1),
            reasons: Vec::new(),
            measures: BTreeMap::from([("loss".to_owned(), 0.5)]),
            started: "2026-12-01T02:00:00Z".to_owned(),
            seconds: 2.5,
            stages: vec![Stage { stage: "train".to_owned(), seconds: 2.0, error: None }],
        }
    }

    #[test]
    fn nights_are_read_in_their_order() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(read(dir.path()).expect("no nights"), (Vec::new(), 0));
        for number in 1..4 {
            night(number).append(dir.path()).expect("written");
        }
        assert_eq!(read(dir.path()).expect("read"), ((1..4).map(night).collect(), 0));
    }

    #[test]
    fn torn_lines_are_counted_and_results_of_newer_versions_are_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        let newer = serde_json::to_string(&night(1)).expect("json").replace("\"published\"", "\"postponed\"");
        let text = format!("{newer}\n{{\"name\":\"st");
        tonfall_durable::write_file(&dir.path().join(FILE), text.as_bytes()).expect("written");
        let (nights, damaged) = read(dir.path()).expect("read");
        assert_eq!((nights[0].result, nights.len(), damaged), (NightResult::Other, 1, 1));
    }
}
