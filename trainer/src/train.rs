//! The training loop.
//!
//! Responsible for: the order of a run: load, evaluate, step, save checkpoints, evaluate, export.
//! Must not depend on: terminals, signals, command lines.

mod memory_fit;
mod results;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use burn::tensor::Tensor;
use tonfall_adapters::peft::{self, AdapterConfig};
use tonfall_adapters::{BaseModel, ChatSettings};
use tonfall_datasets::{Batch, ChatTokenizer, HeldOutPrompt, PreparedDataset, Sampler};
use tonfall_recipes::plan::{AdapterKind, Plan, Quantization, Recompute, Severity};
use tonfall_runs::events::{EventKind, EventLog, Lengths, Packing, Phase};
use tonfall_runs::run_dir::RunDir;

use crate::checkpoint_files::{self, TrainerState};
use crate::device::Compute;
use crate::error::TrainError;
use crate::estimate::{self, Choice, Workload};
use crate::evaluate::EvalReport;
use crate::flops;
use crate::group::Group;
use crate::lora;
use crate::memory;
use crate::micro_batch::{self, Activations, TrainingPass};
use crate::model::{Decoder, DropoutKey, Loader};
use crate::optimizer::Optimizer;
use crate::out_of_memory;
use crate::params::{GradientSums, StepReadback};
use crate::preflight::check_context;
use crate::run_length::RunLength;
use crate::schedule::LearningRate;

/// Minimum time between two progress events of one phase.
const PHASE_INTERVAL: Duration = Duration::from_secs(1);

const IDLE_OFFLOAD: &str = "`training.recompute = \"offload\"` is the same as \"on\" here: it needs a CUDA GPU";

/// The inputs of a run.
pub struct Job<'a> {
    pub compute: &'a Compute,
    pub plan: &'a Plan,
    pub base: &'a BaseModel,
    pub tokenizer: &'a ChatTokenizer,
    /// For the exports: the run's own chat template and the tokens that end a turn.
    pub chat: &'a ChatSettings,
    /// For the exports: where their content comes from; see [`tonfall_adapters::export::Artifact`].
    pub lineage: &'a [(String, String)],
    pub data: &'a PreparedDataset,
    pub prompts: &'a [HeldOutPrompt],
    /// The processes that train together.
    pub group: &'a mut Group,
    /// The log of the run, in the first process; `None` in the others.
    pub record: Option<Record<'a>>,
    /// A verified checkpoint of this run.
    pub resume_from: Option<PathBuf>,
    /// Returns the total bytes that the run may use, if known. Called before the run and before every optimizer step.
    /// [`Compute::memory`] returns the available bytes.
    pub memory: &'a dyn Fn() -> Option<u64>,
    /// Called after every optimizer step.
    pub stop: &'a dyn Fn() -> Option<StopReason>,
}

/// The log of a run, and the observer of its events.
pub struct Record<'a> {
    /// Created and locked by the caller.
    pub run: &'a RunDir,
    pub log: &'a mut EventLog,
    pub observe: &'a mut dyn FnMut(Observation<'_>),
}

impl Record<'_> {
    /// A failed append is ignored: if the disk can't store this event, it can't store the results either, and that
    /// error is returned.
    fn phase(&mut self, phase: Phase, done: u64, total: u64) {
        let kind = EventKind::Phase { phase, done, total };
        if self.log.append(kind.clone()).is_ok() {
            (self.observe)(Observation::Event(&kind));
        }
    }
}

/// Why a run stops before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The number of a signal.
    Signal(i32),
    /// The file `stop.request`.
    Requested,
}

/// A report from a run to its caller.
#[derive(Debug)]
pub enum Observation<'a> {
    /// An event that has just been written to the event log.
    Event(&'a EventKind),
    Progress {
        phase: Phase,
        done: u64,
        total: u64,
    },
}

/// The results of a run.
#[derive(Debug)]
pub struct Outcome {
    /// `Some` if the run was interrupted: its checkpoint is saved, and nothing is exported.
    pub stopped: Option<StopReason>,
    pub step: u64,
    pub total_steps: u64,
    pub seconds: f64,
    pub tokens: u64,
    pub before: Option<EvalReport>,
    pub after: Option<EvalReport>,
    pub exports: Vec<Exported>,
    /// Changes that the exports made to the base's files.
    pub notices: Vec<String>,
    pub peak_rss_bytes: Option<u64>,
    /// The highest use after a step of this attempt; `None` without an accelerator with its own memory.
    pub peak_accelerator_bytes: Option<u64>,
    /// The predicted peak memory: the accelerator's if there is one.
    pub predicted_bytes: u64,
    /// Rank of the adapter; `None` in full training.
    pub rank: Option<usize>,
}

/// An export that a run has written.
#[derive(Clone, Debug)]
pub struct Exported {
    /// As in [`tonfall_adapters::export::EXPORTS`].
    pub name: &'static str,
    pub path: PathBuf,
}

/// Trains according to the plan. All processes that train together call this. The first one evaluates, saves and
/// exports; the others wait for it in the next step.
///
/// # Errors
/// Any [`TrainError`]; the checkpoints written so far stay valid.
pub fn train(job: Job<'_>) -> Result<Outcome, TrainError> {
    out_of_memory::catch(|| whole(job))
}

fn whole(job: Job<'_>) -> Result<Outcome, TrainError> {
    let mut run = Run::start(job)?;
    if run.state.before.is_none() {
        let before = run.evaluate(true)?;
        run.state.before = Some(before);
    }
    let stopped = run.steps()?;
    let mut outcome = Outcome {
        stopped,
        step: run.state.step,
        total_steps: run.total_steps,
        seconds: run.state.seconds,
        tokens: run.state.tokens,
        before: run.state.before.clone(),
        after: None,
        exports: Vec::new(),
        notices: Vec::new(),
        peak_rss_bytes: None,
        peak_accelerator_bytes: run.peak_accelerator_bytes,
        predicted_bytes: run.choice.estimate.peak(),
        rank: run.adapter.as_ref().map(|config| config.r),
    };
    if stopped.is_none() {
        let after = run.evaluate(true)?;
        run.mark_best()?;
        outcome.exports = run.export(&after, &mut outcome.notices)?;
        run.finish(&after)?;
        outcome.after = Some(after);
    }
    outcome.peak_rss_bytes = memory::peak_rss();
    Ok(outcome)
}

struct Run<'a> {
    job: Job<'a>,
    model: Decoder,
    /// PEFT's configuration; `None` in full training.
    adapter: Option<AdapterConfig>,
    optimizer: Optimizer,
    sampler: Sampler,
    learning_rate: LearningRate,
    total_steps: u64,
    workload: Workload,
    choice: Choice,
    state: TrainerState,
    saved_step: Option<u64>,
    peak_accelerator_bytes: Option<u64>,
}

impl<'a> Run<'a> {
    fn start(mut job: Job<'a>) -> Result<Self, TrainError> {
        let (plan, data, compute) = (job.plan, job.data, job.compute);
        let device = &compute.device;
        check_context(data, job.base.description())?;
        let mut state = match &job.resume_from {
            Some(dir) => checkpoint_files::read_state(dir)?,
            None => TrainerState { processes: job.group.size(), ..TrainerState::default() },
        };
        if state.processes != job.group.size() {
            return Err(TrainError::Processes { made_by: state.processes, size: job.group.size() });
        }
        let adapter_dir = adapter_start(plan, job.resume_from.as_deref()).map(Path::to_owned);
        let workload = Workload::new(
            plan,
            job.base,
            data,
            (job.tokenizer, job.prompts),
            compute.kind(),
            job.group.size(),
            adapter_dir.as_deref(),
        )?;
        let size = state.micro_batch_size.unwrap_or(plan.training.micro_batch_size);
        let choice = workload.choose(size, workload.asked(), (job.memory)());
        let choice = workload.agreed(choice, job.group)?;
        state.micro_batch_size = Some(choice.micro_batch_size);
        let sampler = Sampler::new(&data.train, plan, job.group.size()).in_micro_batches_of(choice.micro_batch_size);
        let length = RunLength::of(plan, sampler.steps_per_epoch());
        if state.step > length.steps {
            return Err(TrainError::BeyondEnd { step: state.step, steps: length.steps });
        }

        let options = estimate::load_options(plan);
        let phase = match plan.quantization {
            Quantization::Nf4 if !options.trainable => Phase::Quantizing,
            _ => Phase::Loading,
        };
        let mut loading = progress(&mut job.record, phase);
        let mut model = Loader { base: job.base, options, compute, progress: &mut loading }.load()?;
        drop(loading);
        let adapter = match (plan.adapter.kind, &adapter_dir) {
            (AdapterKind::Full, _) => None,
            (AdapterKind::Lora, Some(path)) => {
                let adapter = peft::read(path)?;
                lora::attach_existing(&mut model, &adapter, plan.lora.dropout, device)?;
                Some(lora::config(&model, &plan.lora, Some(&adapter.config), job.base))
            }
            (AdapterKind::Lora, None) => {
                lora::attach_new(&mut model, &plan.lora, plan.seed, device)?;
                Some(lora::config(&model, &plan.lora, None, job.base))
            }
        };
        let mut optimizer = Optimizer::new(&model.params, &plan.training);
        if let Some(dir) = &job.resume_from {
            checkpoint_files::read_tensors(dir, &state, &mut model.params, &mut optimizer, device)?;
        }
        let saved_step = job.resume_from.as_ref().map(|_| state.step);
        let mut run = Self {
            job,
            model,
            adapter,
            optimizer,
            sampler,
            learning_rate: length.learning_rate(plan),
            total_steps: length.steps,
            workload,
            choice,
            state,
            saved_step,
            peak_accelerator_bytes: None,
        };
        compute.expect_buffer(run.choice.estimate.largest_buffer);
        let idle_offload =
            plan.training.recompute == Recompute::Offload && run.workload.asked() != Activations::Offloaded;
        let notices = run.job.group.connect(compute)?.into_iter().chain(idle_offload.then(|| IDLE_OFFLOAD.to_owned()));
        run.announce(notices.collect())?;
        Ok(run)
    }

    /// Logs the first events of an attempt.
    fn announce(&mut self, notices: Vec<String>) -> Result<(), TrainError> {
        let report = &self.job.data.report;
        let data = EventKind::Data {
            train_examples: self.job.data.train.len() as u64,
            eval_examples: self.job.data.eval.len() as u64,
            dropped: report.dropped.clone(),
            tokens: report.tokens,
            trained_tokens: report.trained_tokens,
            lengths: Lengths::of(self.job.data.train.lengths().into_iter().map(|tokens| tokens as u64).collect()),
            packing: self
                .sampler
                .packing_efficiency()
                .map(|filled| Packing { sequences: self.sampler.sequences() as u64, filled }),
        };
        let trained = self.model.params.elements();
        self.event(EventKind::AttemptStarted {
            from_step: self.state.step,
            total_steps: self.total_steps,
            plan_hash: self.job.record.as_ref().map(|record| record.run.info().plan_hash.clone()).unwrap_or_default(),
            trainable_parameters: trained as u64,
        })?;
        self.event(self.device())?;
        self.event(data)?;
        let warnings = report.findings.of(Severity::Warn, &self.job.plan.audit);
        for message in report.notes().into_iter().chain(warnings).chain(notices) {
            self.event(EventKind::Notice { message })?;
        }
        let reason = self.difference_from_plan();
        self.log_memory(reason)
    }

    fn device(&self) -> EventKind {
        let adapter = self.adapter.as_ref().map(|_| self.model.params.elements() as u64);
        EventKind::Device {
            name: self.job.compute.name().to_owned(),
            flops_per_token: Some(flops::per_token(&self.model.description, adapter, self.choice.activations.again())),
            peak_flops: self.job.compute.peak_flops(),
            memory_bytes: self.job.compute.own_memory(),
            host_memory_bytes: memory::total(),
        }
    }

    /// Trains until the last step or a stop. If another process has ended or memory is short, saves the completed steps
    /// before it returns the error.
    fn steps(&mut self) -> Result<Option<StopReason>, TrainError> {
        let result = self.train_to_the_end();
        let whole_step = matches!(&result, Err(TrainError::Group(_) | TrainError::OutOfMemory { .. }));
        if whole_step && self.state.step > 0 {
            self.save()?;
        }
        result
    }

    /// Trains until the last step or a stop. Saves a checkpoint before a stop.
    fn train_to_the_end(&mut self) -> Result<Option<StopReason>, TrainError> {
        let training = &self.job.plan.training;
        let (save_every, eval_every) = (training.save_every, self.job.plan.evaluation.every);
        while self.state.step < self.total_steps {
            self.step()?;
            let step = self.state.step;
            let last = step == self.total_steps;
            let evaluates = eval_every > 0 && step.is_multiple_of(eval_every) && !last;
            if evaluates {
                self.evaluate(false)?;
            }
            let stop = self.stop()?;
            let is_due = save_every > 0 && step.is_multiple_of(save_every) || evaluates && self.is_best();
            if last || stop.is_some() || is_due {
                self.save()?;
            }
            if let Some(reason) = stop.filter(|_| !last) {
                let signal = match reason {
                    StopReason::Signal(number) => Some(number),
                    StopReason::Requested => None,
                };
                self.event(EventKind::Interrupted { step, signal })?;
                return Ok(Some(reason));
            }
        }
        Ok(None)
    }

    /// Whether the run must stop here. All processes stop after the same step, even if only one received the request.
    fn stop(&mut self) -> Result<Option<StopReason>, TrainError> {
        let code = match (self.job.stop)() {
            None => 0,
            Some(StopReason::Requested) => -1,
            Some(StopReason::Signal(number)) => number,
        };
        let codes = self.job.group.gather(f64::from(code))?;
        let reason = |code: f64| match code as i32 {
            -1 => StopReason::Requested,
            number => StopReason::Signal(number),
        };
        Ok(codes.into_iter().find(|code| *code != 0.0).map(reason))
    }

    /// One optimizer step. Uses smaller micro-batches if memory runs out.
    fn step(&mut self) -> Result<(), TrainError> {
        self.stay_within_memory()?;
        let started = Instant::now();
        let (batches, read, sums) = loop {
            let computed = out_of_memory::catch(|| self.compute());
            // All processes have the same micro-batch size. So all of them reduce it if one runs out of memory.
            let short = matches!(computed, Err(TrainError::DeviceMemory(_)));
            let anywhere = self.job.group.gather(f64::from(u8::from(short)))?.contains(&1.0);
            match computed {
                Err(TrainError::DeviceMemory(why)) => self.shrink(&why)?,
                Ok(_) if anywhere => self.shrink("another process has no memory left")?,
                done => break done?,
            }
        };
        let trained: usize = batches.iter().map(Batch::trained_tokens).sum();
        let (loss, grad_norm) = self.together(read, trained, sums)?;

        let seconds = started.elapsed().as_secs_f64();
        let tokens: usize = batches.iter().map(|batch| batch.input_ids.len()).sum();
        let lr = self.learning_rate.at(self.state.step);
        self.state.step += 1;
        self.state.optimizer_steps = self.optimizer.steps;
        self.state.tokens += tokens as u64;
        self.state.trained_tokens += trained as u64;
        self.state.seconds += seconds;
        let accelerator_bytes = self.job.compute.held();
        self.peak_accelerator_bytes = self.peak_accelerator_bytes.max(accelerator_bytes);
        self.event(EventKind::Step {
            step: self.state.step,
            epoch: self.state.step as f64 / self.sampler.steps_per_epoch().max(1) as f64,
            loss,
            lr,
            grad_norm,
            tokens: tokens as u64,
            trained_tokens: trained as u64,
            tokens_per_second: tokens as f64 / seconds,
            seconds,
            peak_rss_bytes: memory::peak_rss(),
            accelerator_bytes,
        })
    }

    /// Computes this process's micro-batches of the step, and reads back loss and gradient norm. Errors of the device
    /// surface in that read, before anything is updated. A single process also makes its update. One of several
    /// processes returns its gradients instead, which must still be summed.
    fn compute(&mut self) -> Result<(Vec<Batch>, StepReadback, Option<GradientSums>), TrainError> {
        let batches = self.sampler.optimizer_step(self.state.step, &self.job.data.train)?;
        let (losses, sums) = self.gradients(&batches);
        // An error occurs again in the next step and ends the run there.
        self.model.look_ahead(|| self.next_tokens().ok().flatten());
        Ok(match self.job.group.size() {
            1 => (batches, self.optimize(sums, losses), None),
            _ => (batches, StepReadback::of(losses, None), Some(sums)),
        })
    }

    /// Losses and gradients of this process's micro-batches, divided by the tokens with loss of all processes.
    fn gradients(&self, batches: &[Batch]) -> (Vec<Tensor<1>>, GradientSums) {
        let trained: usize = batches.iter().map(Batch::trained_tokens).sum();
        let mut sums = GradientSums::new(&self.model.params);
        let mut losses = Vec::new();
        for (index, batch) in batches.iter().enumerate().filter(|(index, _)| self.job.group.has(*index)) {
            let pass = TrainingPass {
                scale: (trained.max(1) as f32).recip(),
                activations: self.choice.activations,
                dropout: DropoutKey { seed: self.job.plan.seed, step: self.state.step, micro_batch: index as u32 },
            };
            losses.push(micro_batch::accumulate(&self.model, batch, pass, &mut sums));
        }
        (losses, sums)
    }

    /// The tokens of this process's first micro-batch of the next step.
    fn next_tokens(&self) -> Result<Option<Vec<u32>>, TrainError> {
        let next = self.state.step + 1;
        if next >= self.total_steps {
            return Ok(None);
        }
        let batches = self.sampler.optimizer_step(next, &self.job.data.train)?.into_iter().enumerate();
        let mut own = batches.filter(|(index, _)| self.job.group.has(*index));
        Ok(own.next().map(|(_, batch)| batch.input_ids))
    }

    fn optimize(&mut self, sums: GradientSums, losses: Vec<Tensor<1>>) -> StepReadback {
        self.optimizer.step(&mut self.model.params, sums, losses, self.learning_rate.at(self.state.step))
    }

    /// Mean loss per token with loss, and norm of the gradients, over all processes. With several processes, makes the
    /// update from the sum of their gradients.
    fn together(
        &mut self,
        StepReadback { loss, mut norm }: StepReadback,
        trained: usize,
        sums: Option<GradientSums>,
    ) -> Result<(f64, f64), TrainError> {
        let mut losses = [loss];
        self.job.group.sum(&mut losses)?;
        let loss = losses[0] / trained.max(1) as f64;
        if !loss.is_finite() {
            return Err(self.diverged(format!("the loss is {loss}"))?);
        }
        if let Some(mut sums) = sums {
            self.job.group.sum_gradients(&mut sums, &self.model.params)?;
            norm = self.optimize(sums, Vec::new()).norm;
        }
        if !norm.is_finite() {
            return Err(self.diverged(format!("the gradient norm is {norm}"))?);
        }
        Ok((loss, norm))
    }

    /// Logs that the step diverged and returns the error.
    fn diverged(&mut self, what: String) -> Result<TrainError, TrainError> {
        let step = self.state.step + 1;
        self.event(EventKind::Diverged { step, what: what.clone() })?;
        Ok(TrainError::Diverged { step, what })
    }

    fn finish(&mut self, after: &EvalReport) -> Result<(), TrainError> {
        self.event(EventKind::Finished {
            step: self.state.step,
            seconds: self.state.seconds,
            tokens: self.state.tokens,
            eval_loss: after.loss,
            peak_rss_bytes: memory::peak_rss(),
        })
    }

    fn event(&mut self, kind: EventKind) -> Result<(), TrainError> {
        if let Some(record) = &mut self.job.record {
            record.log.append(kind.clone())?;
            (record.observe)(Observation::Event(&kind));
        }
        Ok(())
    }
}

/// Reports progress outside optimizer steps. The log gets the beginning and one event per second; the observer gets
/// every call.
fn progress(record: &mut Option<Record<'_>>, phase: Phase) -> impl FnMut(u64, u64) {
    if let Some(record) = record {
        record.phase(phase, 0, 0);
    }
    let mut logged = Instant::now();
    move |done, total| {
        let Some(record) = record else { return };
        (record.observe)(Observation::Progress { phase, done, total });
        if logged.elapsed() >= PHASE_INTERVAL {
            logged = Instant::now();
            record.phase(phase, done, total);
        }
    }
}

/// The directory of the adapter that a run starts from: its checkpoint if there is one, otherwise `lora.init`. `None`
/// for a new adapter or full training.
#[must_use]
pub fn adapter_start<'a>(plan: &'a Plan, resume_from: Option<&'a Path>) -> Option<&'a Path> {
    let init = plan.lora.init.as_deref().filter(|_| plan.adapter.kind == AdapterKind::Lora)?;
    Some(resume_from.unwrap_or(init))
}
