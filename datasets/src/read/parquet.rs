//! Parquet through polars. polars stays in here, in [`crate::read::cells`] and in [`crate::read::filter`].
//!
//! Responsible for: rows of a table, a slice at a time. Must not depend on: what a row means.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Once};

use polars::io::HiveOptions;
use polars::prelude::{LazyFrame, PolarsResult, ScanArgsParquet, ScanSources, Schema};

use crate::error::DataError;
use crate::read::files::DataFile;
use crate::read::rows::{Chunks, Content};
use crate::read::{cells, parquet_headers};

/// Rows in memory at once,
const SLICE_ROWS: u64 = 1 << 14;
/// or fewer, so that they take no more bytes than these.
const SLICE_BYTES: u64 = 64 << 20;

pub(crate) fn read(file: &DataFile, chunks: &mut Chunks<'_>) -> Result<(), DataError> {
    let path = &file.path;
    schema(path)?;
    let size = parquet_headers::check(path, |_| true)?;
    let slice = (SLICE_BYTES / size.bytes_of_row().max(1)).clamp(1, SLICE_ROWS) as u32;
    for offset in (0_i64..).step_by(slice as usize) {
        let frame = guarded(path, || scan(path)?.slice(offset, slice).collect())?;
        let table = cells::Table::new(&frame);
        for index in 0..frame.height() {
            let content = match table.row(index) {
                Ok(row) => Content::Row(row),
                Err(fault) => Content::Fault(fault),
            };
            chunks.push(offset as u64 + index as u64 + 1, content)?;
        }
        if frame.height() < slice as usize {
            break;
        }
    }
    Ok(())
}

/// The columns of a file.
pub(crate) fn columns(path: &Path) -> Result<Vec<String>, DataError> {
    Ok(schema(path)?.iter_names().map(ToString::to_string).collect())
}

fn schema(path: &Path) -> Result<Arc<Schema>, DataError> {
    let metadata = std::fs::metadata(path).map_err(|source| DataError::Io { path: path.to_owned(), source })?;
    if metadata.len() == 0 {
        return Err(DataError::Empty { path: path.to_owned() });
    }
    parquet_headers::check(path, |_| false)?;
    guarded(path, || scan(path)?.collect_schema())
}

fn scan(path: &Path) -> PolarsResult<LazyFrame> {
    // As a path, the name would be searched for wildcards.
    let hive_options = HiveOptions::new_disabled();
    let args = ScanArgsParquet { glob: false, hive_options, ..ScanArgsParquet::default() };
    LazyFrame::scan_parquet_sources(ScanSources::Files(Arc::new([File::open(path)?])), args)
}

/// Runs polars; a panic in it over a damaged file becomes an error as well, and says nothing on its own.
pub(crate) fn guarded<T>(path: &Path, run: impl FnOnce() -> PolarsResult<T>) -> Result<T, DataError> {
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
pub(crate) fn first_line(message: &str) -> String {
    const SHOWN: usize = 200;
    let line = message.lines().next().unwrap_or_default();
    match line.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

/// How many threads are inside of [`guarded`].
static GUARDED: AtomicUsize = AtomicUsize::new(0);
