//! The importance matrix of a model: how large the inputs of its linear layers are on given texts.
//!
//! Responsible for: choosing texts, and summing squared inputs.
//! Must not depend on: files, the quantisation that uses the sums.
//!
//! Source: llama.cpp's `tools/imatrix`, which sums the same inputs.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;

use burn::tensor::{DType, Tensor};
use tonfall_adapters::export::Importance;
use tonfall_datasets::{ChatTokenizer, Examples, HeldOutPrompt};
use tonfall_recipes::counted;

use crate::error::TrainError;
use crate::generation::{self, Sampling, Work};
use crate::lora::values;
use crate::model::{Decoder, Documents, EMBEDDING, ForwardPass, LinearInput, self_segments};
use crate::params::Binding;

/// Maximum tokens of a calibration. The order of the columns changes little after some ten thousand tokens.
const TOKENS: usize = 1 << 17;
/// Tokens of a forward pass. A longer sequence has a pass of its own.
const TOKENS_AT_ONCE: usize = 1 << 11;
/// The weight of an output head of its own.
const HEAD: &str = "lm_head.weight";

/// Token sequences to calibrate on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CalibrationTexts {
    pub sequences: Vec<Vec<u32>>,
    /// Number of further sequences, which are not used.
    pub left_out: usize,
}

/// `4 sequences, 1,234 tokens`
impl fmt::Display for CalibrationTexts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tokens = self.sequences.iter().map(Vec::len).sum::<usize>() as u64;
        write!(f, "{}, {}", counted(self.sequences.len() as u64, "sequence"), counted(tokens, "token"))?;
        match self.left_out {
            0 => Ok(()),
            more => write!(f, ", evenly spaced; {} left out", counted(more as u64, "sequence")),
        }
    }
}

/// The token sequences of `examples`. If they have more than 131,072 tokens, evenly spaced ones of them.
///
/// # Errors
/// If an example is missing.
pub fn calibration_examples(examples: &Examples) -> Result<CalibrationTexts, TrainError> {
    let total: usize = examples.lengths().iter().sum();
    let sequences = (0..examples.len())
        .step_by(total.div_ceil(TOKENS).max(1))
        .map(|index| Ok(examples.get(index)?.input_ids))
        .collect::<Result<Vec<_>, TrainError>>()?;
    let left_out = examples.len() - sequences.len();
    Ok(CalibrationTexts { sequences, left_out })
}

/// Each prompt with the model's greedy answer to it; `slots` prompts are answered at a time.
///
/// # Errors
/// If a prompt can't be rendered or fills the context.
pub(crate) fn answered(
    model: &Decoder,
    tokenizer: &ChatTokenizer,
    prompts: &[HeldOutPrompt],
    max_new_tokens: usize,
    slots: impl FnOnce(Work<'_>) -> Result<usize, TrainError>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<CalibrationTexts, TrainError> {
    let rendered = prompts.iter().map(|prompt| tokenizer.render_prompt(&prompt.messages));
    let mut sequences = rendered.collect::<Result<Vec<_>, _>>()?;
    let sampling = Sampling::greedy(max_new_tokens);
    let work = Work { prompts: &sequences, stop_ids: &tokenizer.stop_ids(), sampling: &sampling };
    let answers = generation::answers(model, true, work, slots(work)?, progress)?;
    sequences.iter_mut().zip(answers).for_each(|(sequence, answer)| sequence.extend(answer.tokens));
    Ok(CalibrationTexts { sequences, left_out: 0 })
}

/// Sums the squared inputs of every linear layer and of the output head over all tokens of `sequences`. The head of a
/// model with tied weights is `model.embed_tokens.weight`. Sums within a pass are f32, sums of passes f64. `progress`
/// receives the number of processed tokens and of all tokens.
///
/// # Errors
/// If there are no tokens, a sequence is longer than the context, an input is not finite, or the device fails.
pub(crate) fn importance(
    model: &Decoder,
    sequences: &[Vec<u32>],
    with_adapter: bool,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Importance, TrainError> {
    let context = model.description.max_position_embeddings;
    if let Some(long) = sequences.iter().find(|sequence| sequence.len() > context) {
        return Err(TrainError::Context { tokens: long.len(), context });
    }
    let total = sequences.iter().map(Vec::len).sum::<usize>() as u64;
    if total == 0 {
        return Err(TrainError::NothingToCalibrateOn);
    }
    let mut sums = BTreeMap::new();
    let mut done = 0;
    for batch in batches(sequences) {
        add_batch(model, batch, with_adapter, &mut sums)?;
        done += batch.iter().map(Vec::len).sum::<usize>() as u64;
        progress(done, total);
    }
    let mut importance = Importance::default();
    for (site, sums) in sums {
        let sums: Vec<f32> = sums.into_iter().map(|sum| sum as f32).collect();
        for weight in site.weights(model) {
            if sums.iter().any(|sum| !sum.is_finite()) {
                return Err(TrainError::InputsNotFinite { weight });
            }
            importance.weights.insert(weight, (sums.clone(), total));
        }
    }
    Ok(importance)
}

/// A place in the model whose input is summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Site {
    Block(usize, LinearInput),
    Head,
}

impl Site {
    /// The Hugging Face names of the weights that multiply this input.
    fn weights(self, model: &Decoder) -> Vec<String> {
        match self {
            Self::Block(layer, input) => {
                input.modules().iter().map(|module| format!("model.layers.{layer}.{module}.weight")).collect()
            }
            Self::Head if model.description.tie_word_embeddings => vec![EMBEDDING.to_owned()],
            Self::Head => vec![HEAD.to_owned()],
        }
    }
}

/// Consecutive sequences of at most [`TOKENS_AT_ONCE`] tokens together, at least one sequence.
fn batches(sequences: &[Vec<u32>]) -> impl Iterator<Item = &[Vec<u32>]> {
    let mut rest = sequences;
    std::iter::from_fn(move || {
        let mut tokens = 0;
        let fits = rest.iter().take_while(|sequence| {
            tokens += sequence.len();
            tokens <= TOKENS_AT_ONCE
        });
        let count = fits.count().max(1).min(rest.len());
        let (batch, after) = rest.split_at(count);
        rest = after;
        (!batch.is_empty()).then_some(batch)
    })
}

/// Adds the sums of one forward pass. Only the sums of one block are on the device at a time.
fn add_batch(
    model: &Decoder,
    batch: &[Vec<u32>],
    with_adapter: bool,
    sums: &mut BTreeMap<Site, Vec<f64>>,
) -> Result<(), TrainError> {
    let ids = batch.concat();
    if ids.is_empty() {
        return Ok(());
    }
    let lengths: Vec<usize> = batch.iter().map(Vec::len).filter(|length| *length > 0).collect();
    let positions: Vec<u32> = lengths.iter().flat_map(|length| (0_u32..).take(*length)).collect();
    let segments = self_segments(&lengths);
    let documents = Documents { positions: &positions, segments: &segments, dropout: None };
    let binding = Binding::untracked(&model.params);
    let mut x = model.embed(&ids, &binding);
    for layer in 0..model.num_layers() {
        let observed = RefCell::new(Vec::new());
        let observer = |input, x: Tensor<2>| observed.borrow_mut().push((input, squares(x)));
        let pass = ForwardPass { with_adapter, observer: Some(&observer), ..documents.pass(&binding) };
        x = model.layer(layer, x, &pass);
        for (input, squares) in observed.take() {
            add(sums, Site::Block(layer, input), &squares)?;
        }
    }
    let hidden = model.finish(x, &documents.pass(&binding));
    add(sums, Site::Head, &squares(hidden))
}

/// Sums of squares over tokens: `[tokens, in_features]` → `[1, in_features]`, f32.
fn squares(x: Tensor<2>) -> Tensor<2> {
    let x = x.cast(DType::F32);
    (x.clone() * x).sum_dim(0)
}

fn add(sums: &mut BTreeMap<Site, Vec<f64>>, site: Site, squares: &Tensor<2>) -> Result<(), TrainError> {
    let values = values(squares)?;
    let sums = sums.entry(site).or_insert_with(|| vec![0.0; values.len()]);
    sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += f64::from(value));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_have_all_sequences_in_order_and_bounded_tokens() {
        let sequences: Vec<Vec<u32>> =
            [1000, 1000, 48, 1, 5000, 0, 2048, 3].iter().map(|length| vec![7; *length]).collect();
        let lengths: Vec<Vec<usize>> = batches(&sequences).map(|batch| batch.iter().map(Vec::len).collect()).collect();
        assert_eq!(lengths, [vec![1000, 1000, 48], vec![1], vec![5000], vec![0, 2048], vec![3]]);
        assert_eq!(batches(&[]).count(), 0);
    }
}
