//! The results of a run.
//!
//! Responsible for: a run's evaluations, checkpoints and exports, and their events.
//! Must not depend on: when they are due.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use tonfall_adapters::export::{self, Artifact, ExportSettings, GgufTypes, Importance, RenderChat, Trained};
use tonfall_adapters::peft;
use tonfall_kernels::release_idle;
use tonfall_runs::checkpoint_dir::{CheckpointWriter, mark_best};
use tonfall_runs::events::{EventKind, Phase};

use super::{Exported, Run, progress};
use crate::calibrate;
use crate::chat_renderer::chat_renderer;
use crate::checkpoint_files;
use crate::error::TrainError;
use crate::eval_suite::{answer_all, losses, total};
use crate::evaluate::{self, EvalReport};
use crate::generation::{self, Work};
use crate::lora;

impl Run<'_> {
    /// Measures the loss on the eval split and, if `generations`, the held-out prompts.
    pub(super) fn evaluate(&mut self, generations: bool) -> Result<EvalReport, TrainError> {
        if self.job.record.is_none() {
            return Ok(EvalReport::default());
        }
        let plan = self.job.plan;
        let size = self.choice.micro_batch_size;
        let mut evaluating = progress(&mut self.job.record, Phase::Evaluating);
        let loss = total(&losses(&self.model, true, &self.job.data.eval, size, &mut evaluating)?);
        drop(evaluating);
        let mut report = EvalReport {
            loss: loss.map(|(loss, _)| loss),
            tokens: loss.map_or(0, |(_, tokens)| tokens),
            ..EvalReport::default()
        };
        if generations && !self.job.prompts.is_empty() {
            let slots = self.choice.estimate.slots;
            let mut generating = progress(&mut self.job.record, Phase::Generating);
            let (model, tokenizer, prompts) = (&self.model, self.job.tokenizer, self.job.prompts);
            let context = model.description.max_position_embeddings;
            let answers = answer_all(
                tokenizer,
                prompts,
                context,
                plan.evaluation.max_new_tokens,
                |prompts, stop_ids, sampling| {
                    let work = Work { prompts, stop_ids, sampling };
                    generation::answers(model, true, work, slots, &mut generating)
                },
            )?;
            drop(generating);
            let (counts, samples) = evaluate::adherence(prompts, answers)?;
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

    /// The importance matrix of the trained model, if the plan calibrates its exports.
    fn calibration(&mut self, notices: &mut Vec<String>) -> Result<Option<Importance>, TrainError> {
        let plan = self.job.plan;
        if !plan.export.calibrate {
            return Ok(None);
        }
        let texts = match self.job.data.eval.is_empty() {
            false => calibrate::calibration_examples(&self.job.data.eval)?,
            true => {
                let slots = self.choice.estimate.slots;
                let mut generating = progress(&mut self.job.record, Phase::Generating);
                let limit = plan.evaluation.max_new_tokens;
                calibrate::answered(
                    &self.model,
                    self.job.tokenizer,
                    self.job.prompts,
                    limit,
                    |_| Ok(slots),
                    &mut generating,
                )?
            }
        };
        let mut evaluating = progress(&mut self.job.record, Phase::Evaluating);
        let mut importance = calibrate::importance(&self.model, &texts.sequences, true, &mut evaluating)?;
        drop(evaluating);
        importance.datasets = vec![format!("held-out texts of {}", plan.name)];
        notices.push(format!("calibrated on held-out texts: {texts}"));
        Ok(Some(importance))
    }

    /// Writes the exports of the plan. `after` is the last evaluation.
    pub(super) fn export(
        &mut self,
        after: &EvalReport,
        notices: &mut Vec<String>,
    ) -> Result<Vec<Exported>, TrainError> {
        if self.job.record.is_none() {
            return Ok(Vec::new());
        }
        let importance = self.calibration(notices)?;
        let Some(record) = &self.job.record else { return Ok(Vec::new()) };
        release_idle();
        let exports = record.run.exports();
        let adapter = self.adapter.clone().map(|config| lora::export(&self.model, config)).transpose()?;
        let params: BTreeMap<_, _> = self.model.params.iter().map(|param| (param.name.as_str(), param)).collect();
        let values = |name: &str| match params.get(name) {
            Some(param) => Ok(lora::values(&param.value)?),
            None => Ok(Vec::new()),
        };
        let trained = match &adapter {
            Some(adapter) => Trained::Adapter(adapter),
            None => Trained::Full(&values),
        };
        let mut lineage = self.job.lineage.to_vec();
        lineage.push(("step".to_owned(), self.state.step.to_string()));
        if let Some(loss) = after.loss {
            lineage.push(("eval_loss".to_owned(), format!("{loss:.6}")));
        }
        let (base, chat) = (self.job.base, self.job.chat);
        let renderer = chat_renderer(self.job.tokenizer);
        let render_chat = self.job.tokenizer.template().map(|_| &renderer as &RenderChat<'_>);
        let artifact = Artifact { name: &self.job.plan.name, base, trained, chat, lineage: &lineage, render_chat };
        let mut written = Vec::new();
        let known = "a test compares the names with the schema";
        let types = self.job.plan.export.types.iter();
        let types = types.map(|name| GgufTypes::find(name).unwrap_or_else(|| unreachable!("{known}"))).collect();
        let settings = ExportSettings { types, importance, ..ExportSettings::default() };
        for name in &self.job.plan.export.to {
            let export = export::find(name).unwrap_or_else(|| unreachable!("{known}"));
            let Some(directory) = export.directory(adapter.is_none()) else { continue };
            let path = exports.join(directory);
            let mut exporting = progress(&mut self.job.record, Phase::Merging);
            let report = export.run(&artifact, &settings, &path, &mut |done, total| {
                exporting(done, total);
                ControlFlow::Continue(())
            })?;
            drop(exporting);
            notices.extend(report.notices);
            written.push(Exported { name: export.name, path });
        }
        Ok(written)
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
