//! Counts of everything that happened to the data.
//!
//! Responsible for: the report and how it reads in a terminal. Must not depend on: how it is made.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::audit::Findings;

/// Counts of one file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileReport {
    pub path: PathBuf,
    /// The format that was read or recognised, as the recipe names it.
    pub format: String,
    pub rows: u64,
    /// Rows for which the source's filter wasn't true.
    pub filtered: u64,
    /// Faulty rows, left out by `max_bad_rows`.
    pub faulty: u64,
    /// Examples.
    pub kept: u64,
    pub tokens: u64,
    pub trained_tokens: u64,
    /// Columns that nothing was read from.
    pub unused_columns: Vec<String>,
    /// Fields that the file has under another name, as ``prompt = `question` ``.
    #[serde(default)]
    pub renamed: Vec<String>,
}

/// Counts of all files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrepareReport {
    pub rows: u64,
    /// Before weights.
    pub train_examples: u64,
    pub eval_examples: u64,
    /// Examples in an epoch, after weights.
    pub epoch_examples: u64,
    /// Examples left out, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Examples cut to `max_seq_len`.
    pub truncated: u64,
    pub tokens: u64,
    pub trained_tokens: u64,
    /// Tokens of the longest example that was kept, after cutting.
    pub longest: u64,
    /// Examples by length: the key is the smallest power of two that is not below the tokens.
    pub lengths: BTreeMap<u64, u64>,
    /// Examples with a trained turn that no end token closes.
    pub unterminated: u64,
    /// Tokens across the border of a trained range, left untrained.
    pub straddling: u64,
    /// Thoughts that the chat template leaves out.
    pub thoughts_left_out: u64,
    /// The first faulty rows that were left out.
    pub faults: Vec<String>,
    /// Texts cut into several examples of `max_seq_len` tokens.
    #[serde(default)]
    pub split: u64,
    /// Entries of folders that are no data: files of other kinds, documents and descriptions next to data, hidden entries.
    pub skipped_files: Vec<PathBuf>,
    /// Files of folders that belong to the other side of the split by their names (`test.jsonl` in `data.train`).
    #[serde(default)]
    pub other_side_files: Vec<PathBuf>,
    /// Files of folders and patterns that have no rows.
    #[serde(default)]
    pub empty_files: Vec<PathBuf>,
    pub files: Vec<FileReport>,
    pub findings: Findings,
    /// Examples beyond the number that is looked through for near-duplicates.
    pub not_compared: u64,
    /// Terms that have only a definition and that no answer uses.
    pub defined_only: u64,
    /// Texts of term bases that are too long to be looked for in answers.
    pub long_terms: u64,
    /// Why nothing is kept in the cache, when it was to be.
    #[serde(skip)]
    pub uncached: Option<String>,
    /// The part of `tokenizer.json` because of which texts went through the slow encoder.
    #[serde(skip)]
    pub slow_tokenizer: Option<String>,
    /// Whether it was found in the cache.
    #[serde(skip)]
    pub cached: bool,
}

impl PrepareReport {
    /// Counts that may surprise, with their meaning.
    pub fn notes(&self) -> Vec<String> {
        let notes = [
            (self.truncated, "rows cut to data.max_seq_len"),
            (self.straddling, "tokens lie across the border of an answer and are not trained"),
            (self.thoughts_left_out, "thoughts are left out by the chat template"),
            (self.not_compared, "examples were looked through for exact duplicates only"),
            (self.split, "texts were split into examples of at most data.max_seq_len tokens"),
            (self.defined_only, "terms have only a definition, and no answer uses them"),
            (self.long_terms, "texts of term bases are longer than 12 words and are not looked for in answers"),
        ];
        let lists = [
            (&self.skipped_files, "entries of folders are no data and were not read"),
            (
                &self.other_side_files,
                "files of folders belong to the other side of the split by their names and were not read",
            ),
            (&self.empty_files, "files have no rows"),
        ];
        let listed = lists.iter().filter(|(paths, _)| !paths.is_empty()).map(|(paths, note)| shortened(paths, note));
        let counted = notes.iter().filter(|(count, _)| *count > 0).map(|(count, note)| format!("{count} {note}"));
        let dropped = self.dropped.iter().map(|(reason, count)| format!("{count} rows dropped: {reason}"));
        let faulty: u64 = self.files.iter().map(|file| file.faulty).sum();
        let faulty = (faulty > 0).then(|| format!("{faulty} faulty rows left out:\n  {}", self.faults.join("\n  ")));
        let uncached = self.uncached.iter().map(|why| format!("prepared data is not kept: {why}"));
        let slow = self.slow_tokenizer.iter().map(|part| {
            format!("tokenized by the reference encoder, about ten times slower: the fast one doesn't know {part}")
        });
        dropped.chain(faulty).chain(counted).chain(listed).chain(uncached).chain(slow).collect()
    }
}

/// A count with the first paths.
fn shortened(paths: &[PathBuf], note: &str) -> String {
    const SHOWN: usize = 5;
    let names: Vec<String> = paths.iter().take(SHOWN).map(|path| path.display().to_string()).collect();
    let more = if paths.len() > SHOWN { ", …" } else { "" };
    format!("{} {note}: {}{more}", paths.len(), names.join(", "))
}

impl fmt::Display for PrepareReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept = self.train_examples + self.eval_examples;
        writeln!(f, "{} rows, {kept} examples: {} train, {} eval", self.rows, self.train_examples, self.eval_examples)?;
        if self.epoch_examples != self.train_examples {
            writeln!(f, "{} examples in an epoch, by the weights of the sources", self.epoch_examples)?;
        }
        let share = 100.0 * self.trained_tokens as f64 / self.tokens.max(1) as f64;
        writeln!(
            f,
            "{} tokens, {} of them trained ({share:.1} %), longest {}",
            self.tokens, self.trained_tokens, self.longest
        )?;
        for note in self.notes() {
            writeln!(f, "{note}")?;
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
            if file.filtered > 0 {
                write!(f, ", {} filtered out", file.filtered)?;
            }
            if !file.renamed.is_empty() {
                write!(f, "; read as {}", file.renamed.join(", "))?;
            }
            if !file.unused_columns.is_empty() {
                let name =
                    |name: &String| if name.is_empty() { "a column without a name".to_owned() } else { name.clone() };
                write!(f, "; not read: {}", file.unused_columns.iter().map(name).collect::<Vec<_>>().join(", "))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
