//! A loaded model for inference: generation, logits and importance, base and adapter side by side.
//!
//! Responsible for: an API without devices and tensors, for callers outside this crate.
//! Must not depend on: training.

use std::sync::{Mutex, PoisonError};

use tonfall_adapters::BaseModel;
use tonfall_adapters::export::Importance;
use tonfall_adapters::peft::Adapter;
use tonfall_datasets::{ChatTokenizer, HeldOutPrompt};
use tonfall_recipes::plan::Quantization;
use tonfall_runs::events::Phase;

use crate::calibrate::{self, CalibrationTexts};
use crate::device::Compute;
use crate::error::TrainError;
use crate::eval_suite::{self, Asked, EvalSuite};
use crate::generation::{self, Answer, Sampling, Slots, Work};
use crate::lora::{attach_existing, values};
use crate::model::{Decoder, LoadOptions, Loader};
use crate::out_of_memory;

/// A base model in memory, with or without an adapter.
#[derive(Debug)]
pub struct Session {
    model: Decoder,
    compute: Compute,
    notices: Mutex<Vec<String>>,
}

impl Session {
    /// Loads a base model onto a device; `progress` receives the number of loaded blocks and of all blocks.
    ///
    /// # Errors
    /// If a weight can't be read or is not finite.
    pub fn load(
        base: &BaseModel,
        quantization: Quantization,
        compute: &Compute,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, TrainError> {
        let options = LoadOptions { quantization, trainable: false };
        let model = Loader { base, options, compute, progress }.load()?;
        Ok(Self { model, compute: compute.clone(), notices: Mutex::default() })
    }

    /// Adds an adapter to the base.
    ///
    /// # Errors
    /// If the adapter was made for another model, or has LoRA on `lm_head`.
    pub fn attach(&mut self, adapter: &Adapter) -> Result<(), TrainError> {
        attach_existing(&mut self.model, adapter, 0.0, &self.compute.device)
    }

    /// Continues `prompt`; see [`Sampling`]. The returned tokens include neither the prompt nor the stop token.
    ///
    /// # Errors
    /// If the prompt is empty or fills the context.
    pub fn generate(
        &self,
        with_adapter: bool,
        prompt: &[u32],
        stop_ids: &[u32],
        sampling: &Sampling,
        on_token: &mut dyn FnMut(u32),
    ) -> Result<Vec<u32>, TrainError> {
        self.slots_for([prompt.len()].into_iter(), sampling.max_new_tokens)?;
        generation::generate(&self.model, with_adapter, prompt, stop_ids, sampling, on_token)
    }

    /// Continues every prompt and returns the answers in the order of `prompts`. An answer doesn't depend on the other
    /// prompts or on their order. `progress` receives the number of answered prompts and of all prompts.
    ///
    /// # Errors
    /// If a prompt is empty or fills the context, or if the device fails.
    pub fn answers(
        &self,
        with_adapter: bool,
        prompts: &[Vec<u32>],
        stop_ids: &[u32],
        sampling: &Sampling,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Vec<Answer>, TrainError> {
        let work = Work { prompts, stop_ids, sampling };
        let slots = self.slots(work)?;
        generation::answers(&self.model, with_adapter, work, slots, progress)
    }

    /// Notices of the generations since the last call, for the user: if memory was too short for all prompts that could
    /// have been continued at a time.
    pub fn take_notices(&self) -> Vec<String> {
        std::mem::take(&mut self.notices.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The number of prompts that fit at a time in the memory that is free now.
    fn slots(&self, work: Work<'_>) -> Result<usize, TrainError> {
        let slots = self.slots_for(work.prompts.iter().map(Vec::len), work.sampling.max_new_tokens)?;
        let mut notices = self.notices.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = |notice: &String| !notices.contains(notice);
        let new = slots.notice.filter(is_new);
        notices.extend(new);
        Ok(slots.count)
    }

    fn slots_for(
        &self,
        prompts: impl ExactSizeIterator<Item = usize>,
        max_new_tokens: usize,
    ) -> Result<Slots, TrainError> {
        generation::slots(&self.model, self.compute.kind(), prompts, max_new_tokens, self.compute.free())
    }

    /// Logits of every position, row-major `[ids.len(), vocab_size]`, f32.
    ///
    /// # Errors
    /// If the device fails.
    pub fn logits(&self, ids: &[u32], with_adapter: bool) -> Result<Vec<f32>, TrainError> {
        values(&self.model.logits(ids, with_adapter))
    }

    /// The importance matrix on `sequences`: for each linear weight, the sum over tokens of its squared inputs. See
    /// [`Importance`]. `progress` receives the number of processed tokens and of all tokens.
    ///
    /// # Errors
    /// If there are no tokens, a sequence is longer than the context, an input is not finite, or the device fails.
    pub fn importance(
        &self,
        sequences: &[Vec<u32>],
        with_adapter: bool,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Importance, TrainError> {
        calibrate::importance(&self.model, sequences, with_adapter, progress)
    }

    /// Each prompt with the greedy answer of the model and its adapter, to calibrate on. `progress` receives the number of
    /// answered prompts and of all prompts.
    ///
    /// # Errors
    /// If a prompt can't be rendered or fills the context, or if the device fails.
    pub fn answered(
        &self,
        tokenizer: &ChatTokenizer,
        prompts: &[HeldOutPrompt],
        max_new_tokens: usize,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<CalibrationTexts, TrainError> {
        let slots = |work: Work<'_>| self.slots(work);
        calibrate::answered(&self.model, tokenizer, prompts, max_new_tokens, slots, progress)
    }

    /// Asks all questions of a suite. `progress` receives the phase, the number of asked questions and of all questions.
    ///
    /// # Errors
    /// If a prompt can't be rendered or fills the context, or if the device fails.
    pub fn ask(
        &self,
        with_adapter: bool,
        tokenizer: &ChatTokenizer,
        suite: &EvalSuite<'_>,
        progress: &mut dyn FnMut(Phase, u64, u64),
    ) -> Result<Asked, TrainError> {
        out_of_memory::catch(|| {
            let mut evaluating = |done, total| progress(Phase::Evaluating, done, total);
            let [eval, retention] = eval_suite::all_losses(&self.model, with_adapter, suite, &mut evaluating)?;
            let mut generating = |done, total| progress(Phase::Generating, done, total);
            let generate = |prompts: &[Vec<u32>], stop_ids: &[u32], sampling: &Sampling| {
                self.answers(with_adapter, prompts, stop_ids, sampling, &mut generating)
            };
            let (context, limit) = (self.model.description.max_position_embeddings, suite.max_new_tokens);
            let answers = eval_suite::answer_all(tokenizer, suite.prompts, context, limit, generate)?;
            Ok(Asked { answers, eval: Some(eval), retention: Some(retention) })
        })
    }

    pub fn vocab_size(&self) -> usize {
        self.model.description.vocab_size
    }
}
