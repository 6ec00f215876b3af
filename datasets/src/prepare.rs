//! The whole way from a plan's files to labelled examples.
//!
//! Responsible for: reading in chunks, labelling them on all threads, `overflow`, `max_bad_rows`, and counting everything
//! that happens to a row. Who gets which side of the split and how often is decided in [`crate::order`].
//! Must not depend on: tensors, terminals.
//!
//! The result depends on the plan, the files and the tokenizer; not on the number of threads. Memory holds a chunk of
//! rows, and about 100 bytes for each example.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use tonfall_recipes::Plan;
use tonfall_recipes::plan::{AuditRule, DataFormat, Overflow, Severity, SourcePlan, Split};

use crate::audit::duplicates::{self, Fingerprint, fingerprint};
use crate::audit::terms::Terms;
use crate::audit::texts;
use crate::cache::{self, Index, Sink};
use crate::error::{DataError, RowFault};
use crate::files::{self, DataFile};
use crate::filter::Filter;
use crate::format::Layout;
use crate::mask::{self, IGNORED, LabelOptions, Labelled};
use crate::order::{Member, order};
use crate::report::{FileReport, PrepareReport};
use crate::rows::{self, RawRow, Row};
use crate::samples::build;
use crate::store::{Entry, Examples, word};
use crate::tasks::Tasks;
use crate::terms;
use crate::tokenizer::ChatTokenizer;

/// Labelled examples.
#[derive(Clone, Debug, Default)]
pub struct PreparedDataset {
    /// Those of an epoch: by the weights of their sources, one may come several times or not at all.
    pub train: Examples,
    pub eval: Examples,
    pub report: PrepareReport,
}

/// How far the preparation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub phase: Phase,
    /// Bytes of files, as `total`.
    pub done: u64,
    pub total: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Looking for the data in the cache.
    Looking,
    /// Reading, rendering, tokenizing, labelling.
    Preparing,
}

/// A file with what is known of it beforehand.
pub(crate) struct Input {
    pub(crate) file: DataFile,
    pub(crate) layout: Layout,
    pub(crate) source: SourcePlan,
    filter: Option<Filter>,
}

/// Faulty rows that are told of in the end.
const FAULTS_SHOWN: usize = 10;

/// Reads, splits, renders, tokenizes, labels and audits the data of a plan. With `cache`, a directory, prepared data is
/// kept there and found again.
///
/// # Errors
/// Names file and row of what is wrong; also when the audit refuses the data, or nothing would be left to train on.
pub fn prepare(
    plan: &Plan,
    tokenizer: &ChatTokenizer,
    cache: Option<&Path>,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<PreparedDataset, DataError> {
    let (inputs, skipped) = inputs(plan)?;
    let cache = cache.filter(|_| plan.data.cache);
    let key = cache.map(|_| key(plan, &inputs, tokenizer, progress)).transpose()?;
    if let Some((folder, key)) = cache.zip(key.as_deref())
        && let Some((tokens, index)) = cache::load(folder, key)?
    {
        let mut report = index.report;
        report.cached = true;
        return finish(plan, tokens, index.entries, index.train, index.eval, report);
    }
    let (sink, uncached) = match Sink::new(cache.zip(key.as_deref())) {
        Ok(sink) => (sink, None),
        // A home that can't be written is no reason not to train.
        Err(error) => (Sink::Memory(Vec::new()), Some(error.to_string())),
    };
    let terms = terms::read(&inputs)?;
    let mut collector = Collector::new(plan, &inputs, &terms, sink);
    (collector.report.skipped_files, collector.report.uncached) = (skipped, uncached);
    collector.report.slow_tokenizer = tokenizer.slow_because().map(str::to_owned);
    let workers = Workers::new(plan, tokenizer, &terms);
    let total: u64 = inputs.iter().map(|input| input.file.bytes).sum();
    let mut done = 0;
    for (number, input) in inputs.iter().enumerate() {
        let mut within = 0;
        progress(Progress { phase: Phase::Preparing, done, total });
        rows::read(&input.file, &mut |chunk| {
            if input.file.is_plain() {
                within += chunk.iter().map(RawRow::bytes).sum::<u64>();
            }
            for outcome in workers.work(chunk, number, input)? {
                collector.take(number, outcome)?;
            }
            progress(Progress { phase: Phase::Preparing, done: done + within.min(input.file.bytes), total });
            Ok(())
        })?;
        done += input.file.bytes;
    }
    progress(Progress { phase: Phase::Preparing, done: total, total });
    let (sink, index) = collector.finish()?;
    let tokens = sink.finish(&index)?;
    finish(plan, tokens, index.entries, index.train, index.eval, index.report)
}

/// What the audit's severities make of it.
fn finish(
    plan: &Plan,
    tokens: std::sync::Arc<crate::store::Tokens>,
    entries: Vec<Entry>,
    train: Vec<u32>,
    eval: Vec<u32>,
    report: PrepareReport,
) -> Result<PreparedDataset, DataError> {
    let findings = report.findings.of(Severity::Error, &plan.audit);
    if !findings.is_empty() {
        let hint = "each rule can be set to \"warn\" or \"off\" under [audit]";
        return Err(DataError::Audit { findings: format!("{}\n{hint}", findings.join("\n")) });
    }
    let entries: std::sync::Arc<[Entry]> = entries.into();
    Ok(PreparedDataset {
        train: Examples::new(tokens.clone(), entries.clone(), train),
        eval: Examples::new(tokens, entries, eval),
        report,
    })
}

/// Every file of every source, in the order of the plan.
fn inputs(plan: &Plan) -> Result<(Vec<Input>, Vec<PathBuf>), DataError> {
    let (mut inputs, mut skipped) = (Vec::new(), Vec::new());
    for source in plan.sources() {
        let filter = source.filter.as_deref().map(Filter::new).transpose()?;
        let read = filter.as_ref().map(Filter::columns).unwrap_or_default();
        let (files, other) = files::expand(&source.files)?;
        skipped.extend(other);
        for file in files {
            let layout = Layout::resolve(&file, &source, read)?;
            inputs.push(Input { file, layout, source: source.clone(), filter: filter.clone() });
        }
    }
    Ok((inputs, skipped))
}

/// The cache's key: everything that the examples depend on.
fn key(
    plan: &Plan,
    inputs: &[Input],
    tokenizer: &ChatTokenizer,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<String, DataError> {
    let mut data = plan.data.clone();
    // These choose among prepared examples, or where they are kept.
    (data.shuffle, data.cache, data.packing) = (true, true, tonfall_recipes::plan::Packing::Off);
    let declared = serde_json::to_vec(&(&data, &plan.source, &plan.template, plan.seed)).unwrap_or_default();
    let mut parts = vec![declared, tokenizer.fingerprint().to_vec()];
    let total: u64 = inputs.iter().map(|input| input.file.bytes).sum();
    let mut done = 0;
    for input in inputs {
        progress(Progress { phase: Phase::Looking, done, total });
        parts.push(input.file.path.to_string_lossy().into_owned().into_bytes());
        parts.push(cache::hash_file(&input.file.path)?.to_vec());
        done += input.file.bytes;
    }
    Ok(cache::key(&parts.iter().map(Vec::as_slice).collect::<Vec<_>>()))
}

/// What became of a row.
struct Outcome {
    number: u64,
    result: Result<Option<Prepared>, RowFault>,
}

/// The examples of a row.
struct Prepared {
    group: Option<u64>,
    examples: Vec<PreparedExample>,
}

struct PreparedExample {
    labelled: Labelled,
    fingerprint: Fingerprint,
    findings: Vec<(AuditRule, String)>,
    /// Indexes of the terms that its answers use.
    terms: Vec<u32>,
}

/// Does what can be done to rows independently, on all threads.
struct Workers<'a> {
    options: LabelOptions,
    seed: u64,
    tasks: Tasks,
    terms: &'a Terms,
    /// One for each thread.
    tokenizers: Vec<ChatTokenizer>,
}

impl<'a> Workers<'a> {
    fn new(plan: &Plan, tokenizer: &ChatTokenizer, terms: &'a Terms) -> Self {
        let threads = rayon::current_num_threads().max(1);
        Self {
            options: LabelOptions::from(&plan.data),
            seed: plan.seed,
            tasks: Tasks::new(&plan.template),
            terms,
            tokenizers: (0..threads).map(|_| tokenizer.for_thread()).collect(),
        }
    }

    /// The rows of a chunk, in order.
    fn work(&self, chunk: Vec<RawRow>, file: usize, input: &Input) -> Result<Vec<Outcome>, DataError> {
        let parsed: Vec<(u64, Result<Row, RowFault>)> =
            chunk.into_par_iter().map(|row| (row.number, row.parse())).collect();
        let kept = match &input.filter {
            Some(filter) => {
                let rows: Vec<Option<&Row>> = parsed.iter().map(|(_, row)| row.as_ref().ok()).collect();
                filter.keep(&input.file.path, &rows)?
            }
            None => vec![true; parsed.len()],
        };
        let outcomes = parsed.into_par_iter().zip(kept).map(|((number, row), kept)| {
            let result = match row {
                Ok(_) if !kept => Ok(None),
                Ok(row) => self.row(&row, number, file, input).map(Some),
                Err(fault) => Err(fault),
            };
            Outcome { number, result }
        });
        Ok(outcomes.collect())
    }

    fn row(&self, row: &Row, number: u64, file: usize, input: &Input) -> Result<Prepared, RowFault> {
        let tokenizer = &self.tokenizers[rayon::current_thread_index().unwrap_or(0) % self.tokenizers.len()];
        let hash = |value: &dyn Fn(&mut DefaultHasher)| {
            let mut hasher = DefaultHasher::new();
            value(&mut hasher);
            hasher.finish()
        };
        let key = hash(&|hasher| (self.seed, file, number).hash(hasher));
        let built = build(row, &input.layout, &input.source, &self.tasks, key)?;
        let own_terms = input.layout.format.format == DataFormat::Terminology;
        let examples = built.samples.iter().map(|sample| {
            let said = texts::texts(sample);
            let mut findings = texts::inspect(sample, input.source.language.as_deref());
            let answers = said.iter().filter(|(speaker, _)| *speaker == "assistant" || *speaker == "document");
            let mut used: Vec<u32> = answers.flat_map(|(_, text)| self.terms.used(text)).collect();
            used.sort_unstable();
            used.dedup();
            // A task about a term may name the forbidden one.
            let mut forbidden = used.iter().filter_map(|index| {
                let wanted = &self.terms.wanted[*index as usize];
                Some((&wanted.term, wanted.instead.as_ref()?))
            });
            if let (false, Some((term, instead))) = (own_terms, forbidden.next()) {
                let detail = format!("an answer says \"{term}\"; the term is \"{instead}\"");
                findings.push((AuditRule::ForbiddenTerm, detail));
            }
            Ok(PreparedExample {
                labelled: mask::label_sample(sample, tokenizer, self.options)?,
                fingerprint: fingerprint(said.iter().filter(|(who, _)| *who != "system").map(|(_, text)| *text)),
                findings,
                terms: used,
            })
        });
        let examples = examples.collect::<Result<_, RowFault>>()?;
        Ok(Prepared { group: built.group.map(|group| hash(&|hasher| group.hash(hasher))), examples })
    }
}

/// Decides over labelled rows, in order, and counts.
struct Collector<'a> {
    plan: &'a Plan,
    inputs: &'a [Input],
    terms: &'a Terms,
    sink: Sink,
    report: PrepareReport,
    entries: Vec<Entry>,
    members: Vec<Member>,
    fingerprints: Vec<Fingerprint>,
    used: Vec<bool>,
    faulty: u64,
    /// File, row and tokens of the first example that is too long, and how many there are.
    too_long: Option<(usize, u64, usize, usize)>,
    position: u64,
}

impl<'a> Collector<'a> {
    fn new(plan: &'a Plan, inputs: &'a [Input], terms: &'a Terms, sink: Sink) -> Self {
        let files = inputs.iter().map(|input| FileReport {
            path: input.file.path.clone(),
            format: input.layout.format.name.to_owned(),
            unused_columns: input.layout.unused.clone(),
            ..FileReport::default()
        });
        Self {
            plan,
            inputs,
            terms,
            sink,
            report: PrepareReport { files: files.collect(), ..PrepareReport::default() },
            entries: Vec::new(),
            members: Vec::new(),
            fingerprints: Vec::new(),
            used: vec![false; terms.wanted.len()],
            faulty: 0,
            too_long: None,
            position: 0,
        }
    }

    fn path(&self, file: usize) -> PathBuf {
        self.inputs[file].file.path.clone()
    }

    fn take(&mut self, file: usize, Outcome { number, result }: Outcome) -> Result<(), DataError> {
        self.report.rows += 1;
        self.report.files[file].rows += 1;
        match result {
            Err(fault) => return self.fault(file, number, fault),
            Ok(None) => self.report.files[file].filtered += 1,
            Ok(Some(prepared)) => {
                for example in prepared.examples {
                    self.example(file, number, prepared.group, example)?;
                }
            }
        }
        Ok(())
    }

    fn fault(&mut self, file: usize, number: u64, fault: RowFault) -> Result<(), DataError> {
        let error = DataError::row(&self.inputs[file].file.path, number, fault);
        let limit = self.plan.data.max_bad_rows;
        if limit == 0 {
            return Err(error);
        }
        self.faulty += 1;
        self.report.files[file].faulty += 1;
        if self.report.faults.len() < FAULTS_SHOWN {
            self.report.faults.push(error.to_string());
        }
        if self.faulty > limit {
            let rows = std::mem::take(&mut self.report.faults);
            return Err(DataError::BadRows { count: self.faulty, limit, rows });
        }
        Ok(())
    }

    fn example(
        &mut self,
        file: usize,
        number: u64,
        group: Option<u64>,
        example: PreparedExample,
    ) -> Result<(), DataError> {
        let PreparedExample { mut labelled, fingerprint, findings, terms } = example;
        let (path, limit) = (self.path(file), self.plan.data.max_seq_len);
        for (rule, detail) in findings {
            self.report.findings.add(rule, &path, number, detail);
        }
        let tokens = labelled.input_ids.len();
        if trained(&labelled) == 0 {
            self.report.findings.add(AuditRule::NoTrainedToken, &path, number, "nothing in it is an answer to learn");
            self.leave_out("nothing in them is trained");
            return Ok(());
        }
        if tokens > limit {
            match self.plan.data.overflow {
                Overflow::Error => {
                    self.too_long.get_or_insert((file, number, tokens, 0)).3 += 1;
                    return Ok(());
                }
                Overflow::Drop => {
                    self.leave_out("longer than data.max_seq_len");
                    return Ok(());
                }
                Overflow::Truncate => {
                    labelled.input_ids.truncate(limit);
                    labelled.labels.truncate(limit);
                    if trained(&labelled) == 0 {
                        self.leave_out("cut before the first trained token");
                        return Ok(());
                    }
                    let detail = format!("{tokens} tokens cut to {limit}");
                    self.report.findings.add(AuditRule::Truncated, &path, number, detail);
                    self.report.truncated += 1;
                }
            }
        }
        if labelled.unterminated > 0 {
            let detail = format!("{} answers are not closed by an end token", labelled.unterminated);
            self.report.findings.add(AuditRule::NoEndToken, &path, number, detail);
            self.report.unterminated += 1;
        }
        for term in terms {
            self.used[term as usize] = true;
        }
        let (tokens, trained) = (labelled.input_ids.len() as u32, trained(&labelled) as u32);
        let words: Vec<u32> =
            labelled.input_ids.iter().zip(&labelled.labels).map(|(id, label)| word(*id, *label)).collect();
        self.sink.push(&words)?;
        self.entries.push(Entry { start: self.position, tokens, trained, file: file as u32, row: number });
        self.position += u64::from(tokens);
        let source = &self.inputs[file].source;
        self.members.push(Member {
            eval: source.split == Split::Eval,
            weight: source.weight,
            // Everything that comes of one row stays on one side.
            unit: group.unwrap_or_else(|| {
                let mut hasher = DefaultHasher::new();
                (file, number).hash(&mut hasher);
                hasher.finish()
            }),
        });
        self.fingerprints.push(fingerprint);
        let report = &mut self.report;
        let counts = &mut report.files[file];
        counts.kept += 1;
        counts.tokens += u64::from(tokens);
        counts.trained_tokens += u64::from(trained);
        report.tokens += u64::from(tokens);
        report.trained_tokens += u64::from(trained);
        report.longest = report.longest.max(u64::from(tokens));
        *report.lengths.entry(u64::from(tokens.next_power_of_two())).or_default() += 1;
        report.straddling += labelled.straddling as u64;
        report.thoughts_left_out += labelled.thoughts_left_out as u64;
        Ok(())
    }

    fn leave_out(&mut self, reason: &str) {
        *self.report.dropped.entry(reason.to_owned()).or_default() += 1;
    }

    /// Splits, weighs and looks at everything together.
    fn finish(mut self) -> Result<(Sink, Index), DataError> {
        if let Some((file, row, tokens, count)) = self.too_long {
            let (limit, rows) = (self.plan.data.max_seq_len, self.report.rows as usize);
            return Err(DataError::TooLong { path: self.path(file), row, tokens, limit, count, rows });
        }
        if let Some(file) = self.report.files.iter().find(|file| file.rows == 0) {
            return Err(DataError::Empty { path: file.path.clone() });
        }
        let fraction = self.plan.data.eval_fraction;
        let order = order(&mut self.members, fraction, self.plan.seed)?;
        let wanted_eval = fraction > 0.0 || self.inputs.iter().any(|input| input.source.split == Split::Eval);
        let missing = [("train on", order.train.is_empty()), ("evaluate on", wanted_eval && order.eval.is_empty())];
        for (what, _) in missing.into_iter().filter(|(_, missing)| *missing) {
            // Findings that are errors say it better.
            if self.report.findings.of(Severity::Error, &self.plan.audit).is_empty() {
                let reasons: Vec<String> =
                    self.report.dropped.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
                let why = match reasons.is_empty() {
                    true => "no row gave an example".to_owned(),
                    false => format!("every row was dropped ({})", reasons.join(", ")),
                };
                return Err(DataError::NothingLeft { what, why });
            }
        }
        self.repeats();
        for (term, used) in self.terms.wanted.iter().zip(&self.used) {
            if !used && term.instead.is_none() {
                let (file, row) = term.place;
                let detail = format!("no trained answer says \"{}\"", term.term);
                self.report.findings.add(AuditRule::UnusedTerm, &self.inputs[file].file.path, row, detail);
            }
        }
        let eval = order.eval.len() as u64;
        (self.report.eval_examples, self.report.train_examples) = (eval, self.entries.len() as u64 - eval);
        self.report.epoch_examples = order.train.len() as u64;
        self.report.not_compared = self.fingerprints.len().saturating_sub(duplicates::COMPARED) as u64;
        let index = Index { entries: self.entries, train: order.train, eval: order.eval, report: self.report };
        Ok((self.sink, index))
    }

    /// Examples that repeat others.
    fn repeats(&mut self) {
        for repeat in duplicates::repeats(&self.fingerprints) {
            let (entry, of) = (self.entries[repeat.example], self.entries[repeat.of]);
            let (ours, theirs) = (&self.members[repeat.example], &self.members[repeat.of]);
            let rule = match (ours.eval, theirs.eval, repeat.exact) {
                (true, true, _) => continue,
                (false, false, true) => AuditRule::Duplicates,
                (false, false, false) => AuditRule::NearDuplicates,
                _ => AuditRule::Leakage,
            };
            let how = if repeat.exact { "the same as" } else { "almost the same as" };
            let detail = format!("{how} {}:{}", self.path(of.file as usize).display(), of.row);
            let path = self.path(entry.file as usize);
            self.report.findings.add(rule, &path, entry.row, detail);
        }
    }
}

/// Targets after the shift.
fn trained(labelled: &Labelled) -> usize {
    labelled.labels.iter().skip(1).filter(|label| **label != IGNORED).count()
}
