//! An example as text for people.
//!
//! Responsible for: stretches of text with and without loss, special tokens visible. Must not depend on: terminals.

use crate::error::TokenizerError;
use crate::label::mask::IGNORED;
use crate::prepare::batch::Example;
use crate::render::tokenizer::ChatTokenizer;

/// Text of tokens that are all trained, or all not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    pub text: String,
    pub trained: bool,
    pub tokens: usize,
}

/// The stretches of an example.
///
/// # Errors
/// When the tokenizer can't decode its own tokens.
pub fn stretches(example: &Example, tokenizer: &ChatTokenizer) -> Result<Vec<Stretch>, TokenizerError> {
    let pairs: Vec<(u32, bool)> =
        example.input_ids.iter().zip(&example.labels).map(|(id, label)| (*id, *label != IGNORED)).collect();
    let stretches = pairs.chunk_by(|left, right| left.1 == right.1).map(|run| {
        let ids: Vec<u32> = run.iter().map(|(id, _)| *id).collect();
        Ok(Stretch { text: tokenizer.decode_with_special(&ids)?, trained: run[0].1, tokens: run.len() })
    });
    stretches.collect()
}
