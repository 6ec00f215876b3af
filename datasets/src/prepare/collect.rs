//! What is decided over labelled rows, in their order.
//!
//! Responsible for: `overflow`, `max_bad_rows`, counting everything that happens to a row, and what is told of all rows
//! together. Who gets which side of the split and how often is decided in [`crate::prepare::order`].
//! Must not depend on: tokenizers, threads.
//!
//! Memory holds 16 bytes for each example, 36 more for each of the first two million long ones, and for a moment 10 for their
//! order. Tokens go to disk as they come.

use std::path::{Path, PathBuf};

use tonfall_recipes::Plan;
use tonfall_recipes::plan::{AuditRule, DataFormat, Overflow, Severity, Split};

use crate::audit::Findings;
use crate::audit::duplicates::{Fingerprint, Fingerprints, Repeat, fingerprint as fingerprint_of};
use crate::audit::terms::{Role, Terms};
use crate::error::{DataError, RowFault};
use crate::formats::entry::NoTask;
use crate::label::mask::{IGNORED, Labelled};
use crate::prepare::Input;
use crate::prepare::batch::Source;
use crate::prepare::cache::{Index, Sink};
use crate::prepare::order::{Order, Share, order};
use crate::prepare::report::{FileReport, PrepareReport};
use crate::prepare::store::{Columns, Entry, word};
use crate::stable_hash::stable_hash;

/// Faulty rows that are told of in the end.
const FAULTS_SHOWN: usize = 10;

/// What became of a row.
pub(crate) struct Outcome {
    pub(crate) number: u64,
    pub(crate) result: Result<Option<Prepared>, RowFault>,
}

/// The examples of a row.
pub(crate) struct Prepared {
    pub(crate) group: Option<u64>,
    pub(crate) examples: Vec<PreparedExample>,
    /// Why a row of a term base has none.
    pub(crate) no_task: Option<NoTask>,
    /// Of the row itself.
    pub(crate) findings: Vec<(AuditRule, String)>,
}

pub(crate) struct PreparedExample {
    pub(crate) labelled: Labelled,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) findings: Vec<(AuditRule, String)>,
    /// Indexes of the terms that its answers use.
    pub(crate) terms: Vec<usize>,
}

/// Decides over labelled rows, in order, and counts.
pub(crate) struct Collector<'a> {
    plan: &'a Plan,
    inputs: &'a [Input],
    terms: &'a Terms,
    sink: Sink,
    pub(crate) report: PrepareReport,
    /// Of each example: what it stays together with in the split.
    units: Vec<u64>,
    fingerprints: Fingerprints,
    used: Vec<bool>,
    /// Of each file: the first row of a term base that gives no task although the recipe asks for its language.
    no_task: Vec<Option<(u64, NoTask)>>,
    faulty: u64,
    /// File, row and tokens of the first example that is too long, and how many there are.
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
                    self.leave_out(no_task.reason());
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
                Overflow::Split if self.inputs[file].layout.format.format == DataFormat::Text => {
                    self.report.split += 1;
                    for piece in split(labelled, limit) {
                        let fingerprint = tokens_fingerprint(&piece.input_ids);
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
        if !labelled.tools_left_out.is_empty() {
            let detail = format!("the chat template leaves out {}", labelled.tools_left_out.join(", "));
            self.report.findings.add(AuditRule::ToolsLeftOut, &path, number, detail);
        }
        for term in terms {
            self.used[term] = true;
        }
        let (tokens, trained) = (labelled.input_ids.len() as u32, trained(&labelled) as u32);
        let words: Vec<u32> =
            labelled.input_ids.iter().zip(&labelled.labels).map(|(id, label)| word(*id, *label)).collect();
        self.sink.push(&words, Entry::new(&words, self.position, Source { file, row: number }))?;
        self.position += u64::from(tokens);
        // Everything that comes of one row stays on one side.
        self.units.push(group.unwrap_or_else(|| stable_hash((file as u64, number))));
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
        let fraction = self.plan.data.eval_fraction;
        let shares: Vec<Share> = self.report.files.iter().zip(self.inputs).map(share).collect();
        let Order { mut train, eval, held_out } = order(&self.units, &shares, fraction, self.plan.seed)?;
        self.units = Vec::new();
        let wanted_eval = fraction > 0.0 || shares.iter().any(|share| share.eval);
        let missing = [("train on", train.is_empty()), ("evaluate on", wanted_eval && eval.is_empty())];
        for (what, _) in missing.into_iter().filter(|(_, missing)| *missing) {
            // Findings that are errors say it better.
            if self.report.findings.of(Severity::Error, &self.plan.audit).is_empty() {
                return Err(DataError::NothingLeft { what, why: self.why_nothing() });
            }
        }
        for (term, _) in self.terms.wanted.iter().zip(&self.used).filter(|(_, used)| !**used) {
            match term.role {
                Role::Preferred => {
                    let (file, row) = term.place;
                    let detail = format!("no trained answer says \"{}\"", term.term);
                    self.report.findings.add(AuditRule::UnusedTerm, &self.inputs[file].file.path, row, detail);
                }
                Role::Defined => self.report.defined_only += 1,
                Role::Forbidden(_) => {}
            }
        }
        self.report.long_terms = self.terms.long;
        let Self { mut report, fingerprints, sink, inputs, .. } = self;
        (report.eval_examples, report.train_examples) = (eval.len() as u64, (held_out.len() - eval.len()) as u64);
        (report.epoch_examples, report.not_compared) = (train.len() as u64, fingerprints.not_compared);
        let closed = sink.close()?;
        let paths: Vec<&Path> = inputs.iter().map(|input| input.file.path.as_path()).collect();
        repeats(fingerprints, &closed.entries, &held_out, &paths, &mut report.findings);
        let index = Index { epoch: train.len(), report };
        train.extend(eval);
        Ok((closed.finish(train, &index)?, index))
    }

    /// A file without rows is an error if the recipe names it or no other file has rows, otherwise a note.
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

    fn why_nothing(&self) -> String {
        let reasons: Vec<String> =
            self.report.dropped.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        match reasons.is_empty() {
            true => "no row gave an example".to_owned(),
            false => format!("every row was dropped ({})", reasons.join(", ")),
        }
    }
}

/// How many examples a file gave, and what becomes of them.
fn share((report, input): (&FileReport, &Input)) -> Share {
    let source = &input.source;
    Share { examples: report.kept as usize, eval: source.split == Split::Eval, weight: source.weight }
}

/// Examples that repeat others.
fn repeats(fingerprints: Fingerprints, entries: &[Entry], held_out: &[bool], paths: &[&Path], findings: &mut Findings) {
    for Repeat { example, of, exact } in fingerprints.repeats() {
        let (example, of) = (example as usize, of as usize);
        let rule = match (held_out[example], held_out[of], exact) {
            (true, true, _) => continue,
            (false, false, true) => AuditRule::Duplicates,
            (false, false, false) => AuditRule::NearDuplicates,
            _ => AuditRule::Leakage,
        };
        let how = if exact { "the same as" } else { "almost the same as" };
        let (entry, of) = (entries[example], entries[of]);
        let detail = format!("{how} {}:{}", paths[of.file as usize].display(), of.row);
        findings.add(rule, paths[entry.file as usize], entry.row, detail);
    }
}

/// Pieces of at most `limit` tokens. Each begins with the last token of the one before it, so that every token but the
/// first is predicted once.
fn split(text: Labelled, limit: usize) -> Vec<Labelled> {
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

/// The fingerprint of a piece of a text.
fn tokens_fingerprint(ids: &[u32]) -> Fingerprint {
    let words: Vec<String> = ids.iter().map(u32::to_string).collect();
    fingerprint_of(words.iter().map(String::as_str))
}

/// Targets after the shift.
fn trained(labelled: &Labelled) -> usize {
    labelled.labels.iter().skip(1).filter(|label| **label != IGNORED).count()
}
