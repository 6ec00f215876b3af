//! The counts of a preparation.
//!
//! Responsible for: the report and its text. Must not depend on: how the data is prepared.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tonfall_recipes::{counted, grouped};

use crate::audit::{self, Findings};

/// The counts of one file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileReport {
    pub path: PathBuf,
    /// The format that was set or detected, as named in recipes.
    pub format: String,
    pub rows: u64,
    /// Rows for which the source's filter was not true.
    pub filtered: u64,
    /// Faulty rows that `max_bad_rows` allows.
    pub faulty: u64,
    /// Number of examples.
    pub kept: u64,
    pub tokens: u64,
    pub trained_tokens: u64,
    /// Columns that were not read.
    pub unused_columns: Vec<String>,
    /// Fields that are read from a column with another name, as ``prompt = `question` ``.
    #[serde(default)]
    pub renamed: Vec<String>,
}

/// The counts of all files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrepareReport {
    pub rows: u64,
    /// Before weights are applied.
    pub train_examples: u64,
    pub eval_examples: u64,
    /// Examples in an epoch, after weights are applied.
    pub epoch_examples: u64,
    /// Number of dropped examples, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Examples truncated to `max_seq_len`.
    pub truncated: u64,
    pub tokens: u64,
    pub trained_tokens: u64,
    /// Tokens of the longest example, after truncation.
    pub longest: u64,
    /// Number of examples by length. The key is the number of tokens, rounded up to a power of two.
    pub lengths: BTreeMap<u64, u64>,
    /// Examples with a trained turn that has no end token.
    pub unterminated: u64,
    /// Tokens that are partly inside a trained range. They have no loss.
    pub straddling: u64,
    /// Thinking blocks that the chat template does not write.
    pub thoughts_left_out: u64,
    /// The first faulty rows.
    pub faults: Vec<String>,
    /// Texts that were split into several examples of at most `max_seq_len` tokens.
    #[serde(default)]
    pub split: u64,
    /// Folder entries that are not data: files of other kinds, documents and descriptions next to data, hidden entries.
    pub skipped_files: Vec<PathBuf>,
    /// Files in folders whose name assigns them to the other side of the split (`test.jsonl` in `data.train`).
    #[serde(default)]
    pub other_side_files: Vec<PathBuf>,
    /// Files without rows that were found in folders or by patterns.
    #[serde(default)]
    pub empty_files: Vec<PathBuf>,
    pub files: Vec<FileReport>,
    pub findings: Findings,
    /// Long examples above the limit, which were not compared for near-duplicates.
    pub not_compared: u64,
    /// Terms that have only a definition and occur in no answer.
    pub defined_only: u64,
    /// Texts in term bases that are too long to search for in answers.
    pub long_terms: u64,
    /// Why the prepared data was not cached although a cache was requested.
    #[serde(skip)]
    pub uncached: Option<String>,
    /// The part of `tokenizer.json` that the fast encoder doesn't support.
    #[serde(skip)]
    pub slow_tokenizer: Option<String>,
    /// Whether the prepared data was found in the cache.
    #[serde(skip)]
    pub cached: bool,
}

/// Prefix of the reasons in `dropped` that are audit rules.
pub(crate) const BY_RULE: &str = "audit.";

impl PrepareReport {
    /// Warnings: the counts that are not zero, each with its meaning.
    pub fn notes(&self) -> Vec<String> {
        let examples = |count| counted(count, "example");
        let notes = [
            (self.truncated, format!("{} cut to data.max_seq_len", counted(self.truncated, "row"))),
            (
                self.straddling,
                format!("{} across the border of an answer: without loss", counted(self.straddling, "token")),
            ),
            (
                self.thoughts_left_out,
                format!("{} left out by the chat template", counted(self.thoughts_left_out, "thinking block")),
            ),
            (self.not_compared, format!("{} compared for exact duplicates only", examples(self.not_compared))),
            (
                self.split,
                format!("{} split into examples of at most data.max_seq_len tokens", counted(self.split, "text")),
            ),
            (
                self.defined_only,
                format!("{} with only a definition and used by no answer", counted(self.defined_only, "term")),
            ),
            (
                self.long_terms,
                format!("{} longer than 12 words, not searched in answers", counted(self.long_terms, "term base text")),
            ),
        ];
        let lists = [
            (&self.skipped_files, "entries of folders that are no data and were not read"),
            (
                &self.other_side_files,
                "files of folders that belong to the other side of the split by their names and were not read",
            ),
            (&self.empty_files, "files without rows"),
        ];
        let listed = lists.iter().filter(|(paths, _)| !paths.is_empty()).map(|(paths, note)| shortened(paths, note));
        let notes = notes.into_iter().filter(|(count, _)| *count > 0).map(|(_, note)| note);
        let dropped = self.dropped.iter().map(|(reason, count)| match reason.strip_prefix(BY_RULE) {
            Some(rule) => format!("{} dropped by {reason}{}", examples(*count), self.first(rule)),
            None => format!("{} dropped: {reason}", grouped(*count)),
        });
        let faulty: u64 = self.files.iter().map(|file| file.faulty).sum();
        let faulty = (faulty > 0)
            .then(|| format!("{} left out:\n  {}", counted(faulty, "faulty row"), self.faults.join("\n  ")));
        let uncached = self.uncached.iter().map(|why| format!("prepared data is not cached: {why}"));
        let slow = self.slow_tokenizer.iter().map(|part| {
            format!(
                "tokenized by the reference encoder, about ten times slower: the fast encoder doesn't support {part}"
            )
        });
        dropped.chain(faulty).chain(notes).chain(listed).chain(uncached).chain(slow).collect()
    }

    /// The meaning of a rule, and its first finding.
    fn first(&self, rule: &str) -> String {
        let finding = self.findings.iter().find(|(other, _)| audit::name(*other) == rule);
        let Some((rule, hit)) = finding.and_then(|(rule, finding)| Some((rule, finding.hits.first()?))) else {
            return String::new();
        };
        format!(" ({}); the first: {}:{}: {}", audit::meaning(rule), hit.path.display(), hit.row, hit.detail)
    }
}

/// A count, and the first paths.
fn shortened(paths: &[PathBuf], note: &str) -> String {
    const SHOWN: usize = 5;
    let names: Vec<String> = paths.iter().take(SHOWN).map(|path| path.display().to_string()).collect();
    let more = if paths.len() > SHOWN { ", …" } else { "" };
    format!("{note}: {} ({}{more})", paths.len(), names.join(", "))
}

impl fmt::Display for PrepareReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept = counted(self.train_examples + self.eval_examples, "example");
        let (rows, train, eval) = (counted(self.rows, "row"), self.train_examples, self.eval_examples);
        writeln!(f, "{rows}, {kept}: {} train, {} eval", grouped(train), grouped(eval))?;
        if self.epoch_examples != self.train_examples {
            let examples = counted(self.epoch_examples, "example");
            writeln!(f, "{examples} in an epoch, by the weights of the sources")?;
        }
        let share = 100.0 * self.trained_tokens as f64 / self.tokens.max(1) as f64;
        let (tokens, trained) = (counted(self.tokens, "token"), grouped(self.trained_tokens));
        writeln!(f, "{tokens}, {trained} with loss ({share:.1} %), longest example {}", grouped(self.longest))?;
        for file in &self.files {
            let (path, format) = (file.path.display(), &file.format);
            let (rows, tokens) = (counted(file.rows, "row"), counted(file.tokens, "token"));
            let (kept, trained) = (counted(file.kept, "example"), grouped(file.trained_tokens));
            write!(f, "{path} ({format}): {rows}, {kept}, {tokens}, {trained} with loss")?;
            if file.filtered > 0 {
                write!(f, ", {} filtered out", grouped(file.filtered))?;
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
