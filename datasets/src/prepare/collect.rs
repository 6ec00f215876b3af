//! Collects labelled rows in the order of the files, and decides which examples are kept.
//!
//! Responsible for: `overflow`, `max_bad_rows`, audit rules that drop examples, and all counts of the report.
//! [`crate::prepare::order`] decides the split and the weights, [`crate::prepare::similar`] handles repeats.
//! Must not depend on: tokenizers, threads.
//!
//! Memory: 16 bytes for each example, 36 more for each of the first two million long examples. At the end, 11 bytes for
//! each example's order and 13 for each repeat. Tokens are written to disk immediately.

use std::path::PathBuf;

use tonfall_recipes::Plan;
use tonfall_recipes::plan::{AuditRule, DataFormat, Overflow, Severity, Split, SplitBy};

use crate::audit::duplicates::{Fingerprint, Fingerprints};
use crate::audit::terms::{Role, Terms};
use crate::error::{DataError, RowFault};
use crate::formats::entry::NoTask;
use crate::label::mask::{IGNORED, Labelled};
use crate::prepare::Input;
use crate::prepare::batch::Source;
use crate::prepare::cache::{Index, Sink};
use crate::prepare::order::{Order, Share, order, split};
use crate::prepare::report::{BY_RULE, FileReport, PrepareReport};
use crate::prepare::similar;
use crate::prepare::store::{Columns, Entry, word};
use crate::stable_hash::stable_hash;

/// Number of faulty rows that the report quotes.
const FAULTS_SHOWN: usize = 10;

/// The result of a row.
pub(crate) struct Outcome {
    pub(crate) number: u64,
    pub(crate) result: Result<Option<Prepared>, RowFault>,
}

/// The examples of a row.
pub(crate) struct Prepared {
    pub(crate) group: Option<u64>,
    pub(crate) examples: Vec<PreparedExample>,
    /// Why a row of a term base has no examples.
    pub(crate) no_task: Option<NoTask>,
    /// Findings about the row as a whole.
    pub(crate) findings: Vec<(AuditRule, String)>,
}

pub(crate) struct PreparedExample {
    pub(crate) labelled: Labelled,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) findings: Vec<(AuditRule, String)>,
    /// Indexes of the terms in its trained answers.
    pub(crate) terms: Vec<usize>,
}

/// Takes labelled rows in order, keeps or drops their examples, and counts.
pub(crate) struct Collector<'a> {
    plan: &'a Plan,
    inputs: &'a [Input],
    terms: &'a Terms,
    sink: Sink,
    pub(crate) report: PrepareReport,
    /// For each example: its unit. Examples with the same unit stay on one side of the split.
    units: Vec<u64>,
    fingerprints: Fingerprints,
    used: Vec<bool>,
    /// For each file: the first term base row in the recipe's language that has no task.
    no_task: Vec<Option<(u64, NoTask)>>,
    faulty: u64,
    /// The first example that is too long (file, row, tokens), and the number of such examples.
    too_long: Option<(usize, u64, usize, usize)>,
    position: u64,
}

impl<'a> Collector<'a> {
    pub(crate) fn new(plan: &'a Plan, inputs: &'a [Input], terms: &'a Terms, sink: Sink) -> Self {
        let files = inputs.iter().map(|input| FileReport {
            path: input.file.path.clone(),
            format: input.layout.format.name.to_owned(),
            unused_columns: input.layout.unused.clone(),
            renamed: input.layout.renamed(),
            ..FileReport::default()
        });
        Self {
            plan,
            inputs,
            terms,
            sink,
            report: PrepareReport { files: files.collect(), ..PrepareReport::default() },
            units: Vec::new(),
            fingerprints: Fingerprints::default(),
            used: vec![false; terms.wanted.len()],
            no_task: vec![None; inputs.len()],
            faulty: 0,
            too_long: None,
            position: 0,
        }
    }

    fn path(&self, file: usize) -> PathBuf {
        self.inputs[file].file.path.clone()
    }

    pub(crate) fn take(&mut self, file: usize, Outcome { number, result }: Outcome) -> Result<(), DataError> {
        self.report.rows += 1;
        self.report.files[file].rows += 1;
        match result {
            Err(fault) => return self.fault(file, number, fault),
            Ok(None) => self.report.files[file].filtered += 1,
            Ok(Some(prepared)) => {
                let path = self.path(file);
                for (rule, detail) in prepared.findings {
                    self.report.findings.add(rule, &path, number, detail);
                }
                if let Some(no_task) = prepared.no_task {
                    leave_out(&mut self.report, no_task.reason());
                    if !matches!(no_task, NoTask::Foreign { .. }) {
                        self.no_task[file].get_or_insert((number, no_task));
                    }
                }
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
        let PreparedExample { mut labelled, fingerprint, mut findings, terms } = example;
        let (path, limit) = (self.path(file), self.plan.data.max_seq_len);
        let tokens = labelled.input_ids.len();
        if trained(&labelled) == 0 {
            findings.push((AuditRule::NoTrainedToken, "nothing in it is an answer to learn".to_owned()));
        }
        let dropping = |(rule, _): &(AuditRule, String)| self.plan.audit.severity(*rule) == Severity::Drop;
        let dropped_by = findings.iter().find(|finding| dropping(finding)).map(|(rule, _)| *rule);
        for (rule, detail) in findings {
            self.report.findings.add(rule, &path, number, detail);
        }
        if let Some(rule) = dropped_by {
            leave_out(&mut self.report, &by_rule(rule));
            return Ok(());
        }
        if trained(&labelled) == 0 {
            leave_out(&mut self.report, "nothing in them is trained");
            return Ok(());
        }
        if tokens > limit {
            match self.plan.data.overflow {
                Overflow::Split if self.inputs[file].layout.format.format == DataFormat::Text => {
                    self.report.split += 1;
                    for piece in pieces(labelled, limit) {
                        let fingerprint = Fingerprint::of_tokens(&piece);
                        let terms = terms.clone();
                        self.example(
                            file,
                            number,
                            group,
                            PreparedExample { labelled: piece, fingerprint, findings: Vec::new(), terms },
                        )?;
                    }
                    return Ok(());
                }
                Overflow::Error | Overflow::Split => {
                    self.too_long.get_or_insert((file, number, tokens, 0)).3 += 1;
                    return Ok(());
                }
                Overflow::Drop => {
                    leave_out(&mut self.report, "longer than data.max_seq_len");
                    return Ok(());
                }
                Overflow::Truncate => {
                    labelled.input_ids.truncate(limit);
                    labelled.labels.truncate(limit);
                    if trained(&labelled) == 0 {
                        leave_out(&mut self.report, "cut before the first trained token");
                        return Ok(());
                    }
                    let detail = format!("{tokens} tokens cut to {limit}");
                    self.report.findings.add(AuditRule::Truncated, &path, number, detail);
                    self.report.truncated += 1;
                }
            }
        }
        self.report.unterminated += u64::from(labelled.unterminated > 0);
        for term in terms {
            self.used[term] = true;
        }
        let words: Vec<u32> =
            labelled.input_ids.iter().zip(&labelled.labels).map(|(id, label)| word(*id, *label)).collect();
        self.sink.push(&words, Entry::new(&words, self.position, Source { file, row: number }))?;
        self.position += words.len() as u64;
        // All examples of a row stay on one side of the split.
        self.units.push(group.unwrap_or_else(|| stable_hash((file as u64, number))));
        self.fingerprints.push(fingerprint);
        let report = &mut self.report;
        report.files[file].kept += 1;
        report.straddling += labelled.straddling as u64;
        report.thoughts_left_out += labelled.thoughts_left_out as u64;
        Ok(())
    }

    /// Splits, applies the weights, and runs the audit rules that compare all examples.
    pub(crate) fn finish(mut self) -> Result<(Columns, Index), DataError> {
        if let Some((file, row, tokens, count)) = self.too_long {
            let (limit, rows) = (self.plan.data.max_seq_len, self.report.rows as usize);
            return Err(DataError::TooLong { path: self.path(file), row, tokens, limit, count, rows });
        }
        self.empty_files()?;
        for (file, no_task) in self.report.files.iter().zip(&self.no_task) {
            if let (0, Some((row, why))) = (file.kept, no_task) {
                let (path, why) = (file.path.clone(), why.to_string());
                return Err(DataError::NoTask { path, row: *row, why });
            }
        }
        let Self { plan, inputs, terms, sink, mut report, mut units, fingerprints, used, .. } = self;
        let (data, audit) = (&plan.data, &plan.audit);
        let shares: Vec<Share> = report.files.iter().zip(inputs).map(share).collect();
        report.not_compared = fingerprints.not_compared;
        let repeats = fingerprints.repeats();
        if data.eval_fraction > 0.0 && data.split_by == SplitBy::Similar {
            similar::join(&mut units, &repeats);
        }
        let held_out = split(&units, &shares, data.eval_fraction, data.split_by, plan.seed)?;
        drop(units);
        let closed = sink.close()?;
        let mut dropped = vec![false; held_out.len()];
        for found in similar::findings(&repeats, &held_out) {
            let (entry, of) = (closed.entries[found.example as usize], closed.entries[found.of as usize]);
            let path = |entry: Entry| &inputs[entry.file as usize].file.path;
            let how = if found.exact { "the same as" } else { "almost the same as" };
            let detail = format!("{how} {}:{}", path(of).display(), of.row);
            report.findings.add(found.rule, path(entry), entry.row, detail);
            let surplus = &mut dropped[found.surplus as usize];
            if audit.severity(found.rule) == Severity::Drop && !std::mem::replace(surplus, true) {
                leave_out(&mut report, &by_rule(found.rule));
            }
        }
        count(&mut report, &closed.entries, &dropped);
        let Order { mut train, eval } = order(&held_out, &dropped, &shares, plan.seed);
        let wanted_eval = data.eval_fraction > 0.0 || shares.iter().any(|share| share.eval);
        let missing = [("train on", train.is_empty()), ("evaluate on", wanted_eval && eval.is_empty())];
        for (what, _) in missing.into_iter().filter(|(_, missing)| *missing) {
            // Findings that are errors explain the cause better.
            if report.findings.of(Severity::Error, audit).is_empty() {
                return Err(DataError::NothingLeft { what, why: why_nothing(&report) });
            }
        }
        for (term, _) in terms.wanted.iter().zip(&used).filter(|(_, used)| !**used) {
            match term.role {
                Role::Preferred => {
                    let (file, row) = term.place;
                    let detail = format!("no trained answer says \"{}\"", term.term);
                    report.findings.add(AuditRule::UnusedTerm, &inputs[file].file.path, row, detail);
                }
                Role::Defined => report.defined_only += 1,
                Role::Forbidden(_) => {}
            }
        }
        report.long_terms = terms.long;
        report.eval_examples = eval.len() as u64;
        report.train_examples =
            held_out.iter().zip(&dropped).filter(|(eval, dropped)| !**eval && !**dropped).count() as u64;
        report.epoch_examples = train.len() as u64;
        let index = Index { epoch: train.len(), report };
        train.extend(eval);
        Ok((closed.finish(train, &index)?, index))
    }

    /// A file without rows is an error if the recipe names the file or if no file has rows. Otherwise it is reported.
    fn empty_files(&mut self) -> Result<(), DataError> {
        let nothing = self.report.rows == 0;
        for (file, input) in self.report.files.iter().zip(self.inputs).filter(|(file, _)| file.rows == 0) {
            if nothing || !input.file.found {
                return Err(DataError::Empty { path: file.path.clone() });
            }
            self.report.empty_files.push(file.path.clone());
        }
        Ok(())
    }
}

/// The reason in the report for examples that an audit rule drops.
fn by_rule(rule: AuditRule) -> String {
    format!("{BY_RULE}{}", crate::audit::name(rule))
}

fn leave_out(report: &mut PrepareReport, reason: &str) {
    *report.dropped.entry(reason.to_owned()).or_default() += 1;
}

fn why_nothing(report: &PrepareReport) -> String {
    let reasons: Vec<String> = report.dropped.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    match reasons.is_empty() {
        true => "no row gave an example".to_owned(),
        false => format!("every row was dropped ({})", reasons.join(", ")),
    }
}

/// The number of examples of a file, and how they are used.
fn share((report, input): (&FileReport, &Input)) -> Share {
    let source = &input.source;
    Share { examples: report.kept as usize, eval: source.split == Split::Eval, weight: source.weight }
}

/// Counts the tokens of the examples that are not dropped.
fn count(report: &mut PrepareReport, entries: &[Entry], dropped: &[bool]) {
    for (entry, dropped) in entries.iter().zip(dropped) {
        let (tokens, trained) = (u64::from(entry.tokens), u64::from(entry.trained));
        let file = &mut report.files[entry.file as usize];
        if *dropped {
            file.kept -= 1;
            continue;
        }
        file.tokens += tokens;
        file.trained_tokens += trained;
        report.tokens += tokens;
        report.trained_tokens += trained;
        report.longest = report.longest.max(tokens);
        *report.lengths.entry(tokens.next_power_of_two()).or_default() += 1;
    }
}

/// Splits a text into pieces of at most `limit` tokens. Each piece starts with the last token of the previous piece, so
/// every token except the first is predicted once.
fn pieces(text: Labelled, limit: usize) -> Vec<Labelled> {
    let step = limit.saturating_sub(1).max(1);
    let starts = (0..text.input_ids.len().saturating_sub(1)).step_by(step);
    let piece = |start: usize| {
        let range = start..(start + limit).min(text.input_ids.len());
        Labelled {
            input_ids: text.input_ids[range.clone()].to_vec(),
            labels: text.labels[range.clone()].to_vec(),
            unterminated: if range.end == text.input_ids.len() { text.unterminated } else { 0 },
            straddling: if start == 0 { text.straddling } else { 0 },
            ..Labelled::default()
        }
    };
    starts.map(piece).collect()
}

/// Number of tokens with loss, after the shift.
fn trained(labelled: &Labelled) -> usize {
    labelled.labels.iter().skip(1).filter(|label| **label != IGNORED).count()
}
