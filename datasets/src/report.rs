//! What came of the data, counted.
//!
//! Responsible for: the report and how it reads in a terminal. Must not depend on: how it is made.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// What came of one file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileReport {
    pub path: PathBuf,
    /// The format that was read or recognised, as the recipe names it.
    pub format: &'static str,
    pub rows: u64,
    pub kept: u64,
    pub tokens: u64,
    pub trained_tokens: u64,
    /// Columns that nothing was read from.
    pub unused_columns: Vec<String>,
}

/// What came of all files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrepareReport {
    pub rows: u64,
    pub train_examples: u64,
    pub eval_examples: u64,
    /// Rows left out, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Rows cut to `max_seq_len`.
    pub truncated: u64,
    pub tokens: u64,
    pub trained_tokens: u64,
    /// Tokens of the longest row that was kept, after cutting.
    pub longest: u64,
    /// Rows with a trained turn that no end token closes.
    pub unterminated: u64,
    /// Tokens across the border of a trained range, left untrained.
    pub straddling: u64,
    /// The train files, then the eval files, in the plan's order.
    pub files: Vec<FileReport>,
}

impl fmt::Display for PrepareReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept = self.train_examples + self.eval_examples;
        writeln!(f, "{kept} of {} rows kept: {} train, {} eval", self.rows, self.train_examples, self.eval_examples)?;
        let share = 100.0 * self.trained_tokens as f64 / self.tokens.max(1) as f64;
        writeln!(
            f,
            "{} tokens, {} of them trained ({share:.1} %), longest row {}",
            self.tokens, self.trained_tokens, self.longest
        )?;
        for (reason, count) in &self.dropped {
            writeln!(f, "{count} rows dropped: {reason}")?;
        }
        let notes = [
            (self.truncated, "rows cut to data.max_seq_len"),
            (self.unterminated, "rows where no end token closes a trained turn: the model isn't taught to stop there"),
            (self.straddling, "tokens lie across the border of an answer and are not trained"),
        ];
        for (count, note) in notes.iter().filter(|(count, _)| *count > 0) {
            writeln!(f, "{count} {note}")?;
        }
        for file in &self.files {
            write!(
                f,
                "{} ({}): {} rows, {} kept, {} tokens, {} trained",
                file.path.display(),
                file.format,
                file.rows,
                file.kept,
                file.tokens,
                file.trained_tokens
            )?;
            if !file.unused_columns.is_empty() {
                write!(f, "; not read: {}", file.unused_columns.join(", "))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
