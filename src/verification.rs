//! `verify.json` next to an artefact: what it must answer, and the checks that it has passed.
//!
//! Responsible for: the file. Must not depend on: how an artefact is checked.

use std::path::Path;

use serde::{Deserialize, Serialize};
use tonfall_datasets::Message;
use tonfall_durable as durable;

use crate::diagnostics::{ExitCode, Failure, Result};

pub(crate) const FILE: &str = "verify.json";

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Verification {
    /// The version of this program.
    pub(crate) version: String,
    pub(crate) max_new_tokens: usize,
    /// Tokens that end a turn. Generations don't contain them.
    pub(crate) end_tokens: Vec<u32>,
    pub(crate) artefacts: Vec<Verified>,
    pub(crate) prompts: Vec<Prompt>,
}

/// The checks of one file or directory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Verified {
    /// Relative to the directory of `verify.json`; `.` for the directory itself.
    pub(crate) artefact: String,
    pub(crate) checks: Vec<Check>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Check {
    pub(crate) name: String,
    pub(crate) value: f64,
    /// The value must not be larger than this.
    pub(crate) limit: f64,
}

/// A prompt, and the greedy generations of the trained model and of its base.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Prompt {
    pub(crate) messages: Vec<Turn>,
    /// As rendered by the chat template of the training.
    pub(crate) text: String,
    pub(crate) tokens: Vec<u32>,
    pub(crate) expected: Vec<u32>,
    pub(crate) expected_text: String,
    /// Without the adapter. Equal to `expected` if there is none.
    pub(crate) base: Vec<u32>,
    pub(crate) base_text: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Turn {
    pub(crate) role: String,
    pub(crate) content: String,
}

impl Check {
    pub(crate) fn passed(&self) -> bool {
        self.value <= self.limit
    }
}

impl Turn {
    pub(crate) fn message(&self) -> Message {
        Message::new(self.role.as_str(), self.content.as_str())
    }
}

impl Verification {
    /// The checks that failed, one line each; empty if the artefacts are as they must be.
    pub(crate) fn failures(&self) -> Vec<String> {
        let failed = |verified: &Verified| {
            let failed: Vec<_> = verified.checks.iter().filter(|check| !check.passed()).collect();
            let line = |check: &Check| {
                format!(
                    "{}: {} is {:.3e}, but at most {:.0e} is allowed",
                    verified.artefact, check.name, check.value, check.limit
                )
            };
            failed.into_iter().map(line).collect::<Vec<_>>()
        };
        self.artefacts.iter().flat_map(failed).collect()
    }

    pub(crate) fn write(&self, dir: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)
            .map_err(|error| Failure::new(ExitCode::Unexpected, error.to_string()))?;
        Ok(durable::write_file(&dir.join(FILE), text.as_bytes())?)
    }

    /// Reads the file next to an artefact.
    pub(crate) fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(FILE);
        let invalid = |why: String| Failure::new(ExitCode::Invalid, format!("{}: {why}", path.display()));
        let bytes = tonfall_adapters::read_text(&path).map_err(|_| {
            invalid("there is no such file; `tonfall export` writes it next to each artefact".to_owned())
        })?;
        serde_json::from_slice(&bytes).map_err(|error| invalid(error.to_string()))
    }
}
