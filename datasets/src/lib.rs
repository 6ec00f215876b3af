//! Data files → validated examples → rendered, tokenized and labelled → batches.
//!
//! Responsible for: everything between the files that a plan names and the token ids that a model computes. What crosses
//! this room's door is plain data; polars, minijinja and tokenizers stay inside.
//! Must not depend on: Burn, ratatui.

mod audit;
mod batch;
mod cache;
mod cells;
mod conversation;
mod delimited;
mod encoder;
mod error;
mod files;
mod filter;
mod format;
mod inflection;
mod jsonl;
mod mask;
mod order;
mod packing;
mod parquet;
mod parquet_headers;
mod permutation;
mod prepare;
mod prompts;
mod python;
mod report;
mod rows;
mod samples;
mod show;
mod store;
mod tasks;
mod tbx;
mod template;
mod terms;
mod thinking;
mod tokenizer;

pub use audit::{Finding, Findings, Hit, name as rule_name};
pub use batch::{Batch, Example, Largest, Sampler, Source};
pub use conversation::{Conversation, Message, Sample};
pub use error::{DataError, RowFault, TemplateError, TokenizerError};
pub use mask::{IGNORED, LabelOptions, Labelled, label_sample};
pub use prepare::{Phase, PreparedDataset, Progress, prepare};
pub use prompts::{HeldOutPrompt, read_prompts};
pub use report::{FileReport, PrepareReport};
pub use show::{Stretch, stretches};
pub use store::Examples;
pub use template::{ChatTemplate, Rendering};
pub use tokenizer::{ChatTokenizer, DecodeStream, TokenizerSpec};

#[cfg(test)]
mod tests;
