//! GGUF files: reader, writer and tokenizer.
//!
//! Must not depend on: Hugging Face directories, model families.

mod cursor;
mod file;
mod other_types;
mod piece_scores;
mod pre_tokenizers;
mod split;
mod tokenizer;
mod tokenizer_json;
mod tokenizer_metadata;
mod value;
mod writer;

pub(crate) use cursor::{Cursor, Fault};
pub use file::GgufError;
pub(crate) use file::{GgufFile, ListedTensor, open_headers};
pub use tokenizer::GgufTokenizerError;
pub(crate) use tokenizer::tokenizer_files;
pub use tokenizer_metadata::TokenizerMetadataError;
pub(crate) use tokenizer_metadata::{carried_tokenizer, tokenizer_metadata};
pub(crate) use value::{Array, Value};
pub(crate) use writer::{Metadata, MetadataValue, PlannedGguf, PlannedGgufTensor};
