//! The whole way from a plan's files to labelled examples.
//!
//! Responsible for: reading, splitting, tokenizing in shards, `overflow`, and counting everything that happens to a row.
//! Must not depend on: tensors, terminals.
//!
//! The result depends on the plan, the files and the tokenizer; not on the number of threads.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;
use tonfall_recipes::plan::{DataPlan, Overflow};

use crate::batch::{Example, Source};
use crate::conversation::{Sample, Shape};
use crate::error::{DataError, RowFault};
use crate::mask::{self, IGNORED, Labelled};
use crate::permutation::Permutation;
use crate::report::{FileReport, PrepareReport};
use crate::source;
use crate::tokenizer::ChatTokenizer;

/// Labelled examples, in the order of their files and rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PreparedDataset {
    pub train: Vec<Example>,
    pub eval: Vec<Example>,
    pub report: PrepareReport,
}

/// How far the preparation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub phase: Phase,
    /// Files while reading, rows while tokenizing; as `total`.
    pub done: u64,
    pub total: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Reading,
    Tokenizing,
}

/// A row of one of the files.
struct Row {
    eval: bool,
    /// Index among the files of both splits.
    file: usize,
    number: u64,
    sample: Sample,
}

/// What the split into train and eval is called among the uses of the seed.
const SPLIT_STREAM: u64 = 1;

/// Reads, splits, renders, tokenizes and labels the data of a plan.
///
/// # Errors
/// Names the file and row of the first fault; also when nothing would be left to train on.
pub fn prepare(
    data: &DataPlan,
    tokenizer: &ChatTokenizer,
    seed: u64,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<PreparedDataset, DataError> {
    let paths: Vec<&Path> = data.train.iter().chain(&data.eval).map(PathBuf::as_path).collect();
    let (mut rows, mut report) = read(data, &paths, progress)?;
    if data.eval.is_empty() {
        split(&mut rows, data.eval_fraction, seed)?;
    }
    let labelled = tokenize(&rows, data, &paths, tokenizer, progress)?;
    let mut prepared = Preparation { data, paths: &paths, report: &mut report, untrained: None, too_long: None };
    let (mut train, mut eval) = (Vec::new(), Vec::new());
    for (row, labelled) in rows.iter().zip(labelled) {
        if let Some(example) = prepared.keep(row, labelled) {
            if row.eval { eval.push(example) } else { train.push(example) }
        }
    }
    prepared.finish(rows.len())?;
    let wanted_eval = rows.iter().any(|row| row.eval);
    for (what, missing) in [("train on", train.is_empty()), ("evaluate on", wanted_eval && eval.is_empty())] {
        if missing {
            let reasons: Vec<String> =
                report.dropped.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
            return Err(DataError::NothingLeft {
                what,
                why: format!("every row was dropped ({})", reasons.join(", ")),
            });
        }
    }
    (report.train_examples, report.eval_examples) = (train.len() as u64, eval.len() as u64);
    Ok(PreparedDataset { train, eval, report })
}

fn read(
    data: &DataPlan,
    paths: &[&Path],
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<(Vec<Row>, PrepareReport), DataError> {
    let (mut rows, mut report) = (Vec::new(), PrepareReport::default());
    let total = paths.len() as u64;
    for (file, path) in paths.iter().enumerate() {
        progress(Progress { phase: Phase::Reading, done: file as u64, total });
        let columns = source::columns(path)?;
        let shape = Shape::resolve(data, path, &columns)?;
        let eval = file >= data.train.len();
        let read = source::read(path, &shape)?;
        report.files.push(FileReport {
            path: path.to_path_buf(),
            format: shape.name(),
            rows: read.len() as u64,
            unused_columns: columns.into_iter().filter(|column| !shape.uses(column)).collect(),
            ..FileReport::default()
        });
        rows.extend(read.into_iter().map(|row| Row { eval, file, number: row.number, sample: row.sample }));
    }
    progress(Progress { phase: Phase::Reading, done: total, total });
    report.rows = rows.len() as u64;
    Ok((rows, report))
}

/// Moves a share of the rows, chosen by the seed, to the eval split.
fn split(rows: &mut [Row], fraction: f64, seed: u64) -> Result<(), DataError> {
    if fraction <= 0.0 {
        return Ok(());
    }
    let held_out = ((rows.len() as f64 * fraction).round() as usize).max(1);
    if held_out >= rows.len() {
        return Err(DataError::Split { fraction, rows: rows.len(), side: "train on" });
    }
    let order = Permutation::new(rows.len(), seed, SPLIT_STREAM, 0);
    for place in 0..held_out {
        rows[order.at(place)].eval = true;
    }
    Ok(())
}

/// Labels all rows, each thread a share of them with a tokenizer of its own (one instance doesn't scale).
fn tokenize(
    rows: &[Row],
    data: &DataPlan,
    paths: &[&Path],
    tokenizer: &ChatTokenizer,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Vec<Labelled>, DataError> {
    const EACH: u64 = 64;
    let total = rows.len() as u64;
    let done = AtomicU64::new(0);
    let label = |row: &Row, tokenizer: &ChatTokenizer| {
        let labelled = mask::label_sample(&row.sample, tokenizer, data.train_on);
        let done = done.fetch_add(1, Ordering::Relaxed) + 1;
        if done.is_multiple_of(EACH) || done == total {
            progress(Progress { phase: Phase::Tokenizing, done, total });
        }
        labelled.map_err(|fault: RowFault| DataError::row(paths[row.file], row.number, fault))
    };
    let shard = rows.len().div_ceil(rayon::current_num_threads()).max(1);
    // Every shard ends at its first fault; the first shard's fault is the first of all.
    let shards: Vec<Result<Vec<Labelled>, DataError>> = rows
        .par_chunks(shard)
        .map(|rows| {
            let tokenizer = tokenizer.clone();
            rows.iter().map(|row| label(row, &tokenizer)).collect()
        })
        .collect();
    Ok(shards.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
}

/// Decides over labelled rows and counts.
struct Preparation<'a> {
    data: &'a DataPlan,
    paths: &'a [&'a Path],
    report: &'a mut PrepareReport,
    /// File and number of the first row without a trained token, and how many there are.
    untrained: Option<(usize, u64, usize)>,
    /// File, number and tokens of the first row that is too long, and how many there are.
    too_long: Option<(usize, u64, usize, usize)>,
}

impl Preparation<'_> {
    /// The example of a row, or `None` when the row is left out.
    fn keep(&mut self, row: &Row, mut labelled: Labelled) -> Option<Example> {
        let tokens = labelled.input_ids.len();
        if trained(&labelled) == 0 {
            self.untrained.get_or_insert((row.file, row.number, 0)).2 += 1;
            return None;
        }
        if tokens > self.data.max_seq_len {
            match self.data.overflow {
                Overflow::Error => {
                    self.too_long.get_or_insert((row.file, row.number, tokens, 0)).3 += 1;
                    return None;
                }
                Overflow::Drop => return self.drop("longer than data.max_seq_len"),
                Overflow::Truncate => {
                    labelled.input_ids.truncate(self.data.max_seq_len);
                    labelled.labels.truncate(self.data.max_seq_len);
                    if trained(&labelled) == 0 {
                        return self.drop("cut before its first trained token");
                    }
                    self.report.truncated += 1;
                }
            }
        }
        let listed = row.file.checked_sub(self.data.train.len()).unwrap_or(row.file);
        let source = Source { file: listed, row: row.number };
        let example = Example { input_ids: labelled.input_ids, labels: labelled.labels, source };
        let (tokens, trained) = (example.input_ids.len() as u64, example.trained_tokens() as u64);
        let file = &mut self.report.files[row.file];
        file.kept += 1;
        file.tokens += tokens;
        file.trained_tokens += trained;
        self.report.tokens += tokens;
        self.report.trained_tokens += trained;
        self.report.longest = self.report.longest.max(tokens);
        self.report.unterminated += u64::from(labelled.unterminated > 0);
        self.report.straddling += labelled.straddling as u64;
        Some(example)
    }

    fn drop(&mut self, reason: &str) -> Option<Example> {
        *self.report.dropped.entry(reason.to_owned()).or_default() += 1;
        None
    }

    /// Fails over rows that neither can be kept nor may be left out.
    fn finish(self, rows: usize) -> Result<(), DataError> {
        let path = |file: usize| self.paths[file].to_owned();
        if let Some((file, row, count)) = self.untrained {
            return Err(DataError::NothingTrained { path: path(file), row, count });
        }
        if let Some((file, row, tokens, count)) = self.too_long {
            let limit = self.data.max_seq_len;
            return Err(DataError::TooLong { path: path(file), row, tokens, limit, count, rows });
        }
        Ok(())
    }
}

/// Targets after the shift.
fn trained(labelled: &Labelled) -> usize {
    labelled.labels.iter().skip(1).filter(|label| **label != IGNORED).count()
}
