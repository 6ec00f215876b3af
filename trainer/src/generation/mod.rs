//! Text generation with a key/value cache.
//!
//! Responsible for: continuing prompts up to a stop token or the limit, one prompt or many.
//! Must not depend on: tokenizers, terminals.

mod sampling;

use tonfall_kernels::philox::Philox;

use self::sampling::choose;
use crate::error::TrainError;
use crate::lora::values;
use crate::model::Decoder;

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

/// Continues every prompt and returns the answers in the order of `prompts`. An answer doesn't depend on the other
/// prompts or on their order. `progress` receives the number of answered prompts and of all prompts.
///
/// # Errors
/// If a prompt is empty or fills the context, or if the device fails.
pub(crate) fn answers(
    model: &Decoder,
    with_adapter: bool,
    prompts: &[Vec<u32>],
    stop_ids: &[u32],
    sampling: &Sampling,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Vec<Answer>, TrainError> {
    let context = model.description.max_position_embeddings;
    for (index, prompt) in prompts.iter().enumerate() {
        check(prompt, context, || format!("prompt {} of {}", index + 1, prompts.len()))?;
    }
    let mut answers = Vec::with_capacity(prompts.len());
    for prompt in prompts {
        answers.push(continued(model, with_adapter, prompt, stop_ids, sampling, &mut |_| ())?);
        progress(answers.len() as u64, prompts.len() as u64);
    }
    Ok(answers)
}

/// Continues `prompt`. The returned tokens include neither the prompt nor the stop token. `on_token` receives each
/// token. Generation also ends at the model's context length.
///
/// # Errors
/// If the prompt is empty or fills the context, or if the device fails.
pub(crate) fn generate(
    model: &Decoder,
    with_adapter: bool,
    prompt: &[u32],
    stop_ids: &[u32],
    sampling: &Sampling,
    on_token: &mut dyn FnMut(u32),
) -> Result<Vec<u32>, TrainError> {
    check(prompt, model.description.max_position_embeddings, || "the prompt".to_owned())?;
    Ok(continued(model, with_adapter, prompt, stop_ids, sampling, on_token)?.tokens)
}

/// # Errors
/// If the prompt is empty, or leaves no token of the context for an answer.
fn check(prompt: &[u32], context: usize, name: impl FnOnce() -> String) -> Result<(), TrainError> {
    match prompt.len() {
        tokens if tokens == 0 || tokens >= context => Err(TrainError::Prompt { prompt: name(), tokens, context }),
        _ => Ok(()),
    }
}

fn continued(
    model: &Decoder,
    with_adapter: bool,
    prompt: &[u32],
    stop_ids: &[u32],
    sampling: &Sampling,
    on_token: &mut dyn FnMut(u32),
) -> Result<Answer, TrainError> {
    let context = model.description.max_position_embeddings;
    let mut generator = Philox::new(sampling.seed, SAMPLING_STREAM);
    let mut cache = model.cache();
    let mut hidden = model.advance(prompt, &mut cache, with_adapter);
    let mut answer = Answer::default();
    for _ in 0..sampling.max_new_tokens.min(context - prompt.len()) {
        let last = hidden.dims()[0] - 1;
        let logits = values(&model.project(hidden.narrow(0, last, 1)))?;
        let token = choose(&logits, sampling, &mut generator);
        if stop_ids.contains(&token) {
            answer.ended = true;
            break;
        }
        answer.tokens.push(token);
        on_token(token);
        hidden = model.advance(&[token], &mut cache, with_adapter);
    }
    Ok(answer)
}
