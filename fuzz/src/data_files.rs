//! Data files: bytes → rows → samples, as `tonfall data` reads them.

use std::path::Path;

use tonfall_recipes::plan::{DataFormat, SourcePlan, Split};

use crate::error::{DataError, RowFault};
use crate::formats::{format, samples, tasks};
use crate::read::files::{DataFile, Kind};
use crate::read::rows::{Chunks, RawRow, Row};
use crate::read::{delimited as table, jsonl, tbx as terms, xml_text};
use crate::{heap, scratch};

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

/// JSON lines. Line numbers increase within the file; an accepted row is what serde_json parses; no fault ends the file.
pub fn json_lines(bytes: &[u8]) {
    heap::bounded(bytes.len(), || {
        let lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
        let mut last = 0;
        let read = rows_of(&mut |chunks| jsonl::lines(bytes, &unexpected, chunks), &mut |number, row| {
            assert!(
                last < number && number <= lines.len() as u64,
                "line {number} after line {last} of {}",
                lines.len()
            );
            last = number;
            if let Ok(row) = row {
                assert_eq!(serde_json::from_slice::<Row>(lines[number as usize - 1]).ok().as_ref(), Some(row));
                build_all(row, Kind::Json, number);
            }
        });
        assert!(read.is_ok(), "the fault of a row ended the file: {:?}", read.err());
    });
}

/// One JSON list. Elements are numbered from 1; if serde_json parses the list, its elements are the rows.
pub fn json_list(bytes: &[u8]) {
    if bytes.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'[') {
        return;
    }
    heap::bounded(bytes.len(), || {
        let whole = serde_json::from_slice::<Vec<serde_json::Value>>(bytes).ok();
        let mut count = 0;
        let path = Path::new("any.json");
        let read = rows_of(&mut |chunks| jsonl::elements(path, bytes, &unexpected, chunks), &mut |number, row| {
            count += 1;
            assert_eq!(number, count);
            if let Ok(row) = row {
                if let Some(whole) = &whole {
                    assert_eq!(whole.get(number as usize - 1).and_then(serde_json::Value::as_object), Some(row));
                }
                build_all(row, Kind::Json, number);
            }
        });
        match (read, whole) {
            (Ok(()), Some(whole)) => assert_eq!(count, whole.len() as u64),
            (Ok(()), None) => {}
            (Err(error), whole) => {
                assert!(error.to_string().starts_with("any.json"), "{error}");
                assert!(whole.is_none(), "serde_json reads the list: {error}");
            }
        }
    });
}

/// CSV, and TSV if the first byte is odd. Rows have increasing line numbers within the file and the columns of the header.
pub fn delimited(input: &[u8]) {
    let Some((kind, bytes)) = input.split_first() else { return };
    let path = scratch::write(if kind % 2 == 0 { "any.csv" } else { "any.tsv" }, bytes);
    heap::bounded(bytes.len(), || {
        let file = DataFile::new(path).expect("a regular file");
        let Ok(columns) = table::columns(&file) else { return };
        let lines = 1 + bytes.iter().filter(|byte| matches!(byte, b'\n' | b'\r')).count() as u64;
        let mut last = 0;
        // The reader may stop at a fault, such as a quote that is never closed.
        let read = rows_of(&mut |chunks| table::read(&file, chunks), &mut |number, row| {
            assert!(last < number && number <= lines, "line {number} after line {last} of {lines}");
            last = number;
            if let Ok(row) = row {
                assert!(row.keys().all(|name| columns.contains(name)), "{row:?}");
                build_all(row, file.kind, number);
            }
        });
        if let Err(error) = read {
            assert!(error.to_string().starts_with(&file.path.display().to_string()), "{error}");
        }
    });
}

/// TBX: every entry, and the tasks that are made of it. Line numbers lie within the file; an error names the file.
pub fn tbx(bytes: &[u8]) {
    heap::bounded(bytes.len(), || {
        let Ok(text) = xml_text::decode(bytes.to_vec()) else { return };
        let lines = text.split('\n').count() as u64;
        let path = Path::new("any.tbx");
        let read = rows_of(&mut |chunks| terms::concepts(path, &text, chunks), &mut |number, row| {
            assert!((1..=lines).contains(&number), "line {number} of {lines}");
            if let Ok(row) = row {
                // A concept without a term has only its name.
                assert!(row.contains_key("language") || row.contains_key("concept"));
                build(row, DataFormat::Terminology, Kind::Tbx, number);
            }
        });
        if let Err(error) = read {
            assert!(error.to_string().starts_with("any.tbx"), "{error}");
        }
    });
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
    panic!("reading bytes in memory failed: {error}")
}

fn build_all(row: &Row, kind: Kind, key: u64) {
    FORMATS.iter().for_each(|format| build(row, *format, kind, key));
}

/// Builds a row's samples with the built-in templates. A row without samples has a reason.
fn build(row: &Row, format: DataFormat, kind: Kind, key: u64) {
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
        assert!(!built.samples.is_empty() || built.no_task.is_some());
    }
}
