//! Text generation with a key/value cache.
//!
//! Responsible for: continuing prompts up to a stop token or the limit, one prompt or many.
//! Must not depend on: tokenizers, terminals.

mod host_engine;
mod memory;
mod sampling;
mod scheduler;
mod tensor_engine;
#[cfg(test)]
mod tests;

use self::host_engine::HostEngine;
use self::scheduler::{Task, Watch};
use self::tensor_engine::TensorEngine;
use crate::device::DeviceKind;
use crate::error::TrainError;
use crate::model::{Decoder, mixed};

pub(crate) use self::memory::{Lengths, MAX_SLOTS, Memory, Slots};
pub use self::sampling::Sampling;

/// Philox stream for sampling.
const SAMPLING_STREAM: u64 = u64::from_le_bytes(*b"sampling");

/// The continuation of a prompt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Neither the prompt nor the stop token.
    pub tokens: Vec<u32>,
    /// Whether a stop token ended the answer. Otherwise, it has the maximum length, or fills the context.
    pub ended: bool,
}

/// The prompts of a generation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work<'a> {
    pub prompts: &'a [Vec<u32>],
    pub stop_ids: &'a [u32],
    pub sampling: &'a Sampling,
}

/// Continues every prompt, `slots` prompts at a time, and returns the answers in the order of the prompts. An answer
/// doesn't depend on the other prompts, their order, or the number of slots. `progress` receives the number of answered
/// prompts and of all prompts.
///
/// # Errors
/// If a prompt is empty or fills the context, logits are not finite, or the device fails.
pub(crate) fn answers(
    model: &Decoder,
    with_adapter: bool,
    work: Work<'_>,
    slots: usize,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Vec<Answer>, TrainError> {
    let context = model.description.max_position_embeddings;
    let Work { prompts, stop_ids, sampling } = work;
    for (index, prompt) in prompts.iter().enumerate() {
        check(prompt, context, || format!("prompt {} of {}", index + 1, prompts.len()))?;
    }
    let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    let task = Task { prompts: &prompts, stop_ids, sampling, context };
    run(model, with_adapter, slots, &task, &mut Watch { on_token: &mut |_, _| (), progress })
}

/// Continues `prompt`. The returned tokens include neither the prompt nor the stop token. `on_token` receives each
/// token. Generation also ends at the model's context length.
///
/// # Errors
/// If the prompt is empty or fills the context, logits are not finite, or the device fails.
pub(crate) fn generate(
    model: &Decoder,
    with_adapter: bool,
    prompt: &[u32],
    stop_ids: &[u32],
    sampling: &Sampling,
    on_token: &mut dyn FnMut(u32),
) -> Result<Vec<u32>, TrainError> {
    let context = model.description.max_position_embeddings;
    check(prompt, context, || "the prompt".to_owned())?;
    let task = Task { prompts: &[prompt], stop_ids, sampling, context };
    let mut on_token = |_, token| on_token(token);
    let mut watch = Watch { on_token: &mut on_token, progress: &mut |_, _| () };
    let answers = run(model, with_adapter, 1, &task, &mut watch)?;
    Ok(answers.into_iter().flat_map(|answer| answer.tokens).collect())
}

/// # Errors
/// If the prompt is empty, or leaves no token of the context for an answer.
fn check(prompt: &[u32], context: usize, name: impl FnOnce() -> String) -> Result<(), TrainError> {
    match prompt.len() {
        tokens if tokens == 0 || tokens >= context => Err(TrainError::Prompt { prompt: name(), tokens, context }),
        _ => Ok(()),
    }
}

/// The slots that fit in `free` bytes of the device; `None` if the free memory is unknown.
///
/// # Errors
/// If not even one fits.
pub(crate) fn slots(
    model: &Decoder,
    device: DeviceKind,
    prompts: impl ExactSizeIterator<Item = usize>,
    max_new_tokens: usize,
    free: Option<u64>,
) -> Result<Slots, TrainError> {
    let lengths = Lengths::of(prompts, max_new_tokens, model.description.max_position_embeddings);
    Slots::fitting(Memory::of(&model.description, device, lengths), lengths, free)
}

impl Task<'_> {
    fn lengths(&self) -> Lengths {
        Lengths::of(self.prompts.iter().map(|prompt| prompt.len()), self.sampling.max_new_tokens, self.context)
    }
}

fn run(
    model: &Decoder,
    with_adapter: bool,
    slots: usize,
    task: &Task<'_>,
    watch: &mut Watch<'_>,
) -> Result<Vec<Answer>, TrainError> {
    let lengths = task.lengths();
    let slots = slots.clamp(1, MAX_SLOTS);
    match model.on_host(with_adapter) {
        Some(weights) => {
            let mut engine = HostEngine::new(weights, &model.description, slots, lengths);
            scheduler::run(&mut engine, slots, task, watch)
        }
        None => {
            let mut engine = TensorEngine::new(model, with_adapter, slots, lengths.capacity);
            scheduler::run(&mut engine, slots, task, watch)
        }
    }
}

/// The stream of a prompt's random numbers. It depends on the prompt alone, and on how often the same prompt occurs
/// before it: an order of prompts changes no answer, and samples of one prompt differ.
fn stream(prompts: &[&[u32]], index: usize) -> u64 {
    let prompt = prompts[index];
    let occurrence = prompts[..index].iter().filter(|other| **other == prompt).count() as u64;
    let mix = |hash: u64, number: u64| mixed(hash ^ number);
    prompt.iter().fold(mix(SAMPLING_STREAM, occurrence), |hash, id| mix(hash, u64::from(*id)))
}
