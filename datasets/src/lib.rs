//! Data files → validated examples → rendered, tokenized and labelled → batches.
//!
//! Responsible for: everything between the files that a plan names and the token ids that a model computes. What crosses
//! this room's door is plain data; polars, minijinja and tokenizers stay inside.
//! Must not depend on: Burn, ratatui.

mod batch;
mod cells;
mod conversation;
mod error;
mod jsonl;
mod mask;
mod parquet_headers;
mod permutation;
mod prepare;
mod prompts;
mod python;
mod report;
mod source;
mod template;
mod tokenizer;

pub use batch::{Batch, Example, Sampler, Source};
pub use conversation::{Conversation, Message, Sample, Shape};
pub use error::{DataError, RowFault, TemplateError, TokenizerError};
pub use mask::{IGNORED, Labelled, label_sample};
pub use prepare::{Phase, PreparedDataset, Progress, prepare};
pub use prompts::{HeldOutPrompt, read_prompts};
pub use report::{FileReport, PrepareReport};
pub use source::{Row, columns, read};
pub use template::{ChatTemplate, Rendering};
pub use tokenizer::{ChatTokenizer, DecodeStream, TokenizerSpec};

#[cfg(test)]
mod tests;
