//! GGUF files: reader, writer, model description and tokenizer.
//!
//! Must not depend on: Hugging Face directories.

mod cursor;
mod describe;
mod file;
mod pre_tokenizers;
mod split;
mod tokenizer;
mod value;
mod writer;

pub(crate) use describe::describe;
pub use file::GgufError;
pub(crate) use file::GgufFile;
pub use tokenizer::GgufTokenizerError;
pub(crate) use tokenizer::tokenizer_files;
pub(crate) use writer::{Metadata, MetadataValue, PlannedGguf, PlannedGgufTensor};
