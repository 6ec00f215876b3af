//! The readers of data files, given any bytes.
//!
//! Responsible for: bytes → rows → samples, the way that `tonfall data` goes, and what must hold whatever the bytes are.
//! Must not depend on: polars, tokenizers. The readers' own files are compiled here, so that a fuzzer is built in a minute.

// What of the files isn't reached from here.
#![allow(dead_code)]

#[path = "../../datasets/src/error.rs"]
mod error;

#[path = "../../datasets/src/formats"]
mod formats {
    pub mod conversation;
    pub mod entry;
    pub mod format;
    pub mod samples;
    pub mod tasks;
    pub mod term_columns;
    pub mod term_tasks;
}

#[path = "../../datasets/src/read"]
mod read {
    pub mod delimited;
    pub mod files;
    pub mod jsonl;
    pub mod rows;
    pub mod tbx;
    pub mod tbx_concept;
    pub mod term_status;
    pub mod xml_text;

    /// Stands in for the reader that needs polars.
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

use std::path::Path;

use error::{DataError, RowFault};
use formats::{format, samples, tasks};
use read::rows::{Chunks, RawRow, Row};
use read::{files, jsonl, tbx, xml_text};
use tonfall_recipes::plan::{DataFormat, SourcePlan, Split};

const FORMATS: [DataFormat; 8] = [
    DataFormat::Messages,
    DataFormat::Sharegpt,
    DataFormat::Alpaca,
    DataFormat::PromptCompletion,
    DataFormat::Text,
    DataFormat::Preference,
    DataFormat::Style,
    DataFormat::Terminology,
];

/// JSON lines: every row in every format.
pub fn json_lines(bytes: &[u8]) {
    let lines = bytes.split(|byte| *byte == b'\n').count() as u64;
    let mut last = 0;
    let read = rows_of(&mut |chunks| jsonl::lines(bytes, &unexpected, chunks), &mut |number, row| {
        assert!(last < number && number <= lines, "line {number} of {lines} behind line {last}");
        last = number;
        if let Ok(row) = row {
            // What is read is what any reader of JSON reads.
            let line = bytes.split(|byte| *byte == b'\n').nth(number as usize - 1).unwrap_or_default();
            assert_eq!(serde_json::from_slice::<Row>(line).ok().as_ref(), Some(row));
            FORMATS.iter().for_each(|format| build(row, *format, files::Kind::JsonLines, number));
        }
    });
    assert!(read.is_ok(), "a fault is one of a row: {:?}", read.err());
}

/// TBX: every entry, and the tasks that are made of it.
pub fn tbx(bytes: &[u8]) {
    let Ok(text) = xml_text::decode(bytes.to_vec()) else { return };
    let lines = text.split('\n').count() as u64;
    let read = rows_of(&mut |chunks| tbx::concepts(Path::new("any.tbx"), &text, chunks), &mut |number, row| {
        assert!((1..=lines).contains(&number), "line {number} of {lines}");
        if let Ok(row) = row {
            // A concept without a term says only its name.
            assert!(row.contains_key("language") || row.contains_key("concept"));
            build(row, DataFormat::Terminology, files::Kind::Tbx, number);
        }
    });
    // What was read before a fault is not given out: half a term base is none.
    if let Err(error) = read {
        assert!(error.to_string().starts_with("any.tbx:"), "{error}");
    }
}

fn rows_of(
    read: &mut dyn FnMut(&mut Chunks<'_>) -> Result<(), DataError>,
    each: &mut dyn FnMut(u64, Result<&Row, RowFault>),
) -> Result<(), DataError> {
    let mut give = |chunk: Vec<RawRow>| {
        for row in chunk {
            let number = row.number;
            match row.parse() {
                Ok(row) => each(number, Ok(&row)),
                Err(fault) => each(number, Err(fault)),
            }
        }
        Ok(())
    };
    let mut chunks = Chunks::new(&mut give);
    read(&mut chunks)?;
    chunks.flush()
}

fn unexpected(error: std::io::Error) -> DataError {
    panic!("bytes in memory can always be read: {error}")
}

/// Builds a row's samples with the built-in templates.
fn build(row: &Row, format: DataFormat, kind: files::Kind, key: u64) {
    let source = SourcePlan {
        files: Vec::new(),
        split: Split::Train,
        format,
        columns: Default::default(),
        filter: None,
        weight: 1.0,
        language: None,
        translate_from: None,
        no_answer: Some("It is not there.".to_owned()),
    };
    let present = row.keys().cloned().collect();
    let Ok(layout) = format::Layout::choose(Path::new("any"), kind, present, &source, &[]) else { return };
    if let Ok(built) = samples::build(row, &layout, &source, &tasks::Tasks::new(&[]), key) {
        // A row without samples states why.
        assert!(!built.samples.is_empty() || built.no_task.is_some());
    }
}
