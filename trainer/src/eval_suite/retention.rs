//! The general text whose perplexity shows what a model has kept.
//!
//! Responsible for: the built-in text, and cutting a text into passages. Must not depend on: models.

use tonfall_datasets::{ChatTokenizer, DataError, Example, Examples, IGNORED};

use crate::error::TrainError;

/// A built-in text in German and English, written for tonfall. Its paragraphs have everyday topics.
pub const RETENTION: &str = include_str!("retention.txt");

/// The paragraphs of a text as token sequences, without a chat template. A paragraph with more tokens than `longest`
/// becomes several sequences; no token is left out. Every token but the first of a sequence has loss.
///
/// # Errors
/// If the tokenizer fails.
pub fn passages(text: &str, tokenizer: &ChatTokenizer, longest: usize) -> Result<Examples, TrainError> {
    let text = text.replace("\r\n", "\n");
    let mut examples = Vec::new();
    for paragraph in text.split("\n\n").map(str::trim).filter(|paragraph| !paragraph.is_empty()) {
        let ids = tokenizer.encode_plain(paragraph).map_err(DataError::from)?;
        // The last token of a sequence is the first of the next one, so that every token but the very first has loss once.
        let step = longest.max(2) - 1;
        for start in (0..ids.len().saturating_sub(1)).step_by(step) {
            let ids = &ids[start..ids.len().min(start + step + 1)];
            let labels = ids.iter().enumerate().map(|(at, id)| if at == 0 { IGNORED } else { *id as i32 });
            examples.push(Example::new(ids.to_vec(), labels.collect()));
        }
    }
    Ok(examples.into_iter().collect())
}
