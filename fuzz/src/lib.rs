//! The readers of foreign files, given any bytes.
//!
//! Responsible for: one function per target, which reads the bytes as the program would and checks the result.
//! `README.md` lists the targets. Must not depend on: polars, Burn.
//!
//! The readers of the datasets crate are private, and the crate needs polars. Their files are compiled here instead, so
//! that the targets reach them and build in minutes.

// Only a part of the readers' files is called from here.
#![allow(dead_code)]

#[path = "../../datasets/src/error.rs"]
mod error;

#[path = "../../datasets/src/foreign_panics.rs"]
mod foreign_panics;

#[path = "../../datasets/src/stable_hash.rs"]
mod stable_hash;

#[path = "../../datasets/src/formats"]
mod formats {
    pub mod content;
    pub mod conversation;
    pub mod entry;
    pub mod format;
    pub mod roles;
    pub mod samples;
    pub mod tasks;
    pub mod term_columns;
    pub mod term_tasks;
    pub mod thinking;
}

#[path = "../../datasets/src/label"]
mod label {
    pub mod mask;
    pub mod traces;
}

#[path = "../../datasets/src/read"]
mod read {
    pub mod delimited;
    pub mod files;
    pub mod jsonl;
    pub mod parquet_headers;
    pub mod rows;
    pub mod tbx;
    pub mod tbx_concept;
    pub mod term_status;
    pub mod xml_text;

    /// Replaces the reader that needs polars.
    pub(crate) mod parquet {
        use std::path::Path;

        use crate::error::DataError;
        use crate::read::files::DataFile;
        use crate::read::rows::Chunks;

        pub(crate) fn read(file: &DataFile, _: Option<&[String]>, _: &mut Chunks<'_>) -> Result<(), DataError> {
            Err(DataError::UnknownKind { path: file.path.clone() })
        }

        pub(crate) fn columns(path: &Path) -> Result<Vec<String>, DataError> {
            Err(DataError::UnknownKind { path: path.to_owned() })
        }
    }
}

#[path = "../../datasets/src/render"]
mod render {
    mod containers;
    pub mod encoder;
    pub mod forms;
    pub mod growth;
    pub mod python;
    pub mod template;
    pub mod tokenizer;
}

mod data_files;
mod heap;
mod ollama;
mod parquet;
mod recipes;
mod scratch;
mod templates;
mod tokenizer_json;
mod weights;

pub use data_files::{delimited, json_lines, json_list, tbx};
pub use ollama::{go_template, modelfile};
pub use parquet::parquet_headers;
pub use recipes::{plan, recipe};
pub use templates::chat_template;
pub use tokenizer_json::tokenizer;
pub use weights::{adapter_config, base_directory, gguf, imatrix, safetensors, shard_index};
