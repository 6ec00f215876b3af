//! The results of a run.
//!
//! Responsible for: a run's evaluations, checkpoints and exports, and their events.
//! Must not depend on: when they are due.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use tonfall_adapters::merge::{MergeOptions, merge};
use tonfall_adapters::peft;
use tonfall_adapters::save_model::{SaveOptions, save_model};
use tonfall_kernels::release_idle;
use tonfall_runs::checkpoint_dir::{CheckpointWriter, mark_best};
use tonfall_runs::events::{EventKind, Phase};

use super::{Run, progress};
use crate::checkpoint_files;
use crate::error::TrainError;
use crate::evaluate::{self, EvalReport};
use crate::lora;

/// Maximum size of one file of a saved model.
const MAX_SHARD_BYTES: u64 = 5_000_000_000;

impl Run<'_> {
    /// Measures the loss on the eval split and, if `generations`, the held-out prompts.
    pub(super) fn evaluate(&mut self, generations: bool) -> Result<EvalReport, TrainError> {
        if self.job.record.is_none() {
            return Ok(EvalReport::default());
        }
        let plan = self.job.plan;
        let size = self.choice.micro_batch_size;
        let mut evaluating = progress(&mut self.job.record, Phase::Evaluating);
        let loss = evaluate::loss(&self.model, &self.job.data.eval, size, &mut evaluating)?;
        drop(evaluating);
        let mut report = EvalReport {
            loss: loss.map(|(loss, _)| loss),
            tokens: loss.map_or(0, |(_, tokens)| tokens),
            ..EvalReport::default()
        };
        if generations && !self.job.prompts.is_empty() {
            let mut generating = progress(&mut self.job.record, Phase::Generating);
            let limit = plan.evaluation.max_new_tokens;
            let (counts, samples) =
                evaluate::adherence(&self.model, self.job.tokenizer, self.job.prompts, limit, &mut generating)?;
            drop(generating);
            (report.adherence, report.samples) = (Some(counts), samples);
        }
        let step = self.state.step;
        if let Some((loss, tokens)) = loss {
            self.event(EventKind::Eval { step, loss, tokens })?;
            if self.state.best.is_none_or(|(best, _)| loss < best) {
                self.state.best = Some((loss, step));
            }
        }
        for sample in report.samples.clone() {
            self.event(EventKind::Sample {
                step,
                prompt: sample.prompt,
                text: sample.text,
                expected: sample.expected,
                missing: sample.missing,
                violations: sample.violations,
            })?;
        }
        Ok(report)
    }

    /// Writes a checkpoint of this step, unless it exists.
    pub(super) fn save(&mut self) -> Result<(), TrainError> {
        let step = self.state.step;
        if self.saved_step == Some(step) {
            return Ok(());
        }
        drop(progress(&mut self.job.record, Phase::Saving));
        let Some(record) = &self.job.record else { return Ok(()) };
        release_idle();
        let writer = CheckpointWriter::create(record.run, step)?;
        checkpoint_files::write(writer.dir(), &self.model.params, &self.optimizer, &self.state)?;
        if let Some(config) = &self.adapter {
            peft::write_files(writer.dir(), &lora::export(&self.model, config.clone())?)?;
        }
        let best = self.is_best();
        let path = writer.publish(best, self.job.plan.training.keep_checkpoints)?;
        self.saved_step = Some(step);
        self.event(EventKind::Checkpoint { step, path: file_name(&path) })
    }

    /// Whether the evaluation of this step is the best so far.
    pub(super) fn is_best(&self) -> bool {
        self.state.best.is_some_and(|(_, best)| best == self.state.step)
    }

    /// Sets `best` to the checkpoint of this step, if an evaluation after the checkpoint was the best.
    pub(super) fn mark_best(&self) -> Result<(), TrainError> {
        match &self.job.record {
            Some(record) if self.is_best() && self.saved_step == Some(self.state.step) => {
                Ok(mark_best(record.run, self.state.step, self.job.plan.training.keep_checkpoints)?)
            }
            _ => Ok(()),
        }
    }

    /// Writes the exports of the plan, and reads them back.
    pub(super) fn export(
        &mut self,
        notices: &mut Vec<String>,
    ) -> Result<(Option<PathBuf>, Option<PathBuf>), TrainError> {
        let Some(record) = &self.job.record else { return Ok((None, None)) };
        release_idle();
        let (plan, exports) = (self.job.plan, record.run.exports());
        let Some(config) = self.adapter.clone() else {
            let dir = exports.join("model");
            let base = self.job.base;
            let dtype = base.dense_format();
            let options = SaveOptions { dtype, max_shard_bytes: MAX_SHARD_BYTES };
            let params: BTreeMap<_, _> = self.model.params.iter().map(|param| (param.name.as_str(), param)).collect();
            let mut values = |name: &str| match params.get(name) {
                Some(param) => Ok(lora::values(&param.value)?),
                None => Ok(Vec::new()),
            };
            let side = base.side_files(Some(dtype), self.job.chat)?;
            save_model(&dir, base.description(), &options, &side.files, &mut values)?;
            notices.extend(side.notices);
            return Ok((Some(dir), None));
        };
        let adapter = lora::export(&self.model, config)?;
        let mut written = (None, None);
        if plan.export.adapter {
            let dir = exports.join("adapter");
            peft::write(&dir, &adapter, &self.job.base.adapter_files(self.job.chat)?)?;
            written.0 = Some(dir);
        }
        if plan.export.merged {
            let dir = exports.join("merged");
            let mut merging = progress(&mut self.job.record, Phase::Merging);
            let options = MergeOptions { chat: self.job.chat.clone(), ..MergeOptions::default() };
            let report = merge(self.job.base, &adapter, &dir, &options, &mut |done, total| {
                merging(done, total);
                ControlFlow::Continue(())
            })?;
            drop(merging);
            notices.extend(report.notices);
            written.1 = Some(dir);
        }
        Ok(written)
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
