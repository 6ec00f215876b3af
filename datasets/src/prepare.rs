//! Prepares the files of a plan: from files to labelled examples.
//!
//! Responsible for: reading rows in chunks, and labelling them on all threads. [`crate::prepare::collect`] decides
//! which examples are kept.
//! Must not depend on: tensors, terminals.
//!
//! The result depends on the plan, the files and the tokenizer. It doesn't depend on the number of threads.

pub(crate) mod batch;
pub(crate) mod cache;
pub(crate) mod collect;
pub(crate) mod concepts;
pub(crate) mod disjoint_sets;
pub(crate) mod order;
pub(crate) mod packing;
pub(crate) mod permutation;
pub(crate) mod report;
pub(crate) mod similar;
pub(crate) mod snapshot;
pub(crate) mod store;
pub(crate) mod term_bases;
pub(crate) mod term_concepts;

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;
use tonfall_recipes::Plan;
use tonfall_recipes::plan::{AuditRule, DataFormat, Severity, SourcePlan, Thinking};

use crate::audit::duplicates::fingerprint;
use crate::audit::labels;
use crate::audit::templates;
use crate::audit::terms::Terms;
use crate::audit::texts;
use crate::error::{DataError, RowFault};
use crate::formats::format::Layout;
use crate::formats::samples::build;
use crate::formats::tasks::{self, Tasks};
use crate::formats::thinking;
use crate::label::mask::{self, LabelOptions};
use crate::prepare::cache::{Index, Sink};
use crate::prepare::collect::{Collector, Outcome, Prepared, PreparedExample};
use crate::prepare::concepts::Concepts;
use crate::prepare::report::PrepareReport;
use crate::prepare::snapshot::Snapshot;
use crate::prepare::store::{Columns, Examples};
use crate::read::files::DataFile;
use crate::read::filter::Filter;
use crate::read::folder::{self, Expanded};
use crate::read::rows::{self, RawRow, Row};
use crate::render::tokenizer::ChatTokenizer;
use crate::stable_hash::stable_hash;

/// Labelled examples and their report.
#[derive(Clone, Debug, Default)]
pub struct PreparedDataset {
    /// The examples of one epoch. By the weight of its source, an example may occur several times or not at all.
    pub train: Examples,
    pub eval: Examples,
    pub report: PrepareReport,
    /// The source files, with their SHA-256.
    pub sources: Vec<(PathBuf, [u8; 32])>,
}

/// Progress of the preparation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub phase: Phase,
    /// Bytes of files, like `total`.
    pub done: u64,
    pub total: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Hashing the files, to find the prepared data in the cache.
    Looking,
    /// Reading, rendering, tokenizing and labelling rows.
    Preparing,
}

/// A file, with its layout, source and filter.
pub(crate) struct Input {
    pub(crate) file: DataFile,
    pub(crate) layout: Layout,
    pub(crate) source: SourcePlan,
    filter: Option<Filter>,
}

/// Reads, renders, tokenizes, labels, splits and audits the data of a plan. `cache` is a directory in which prepared
/// data is stored and found again.
///
/// # Errors
/// If a file or a row is faulty (the error names the file and the row), if the audit has errors, or if no example is
/// left.
pub fn prepare(
    plan: &Plan,
    tokenizer: &ChatTokenizer,
    cache: Option<&Path>,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<PreparedDataset, DataError> {
    let Inputs { inputs, skipped, other_side, empty } = inputs(plan)?;
    let cache = cache.filter(|_| plan.data.cache);
    let snapshots = snapshots(&inputs, progress)?;
    let sources = || snapshots.iter().map(|snapshot| (snapshot.path.clone(), snapshot.sha256)).collect();
    let key = cache.map(|_| key(plan, &snapshots, tokenizer));
    if let Some((folder, key)) = cache.zip(key.as_deref())
        && let Some((columns, mut index)) = cache::load(folder, key)?
    {
        index.report.cached = true;
        return finish(plan, columns, index, sources());
    }
    let (sink, uncached) = match Sink::new(cache.zip(key.as_deref())) {
        Ok(sink) => (sink, None),
        // A cache directory that isn't writable must not prevent training.
        Err(error) => (Sink::Memory(Vec::new(), Vec::new()), Some(error.to_string())),
    };
    let (terms, concepts) = term_bases::read(&inputs)?;
    let mut collector = Collector::new(plan, &inputs, &terms, sink);
    (collector.report.skipped_files, collector.report.other_side_files) = (skipped, other_side);
    (collector.report.empty_files, collector.report.uncached) = (empty, uncached);
    collector.report.slow_tokenizer = tokenizer.slow_because().map(str::to_owned);
    let workers = Workers::new(plan, tokenizer, &terms, &concepts);
    let total: u64 = inputs.iter().map(|input| input.file.bytes).sum();
    let mut done = 0;
    for (number, input) in inputs.iter().enumerate() {
        let mut within = 0;
        progress(Progress { phase: Phase::Preparing, done, total });
        rows::read(&input.file, Some(&input.layout.read), &mut |chunk| {
            if input.file.is_plain() {
                within += chunk.iter().map(RawRow::bytes).sum::<u64>();
            }
            for outcome in workers.work(chunk, number, input) {
                collector.take(number, outcome)?;
            }
            progress(Progress { phase: Phase::Preparing, done: done + within.min(input.file.bytes), total });
            Ok(())
        })?;
        done += input.file.bytes;
    }
    progress(Progress { phase: Phase::Preparing, done: total, total });
    // If a file has changed after it was hashed, nothing may be stored under that hash.
    snapshots.iter().try_for_each(Snapshot::check_unchanged)?;
    inputs.iter().filter_map(|input| input.filter.as_ref()).try_for_each(Filter::check_seen)?;
    let (columns, index) = collector.finish()?;
    finish(plan, columns, index, sources())
}

/// Returns the prepared data, or an error if the audit has findings of severity `error`.
fn finish(
    plan: &Plan,
    columns: Columns,
    index: Index,
    sources: Vec<(PathBuf, [u8; 32])>,
) -> Result<PreparedDataset, DataError> {
    let findings = index.report.findings.of(Severity::Error, &plan.audit);
    if !findings.is_empty() {
        let hint = "under [audit], each rule can be set to \"warn\" or \"off\", and most to \"drop\", which leaves the rows out";
        return Err(DataError::Audit { findings: format!("{}\n{hint}", findings.join("\n")) });
    }
    let (columns, epoch) = (Arc::new(columns), index.epoch);
    Ok(PreparedDataset {
        eval: Examples::new(columns.clone(), epoch..columns.order.len()),
        train: Examples::new(columns, 0..epoch),
        report: index.report,
        sources,
    })
}

/// The files of all sources.
#[derive(Default)]
struct Inputs {
    /// In the order of the plan.
    inputs: Vec<Input>,
    skipped: Vec<PathBuf>,
    other_side: Vec<PathBuf>,
    /// Files without rows that were found in folders or by patterns.
    empty: Vec<PathBuf>,
}

/// Finds all files of all sources, and their formats.
fn inputs(plan: &Plan) -> Result<Inputs, DataError> {
    let mut all = Inputs::default();
    for source in plan.sources() {
        let filter = source.filter.as_deref().map(Filter::new).transpose()?;
        let mut also_read = filter.as_ref().map(|filter| filter.columns().to_vec()).unwrap_or_default();
        also_read.extend(tasks::names_in(&plan.template));
        let Expanded { files, skipped, other_side } = folder::expand(&source.files, source.split)?;
        all.skipped.extend(skipped);
        all.other_side.extend(other_side);
        let before = all.inputs.len();
        let mut first_empty = None;
        for file in files {
            let layout = match Layout::resolve(&file, &source, &also_read) {
                // Programs that write many parts often leave some of them empty.
                Err(DataError::Empty { path }) if file.found => {
                    first_empty.get_or_insert_with(|| path.clone());
                    all.empty.push(path);
                    continue;
                }
                layout => layout?,
            };
            if let Some(filter) = &filter {
                filter.check(file.kind, &layout.present)?;
            }
            all.inputs.push(Input { file, layout, source: source.clone(), filter: filter.clone() });
        }
        if let (Some(path), true) = (first_empty, all.inputs.len() == before) {
            return Err(DataError::Empty { path });
        }
    }
    Ok(all)
}

/// The cache key: a hash of everything that the examples depend on.
fn key(plan: &Plan, snapshots: &[Snapshot], tokenizer: &ChatTokenizer) -> String {
    let mut data = plan.data.clone();
    // These settings change how the prepared examples are used and cached, not the examples themselves.
    (data.shuffle, data.cache, data.packing) = (true, true, tonfall_recipes::plan::Packing::Off);
    let dropping: Vec<AuditRule> = plan.audit.dropping().collect();
    let declared = serde_json::to_vec(&(&data, &plan.source, &plan.template, plan.seed, &dropping)).unwrap_or_default();
    let mut parts = vec![declared, tokenizer.fingerprint().to_vec()];
    for snapshot in snapshots {
        parts.push(snapshot.path.to_string_lossy().into_owned().into_bytes());
        parts.push(snapshot.sha256.to_vec());
    }
    cache::key(&parts.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

/// Hashes every file.
fn snapshots(inputs: &[Input], progress: &(dyn Fn(Progress) + Sync)) -> Result<Vec<Snapshot>, DataError> {
    let total: u64 = inputs.iter().map(|input| input.file.bytes).sum();
    let (mut snapshots, mut done) = (Vec::with_capacity(inputs.len()), 0);
    for input in inputs {
        progress(Progress { phase: Phase::Looking, done, total });
        snapshots.push(Snapshot::take(input.file.path.clone())?);
        done += input.file.bytes;
    }
    Ok(snapshots)
}

/// Processes rows independently of each other, on all threads.
struct Workers<'a> {
    options: LabelOptions,
    seed: u64,
    tasks: Tasks,
    terms: &'a Terms,
    concepts: &'a Concepts,
    /// One for each thread.
    tokenizers: Vec<ChatTokenizer>,
}

impl<'a> Workers<'a> {
    fn new(plan: &Plan, tokenizer: &ChatTokenizer, terms: &'a Terms, concepts: &'a Concepts) -> Self {
        let threads = rayon::current_num_threads().max(1);
        Self {
            options: LabelOptions::from(&plan.data),
            seed: plan.seed,
            tasks: Tasks::new(&plan.template),
            terms,
            concepts,
            tokenizers: (0..threads).map(|_| tokenizer.for_thread()).collect(),
        }
    }

    /// Labels the rows of a chunk. The order of rows is kept.
    fn work(&self, chunk: Vec<RawRow>, file: usize, input: &Input) -> Vec<Outcome> {
        let outcomes = chunk.into_par_iter().map(|row| {
            let number = row.number;
            let result = row.parse().and_then(|row| match &input.filter {
                Some(filter) if !filter.keep(&row)? => Ok(None),
                _ => self.row(&row, number, file, input).map(Some),
            });
            Outcome { number, result }
        });
        outcomes.collect()
    }

    fn row(&self, row: &Row, number: u64, file: usize, input: &Input) -> Result<Prepared, RowFault> {
        let tokenizer = &self.tokenizers[rayon::current_thread_index().unwrap_or(0) % self.tokenizers.len()];
        let key = stable_hash((self.seed, file as u64, number));
        let built = build(row, &input.layout, &input.source, &self.tasks, key)?;
        let own_terms = input.layout.format.format == DataFormat::Terminology;
        let examples = built.samples.iter().map(|original| {
            // The audit checks the texts that are trained, so without dropped thinking blocks.
            let sample = &match self.options.thinking {
                Thinking::Drop => Cow::Owned(thinking::dropped(original)),
                Thinking::Keep | Thinking::Mask => Cow::Borrowed(original),
            };
            let said = texts::texts(sample);
            let mut findings = texts::inspect(sample, input.source.language.as_deref());
            let answers = said.iter().filter(|(speaker, _)| *speaker == "assistant" || *speaker == "document");
            let mut used: Vec<usize> = answers.flat_map(|(_, text)| self.terms.used(text)).collect();
            used.sort_unstable();
            used.dedup();
            // A term task may name the forbidden term.
            let forbidden = self.terms.forbidden(&used, input.source.language.as_deref()).filter(|_| !own_terms);
            findings.extend(forbidden.map(|detail| (AuditRule::ForbiddenTerm, detail)));
            let labelled = mask::label_sample(original, tokenizer, self.options)?;
            findings.extend(labels::inspect(sample, &labelled, tokenizer));
            let other = templates::difference(sample, tokenizer, self.options.thinking);
            findings.extend(other.map(|detail| (AuditRule::OtherTemplate, detail)));
            Ok(PreparedExample { fingerprint: fingerprint(sample, &labelled), labelled, findings, terms: used })
        });
        let examples = examples.collect::<Result<_, RowFault>>()?;
        let group = built.group.map(|name| self.concepts.of(&name));
        Ok(Prepared { group, examples, no_task: built.no_task, findings: built.findings })
    }
}
