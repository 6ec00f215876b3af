//! Data files → validated examples → rendered, tokenized and labelled → batches.
//!
//! Responsible for: all steps from the files of a plan to the token ids of a batch. The public API has only plain data
//! types; the types of polars, minijinja and tokenizers stay inside this crate.
//! Must not depend on: Burn, ratatui.

mod audit;
mod error;
mod foreign_panics;
mod formats;
mod label;
mod prepare;
mod read;
mod render;
mod stable_hash;

pub use audit::{Finding, Findings, Hit, name as rule_name};
pub use error::{DataError, RowFault, TemplateError, TokenizerError};
pub use formats::conversation::{Conversation, Message, Sample};
pub use label::mask::{IGNORED, LabelOptions, Labelled, label_sample};
pub use prepare::batch::{Batch, Example, Largest, Sampler, Source};
pub use prepare::report::{FileReport, PrepareReport};
pub use prepare::store::Examples;
pub use prepare::term_concepts::{TermConcept, term_concepts};
pub use prepare::{Phase, PreparedDataset, Progress, prepare};
pub use read::prompts::{HeldOutPrompt, read_prompts};
pub use render::show::{Stretch, stretches};
pub use render::template::{ChatTemplate, Rendering};
pub use render::tokenizer::{ChatTokenizer, DecodeStream, OtherTemplate, TokenizerSpec};

#[cfg(test)]
mod tests;
