//! The training loop.
//!
//! Responsible for: the order of things in a run: load, evaluate, step, checkpoint, evaluate, export.
//! Must not depend on: terminals, signals, command lines.

mod results;
mod room;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use burn::tensor::Tensor;
use tonfall_adapters::BaseModel;
use tonfall_adapters::peft::{self, AdapterConfig};
use tonfall_datasets::{Batch, ChatTokenizer, HeldOutPrompt, PreparedDataset, Sampler};
use tonfall_recipes::plan::{AdapterKind, Plan, Quantization, Recompute, Severity};
use tonfall_runs::events::{EventKind, EventLog, Lengths, Packing, Phase};
use tonfall_runs::run_dir::RunDir;

use crate::checkpoint::{self, TrainerState};
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
use crate::params::{GradientSums, Read};
use crate::schedule::LearningRate;

/// Events of one phase are at least so far apart.
const PHASE_INTERVAL: Duration = Duration::from_secs(1);

const IDLE_OFFLOAD: &str = "`training.recompute = \"offload\"` is the same as \"on\" here: it needs a CUDA card";

/// Everything a run needs.
pub struct Job<'a> {
    pub compute: &'a Compute,
    pub plan: &'a Plan,
    pub base: &'a BaseModel,
    pub tokenizer: &'a ChatTokenizer,
    pub data: &'a PreparedDataset,
    pub prompts: &'a [HeldOutPrompt],
    /// The processes that train together.
    pub group: &'a mut Group,
    /// Where the first process writes the run down; `None` in the others.
    pub record: Option<Record<'a>>,
    /// A verified checkpoint of this run.
    pub resume_from: Option<PathBuf>,
    /// Bytes that the run may hold altogether, where anybody knows; asked before it begins and before every optimizer
    /// step. [`Compute::memory`] says what there is.
    pub memory: &'a dyn Fn() -> Option<u64>,
    /// Asked after every optimizer step.
    pub stop: &'a dyn Fn() -> Option<StopReason>,
}

/// Where a run is written down, and who is told of it.
pub struct Record<'a> {
    /// Created and locked by the caller.
    pub run: &'a RunDir,
    pub log: &'a mut EventLog,
    pub observe: &'a mut dyn FnMut(Observation<'_>),
}

impl Record<'_> {
    /// A disk that takes no line now takes none of the results either; that error is the one to report.
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

/// What a run tells its caller while it works.
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

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// `Some` when the run was interrupted; its checkpoint is saved then, and nothing is exported.
    pub stopped: Option<StopReason>,
    pub step: u64,
    pub total_steps: u64,
    pub seconds: f64,
    pub tokens: u64,
    pub before: Option<EvalReport>,
    pub after: Option<EvalReport>,
    /// The PEFT adapter, or the model's directory in full training.
    pub artefact: Option<PathBuf>,
    pub merged: Option<PathBuf>,
    pub peak_rss_bytes: Option<u64>,
    /// Of an accelerator with memory of its own, after any step; that of the attempt.
    pub peak_accelerator_bytes: Option<u64>,
    /// The highest use of memory by arithmetic: the accelerator's where there is one.
    pub predicted_bytes: u64,
}

/// Trains as the plan says. Processes that train together all call this; the first one evaluates, saves and exports while
/// the others wait for it in the next step.
///
/// # Errors
/// Every cause of [`TrainError`]; the checkpoints written so far stay valid.
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
        artefact: None,
        merged: None,
        peak_rss_bytes: None,
        peak_accelerator_bytes: run.peak_accelerator_bytes,
        predicted_bytes: run.choice.estimate.peak(),
    };
    if stopped.is_none() {
        let after = run.evaluate(true)?;
        (outcome.artefact, outcome.merged) = run.export()?;
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
        let longest = data.train.lengths().into_iter().chain(data.eval.lengths()).max();
        let context = job.base.description().max_position_embeddings;
        if let Some(tokens) = longest.filter(|tokens| *tokens > context) {
            return Err(TrainError::Context { tokens, context });
        }

        let mut state = match &job.resume_from {
            Some(dir) => checkpoint::read_state(dir)?,
            None => TrainerState { processes: job.group.size(), ..TrainerState::default() },
        };
        if state.processes != job.group.size() {
            return Err(TrainError::Processes { made_by: state.processes, size: job.group.size() });
        }
        let workload =
            Workload::new(plan, job.base, data, (job.tokenizer, job.prompts), compute.kind(), job.group.size())?;
        let size = state.micro_batch_size.unwrap_or(plan.training.micro_batch_size);
        let choice = workload.choose(size, workload.asked(), (job.memory)());
        if !choice.fits() {
            return Err(workload.refusal(&choice));
        }
        let choice = workload.agreed(choice, job.group)?;
        state.micro_batch_size = Some(choice.micro_batch_size);
        let sampler = Sampler::new(&data.train, plan, job.group.size()).in_micro_batches_of(choice.micro_batch_size);
        let total_steps = total_steps(plan, sampler.steps_per_epoch());

        let options = estimate::load_options(plan);
        let phase = match plan.quantization {
            Quantization::Nf4 if !options.trainable => Phase::Quantizing,
            _ => Phase::Loading,
        };
        let mut loading = progress(&mut job.record, phase);
        let mut model = Loader { base: job.base, options, compute, progress: &mut loading }.load()?;
        drop(loading);
        let adapter = match (plan.adapter.kind, &plan.lora.init) {
            (AdapterKind::Full, _) => None,
            (AdapterKind::Lora, Some(path)) => {
                let adapter = peft::read(path)?;
                lora::attach_existing(&mut model, &adapter, plan.lora.dropout, device)?;
                Some(adapter.config)
            }
            (AdapterKind::Lora, None) => {
                lora::attach_new(&mut model, &plan.lora, plan.seed, device)?;
                Some(lora::config(&model, &plan.lora, &job.base.name_or_path()))
            }
        };
        let mut optimizer = Optimizer::new(&model.params, &plan.training);
        if let Some(dir) = &job.resume_from {
            checkpoint::read_tensors(dir, &state, &mut model.params, &mut optimizer, device)?;
        }
        let learning_rate = LearningRate {
            peak: plan.training.learning_rate,
            schedule: plan.training.schedule,
            warmup_steps: warmup_steps(plan, total_steps),
            total_steps,
        };
        let saved_step = job.resume_from.as_ref().map(|_| state.step);
        let mut run = Self {
            job,
            model,
            adapter,
            optimizer,
            sampler,
            learning_rate,
            total_steps,
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

    /// The first events of an attempt.
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
        self.tell_memory(reason)
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

    /// Trains until the last step or a stop. A stop saves a checkpoint first.
    fn steps(&mut self) -> Result<Option<StopReason>, TrainError> {
        let training = &self.job.plan.training;
        let (save_every, eval_every) = (training.save_every, self.job.plan.evaluation.every);
        while self.state.step < self.total_steps {
            self.step()?;
            let step = self.state.step;
            let last = step == self.total_steps;
            if eval_every > 0 && step.is_multiple_of(eval_every) && !last {
                self.evaluate(false)?;
            }
            let stop = self.stop()?;
            if last || stop.is_some() || save_every > 0 && step.is_multiple_of(save_every) {
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

    /// Whether the run is to stop here; all processes stop after the same step, whichever of them was asked to.
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

    /// One optimizer step, in smaller micro-batches when memory runs out.
    fn step(&mut self) -> Result<(), TrainError> {
        self.stay_within_memory()?;
        let started = Instant::now();
        let (batches, read, sums) = loop {
            let computed = out_of_memory::catch(|| self.compute());
            // Processes cut their batches alike, so all of them go on with less when one has to.
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

    /// All micro-batches of the step, and what is read of it once this process's are computed: with it what has failed on the
    /// device comes to light, and nothing is updated then. A process on its own has done its update; one of several has its
    /// gradients to add to theirs.
    fn compute(&mut self) -> Result<(Vec<Batch>, Read, Option<GradientSums>), TrainError> {
        let batches = self.sampler.optimizer_step(self.state.step, &self.job.data.train);
        let (losses, sums) = self.gradients(&batches);
        self.model.look_ahead(|| self.next_tokens());
        Ok(match self.job.group.size() {
            1 => (batches, self.optimize(sums, losses), None),
            _ => (batches, Read::of(losses, None), Some(sums)),
        })
    }

    /// Losses and gradients of this process's micro-batches, weighted by the trained tokens of all.
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

    /// The tokens with which this process's next step begins.
    fn next_tokens(&self) -> Option<Vec<u32>> {
        let next = self.state.step + 1;
        let batches =
            if next < self.total_steps { self.sampler.optimizer_step(next, &self.job.data.train) } else { vec![] };
        let mut own = batches.into_iter().enumerate().filter(|(index, _)| self.job.group.has(*index));
        own.next().map(|(_, batch)| batch.input_ids)
    }

    fn optimize(&mut self, sums: GradientSums, losses: Vec<Tensor<1>>) -> Read {
        self.optimizer.step(&mut self.model.params, sums, losses, self.learning_rate.at(self.state.step))
    }

    /// Mean loss of a trained token and norm of the gradients, over all processes; with the update, where it is still to be
    /// done.
    fn together(
        &mut self,
        Read { loss, mut norm }: Read,
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

    /// The error of a diverged step, written into the log.
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

/// Tells of work outside optimizer steps: its begin and how it goes on in the log, everything to the observer.
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

/// Optimizer steps of a plan: so many epochs, but not more than `max_steps`.
pub fn total_steps(plan: &Plan, steps_per_epoch: u64) -> u64 {
    let by_epochs = (plan.training.epochs * steps_per_epoch as f64).ceil() as u64;
    plan.training.max_steps.map_or(by_epochs, |limit| limit.min(by_epochs)).max(1)
}

fn warmup_steps(plan: &Plan, total_steps: u64) -> u64 {
    let by_ratio = (plan.training.warmup_ratio * total_steps as f64).ceil() as u64;
    plan.training.warmup_steps.unwrap_or(by_ratio)
}
