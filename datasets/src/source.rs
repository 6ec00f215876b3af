//! Data files → rows. polars stays in here and in [`crate::cells`].
//!
//! Responsible for: reading JSON lines and Parquet by column name into [`Sample`]s that know their file and row.
//! Must not depend on: templates, tokenizers.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Once};

use polars::io::HiveOptions;
use polars::prelude::{
    DataFrame, DataType, Field, LazyFileListReader, LazyFrame, LazyJsonLineReader, PolarsResult, ScanArgsParquet,
    ScanSources, Schema, col,
};

use crate::cells;
use crate::conversation::{Conversation, Sample, Shape, TOOLS};
use crate::error::{DataError, RowFault};
use crate::{jsonl, parquet_headers};

/// A row of a file: its line in JSON lines, its number from 1 in Parquet.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub number: u64,
    pub sample: Sample,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    JsonLines,
    Parquet,
}

fn kind(path: &Path) -> Result<Kind, DataError> {
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
    match extension.as_deref() {
        Some("jsonl" | "ndjson") => Ok(Kind::JsonLines),
        Some("parquet") => Ok(Kind::Parquet),
        _ => Err(DataError::UnknownKind { path: path.to_owned() }),
    }
}

/// The columns of a file (of JSON lines: the keys of its first rows).
///
/// # Errors
/// When the file can't be read or has no rows.
pub fn columns(path: &Path) -> Result<Vec<String>, DataError> {
    match kind(path)? {
        Kind::JsonLines => jsonl::columns(path),
        Kind::Parquet => Ok(parquet_schema(path)?.iter_names().map(ToString::to_string).collect()),
    }
}

/// All rows of a file, checked.
///
/// # Errors
/// Names the file and the first row that isn't what `shape` says.
pub fn read(path: &Path, shape: &Shape) -> Result<Vec<Row>, DataError> {
    let kind = kind(path)?;
    let present = columns(path)?;
    for (column, key) in shape.columns() {
        // A key that the first lines lack may still come; the survey names the first line without it.
        if !present.contains(column) {
            return Err(DataError::MissingColumn { path: path.to_owned(), column: column.clone(), key, present });
        }
    }
    let rows = match kind {
        Kind::JsonLines => read_json_lines(path, shape)?,
        Kind::Parquet => read_parquet(path, shape, &present)?,
    };
    if rows.is_empty() { Err(DataError::Empty { path: path.to_owned() }) } else { Ok(rows) }
}

fn read_json_lines(path: &Path, shape: &Shape) -> Result<Vec<Row>, DataError> {
    let survey = jsonl::survey(path, shape)?;
    let schema =
        Schema::from_iter(shape.columns().into_iter().map(|(column, _)| Field::new(column.into(), json_type(shape))));
    let frame = guarded(path, || {
        let schema = Arc::new(schema);
        LazyJsonLineReader::new_with_sources(file(path)?).with_schema(Some(schema)).finish()?.collect()
    })?;
    if frame.height() != survey.len() {
        let why =
            format!("the table has {} rows, but the file {} lines that aren't blank", frame.height(), survey.len());
        return Err(DataError::Unreadable { path: path.to_owned(), why });
    }
    let mut surveyed = survey.into_iter();
    rows(path, &frame, shape, |_| match surveyed.next() {
        Some(row) => Extra { number: row.line, fields: Some(row.fields), tools: row.tools },
        None => Extra::default(),
    })
}

/// The type that a column of texts, or of messages, has in a table of JSON lines.
fn json_type(shape: &Shape) -> DataType {
    let text = |name: &'static str| Field::new(name.into(), DataType::String);
    match shape {
        Shape::Messages { .. } => DataType::List(Box::new(DataType::Struct(vec![text("role"), text("content")]))),
        Shape::PromptCompletion { .. } | Shape::Text { .. } => DataType::String,
    }
}

fn read_parquet(path: &Path, shape: &Shape, present: &[String]) -> Result<Vec<Row>, DataError> {
    let schema = parquet_schema(path)?;
    for (column, key) in shape.columns() {
        let found = schema.get(column);
        let (fits, expected) = match (shape, found) {
            (Shape::Messages { .. }, Some(DataType::List(inner))) => {
                (matches!(**inner, DataType::Struct(_)), "a list of structs with `role` and `content`")
            }
            (Shape::Messages { .. }, _) => (false, "a list of structs with `role` and `content`"),
            (_, found) => (matches!(found, Some(DataType::String | DataType::Null)), "text"),
        };
        if !fits {
            let found = found.map_or_else(|| "nothing".to_owned(), ToString::to_string);
            return Err(DataError::ColumnType { path: path.to_owned(), column: column.clone(), key, found, expected });
        }
    }
    parquet_headers::check(path, |column| shape.uses(column))?;
    let wanted: Vec<_> =
        present.iter().filter(|column| shape.uses(column)).map(|column| col(column.as_str())).collect();
    let frame = guarded(path, || scan_parquet(path)?.select(wanted).collect())?;
    rows(path, &frame, shape, |index| Extra { number: index as u64 + 1, ..Extra::default() })
}

fn parquet_schema(path: &Path) -> Result<Arc<Schema>, DataError> {
    refuse_empty(path)?;
    parquet_headers::check(path, |_| false)?;
    guarded(path, || scan_parquet(path)?.collect_schema())
}

fn scan_parquet(path: &Path) -> PolarsResult<LazyFrame> {
    // As a path, the name would be searched for wildcards.
    let hive_options = HiveOptions::new_disabled();
    let args = ScanArgsParquet { glob: false, hive_options, ..ScanArgsParquet::default() };
    LazyFrame::scan_parquet_sources(file(path)?, args)
}

fn file(path: &Path) -> PolarsResult<ScanSources> {
    Ok(ScanSources::Files(Arc::new([File::open(path)?])))
}

fn refuse_empty(path: &Path) -> Result<(), DataError> {
    let metadata = std::fs::metadata(path).map_err(|source| DataError::Io { path: path.to_owned(), source })?;
    if metadata.len() == 0 { Err(DataError::Empty { path: path.to_owned() }) } else { Ok(()) }
}

/// Runs polars; a panic in it over a damaged file becomes an error as well, and says nothing on its own.
fn guarded<T>(path: &Path, run: impl FnOnce() -> PolarsResult<T>) -> Result<T, DataError> {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let polars = |file: &str| GUARDED.load(Ordering::Relaxed) > 0 && file.contains("polars");
            if !panic.location().is_some_and(|location| polars(location.file())) {
                before(panic);
            }
        }));
    });
    let unreadable = |why: String| DataError::Unreadable { path: path.to_owned(), why };
    GUARDED.fetch_add(1, Ordering::Relaxed);
    let result = catch_unwind(AssertUnwindSafe(run));
    GUARDED.fetch_sub(1, Ordering::Relaxed);
    match result {
        Ok(result) => result.map_err(|error| unreadable(first_line(&error.to_string()))),
        Err(_) => Err(unreadable("the file is damaged".to_owned())),
    }
}

/// The beginning of a message that may go on for pages.
fn first_line(message: &str) -> String {
    const SHOWN: usize = 200;
    let line = message.lines().next().unwrap_or_default();
    match line.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

/// How many threads are inside of [`guarded`].
static GUARDED: AtomicUsize = AtomicUsize::new(0);

/// What a row has besides the columns of its table.
#[derive(Default)]
struct Extra {
    number: u64,
    /// Of JSON lines: what the table doesn't hold of each message.
    fields: Option<Vec<serde_json::Map<String, serde_json::Value>>>,
    tools: Option<serde_json::Value>,
}

fn rows(
    path: &Path,
    frame: &DataFrame,
    shape: &Shape,
    mut extra: impl FnMut(usize) -> Extra,
) -> Result<Vec<Row>, DataError> {
    let table = cells::Table::new(frame);
    (0..frame.height())
        .map(|index| {
            let extra = extra(index);
            let number = extra.number;
            let sample = sample(&table, index, shape, extra).and_then(Sample::validate);
            Ok(Row { number, sample: sample.map_err(|fault| DataError::row(path, number, fault))? })
        })
        .collect()
}

fn sample(table: &cells::Table<'_>, index: usize, shape: &Shape, extra: Extra) -> Result<Sample, RowFault> {
    Ok(match shape {
        Shape::Text { column } => Sample::Text(table.text(column, index)?),
        Shape::PromptCompletion { prompt, completion } => {
            Sample::PromptCompletion { prompt: table.text(prompt, index)?, completion: table.text(completion, index)? }
        }
        Shape::Messages { column } => {
            let tools = match extra.tools {
                Some(tools) => Some(tools),
                None => table.json(TOOLS, index)?,
            };
            Sample::Conversation(Conversation {
                messages: table.messages(column, index, extra.fields)?,
                tools: tools.map(as_tools).transpose()?.flatten(),
            })
        }
    })
}

/// A list of tools; tables often keep it as a string of JSON.
fn as_tools(tools: serde_json::Value) -> Result<Option<serde_json::Value>, RowFault> {
    let list = match tools {
        serde_json::Value::String(text) if text.is_empty() => return Ok(None),
        serde_json::Value::String(text) => serde_json::from_str(&text).map_err(|_| RowFault::Tools)?,
        list => list,
    };
    match list {
        serde_json::Value::Array(list) if list.is_empty() => Ok(None),
        serde_json::Value::Null => Ok(None),
        serde_json::Value::Array(list) => Ok(Some(serde_json::Value::Array(list))),
        _ => Err(RowFault::Tools),
    }
}
