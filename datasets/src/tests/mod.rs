//! Tests of the whole crate, on files and tokenizers that the tests create.

mod decoding;
mod encoding;
mod formats;
mod labels;
mod parquet_files;
mod pipeline;
mod preparing;
mod reference;
mod sources;
mod tables;
mod templates;
mod term_bases;
mod tiny;
