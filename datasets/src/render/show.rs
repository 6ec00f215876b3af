//! Shows an example as text.
//!
//! Responsible for: runs of text with and without loss, with visible special tokens. Must not depend on: terminals.

use crate::error::TokenizerError;
use crate::label::mask::IGNORED;
use crate::prepare::batch::Example;
use crate::render::tokenizer::ChatTokenizer;

/// The text of consecutive tokens that are either all trained or all not trained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    pub text: String,
    pub trained: bool,
    pub tokens: usize,
}

/// Splits an example at the borders of its trained ranges.
///
/// # Errors
/// If the tokenizer can't decode the tokens.
pub fn stretches(example: &Example, tokenizer: &ChatTokenizer) -> Result<Vec<Stretch>, TokenizerError> {
    let pairs: Vec<(u32, bool)> =
        example.input_ids.iter().zip(&example.labels).map(|(id, label)| (*id, *label != IGNORED)).collect();
    let stretches = pairs.chunk_by(|left, right| left.1 == right.1).map(|run| {
        let ids: Vec<u32> = run.iter().map(|(id, _)| *id).collect();
        Ok(Stretch { text: tokenizer.decode_with_special(&ids)?, trained: run[0].1, tokens: run.len() })
    });
    stretches.collect()
}
