//! Reads Parquet with polars. Only this module and [`crate::read::cells`] use polars.
//!
//! Responsible for: the rows of a table, one slice of a row group at a time. Must not depend on: the meaning of a row.

use std::fs::File;
use std::io::Cursor;
use std::ops::Range;
use std::path::Path;

use memmap2::Mmap;
use polars_arrow::datatypes::{ArrowDataType, Field};
use polars_buffer::Buffer;
use polars_parquet::read::schema::parquet_to_arrow_schema;
use polars_parquet::read::{
    BasicDecompressor, FileMetadata, Filter, PageReader, ParquetType, PrimitiveLogicalType, RowGroupMetadata,
    column_iter_to_arrays, read_metadata,
};

use crate::error::DataError;
use crate::foreign_panics::caught;
use crate::read::cells::{self, Column};
use crate::read::files::DataFile;
use crate::read::parquet_headers;
use crate::read::rows::{Chunks, Content};

/// Maximum number of rows in memory.
const SLICE_ROWS: u64 = 1 << 14;
/// Maximum number of bytes in memory, estimated by the average row size of a row group.
const SLICE_BYTES: u64 = 64 << 20;

/// Reads every row. With `wanted`, only these columns are decoded.
pub(crate) fn read(file: &DataFile, wanted: Option<&[String]>, chunks: &mut Chunks<'_>) -> Result<(), DataError> {
    let path = &file.path;
    let is_wanted = |name: &str| wanted.is_none_or(|wanted| wanted.iter().any(|column| column == name));
    let table = Table::open(path, &is_wanted)?;
    let mut number = 0;
    for group in &table.metadata.row_groups {
        let rows = group.num_rows();
        for start in (0..rows).step_by(table.slice_rows(group)) {
            let slice = start..(start + table.slice_rows(group)).min(rows);
            let columns = table.columns(path, group, &slice)?;
            for index in 0..slice.len() {
                number += 1;
                let content = match cells::row(&columns, index) {
                    Ok(row) => Content::Row(row),
                    Err(fault) => Content::Fault(fault),
                };
                chunks.push(number, content)?;
            }
        }
    }
    Ok(())
}

/// The columns of a file.
pub(crate) fn columns(path: &Path) -> Result<Vec<String>, DataError> {
    let metadata = metadata(path, &|_| false)?;
    Ok(metadata.schema().fields().iter().map(|field| field.name().to_owned()).collect())
}

/// Reads the footer, after the lengths in the file are checked.
fn metadata(path: &Path, is_wanted: &dyn Fn(&str) -> bool) -> Result<FileMetadata, DataError> {
    let io = |source| DataError::Io { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(io)?;
    if file.metadata().map_err(io)?.len() == 0 {
        return Err(DataError::Empty { path: path.to_owned() });
    }
    parquet_headers::check(path, is_wanted)?;
    guarded(path, || read_metadata(&mut file).map_err(|error| error.to_string()))
}

/// A mapped file, and the fields of its wanted columns.
struct Table {
    bytes: Buffer<u8>,
    metadata: FileMetadata,
    fields: Vec<Field>,
}

impl Table {
    fn open(path: &Path, is_wanted: &dyn Fn(&str) -> bool) -> Result<Self, DataError> {
        let metadata = metadata(path, is_wanted)?;
        let fields = guarded(path, || {
            let wanted = metadata.schema().fields().iter().filter(|field| is_wanted(field.name()));
            Ok(wanted.filter_map(arrow_field).collect::<Vec<Field>>())
        })?;
        if let Some(field) = fields.iter().find(|field| !cells::is_readable(field.dtype())) {
            let why = format!(
                "column `{}` has the type {:?}, which is not read; write it as text or as numbers",
                field.name,
                field.dtype()
            );
            return Err(DataError::Unreadable { path: path.to_owned(), why });
        }
        Ok(Self { bytes: map(path)?, metadata, fields })
    }

    /// The number of rows of a row group that are decoded at once.
    fn slice_rows(&self, group: &RowGroupMetadata) -> usize {
        let columns = self.fields.iter().filter_map(|field| group.columns_under_root_iter(&field.name)).flatten();
        let bytes: u64 = columns.map(|column| u64::try_from(column.uncompressed_size()).unwrap_or(0)).sum();
        let bytes_of_row = bytes / (group.num_rows() as u64).max(1);
        (SLICE_BYTES / bytes_of_row.max(1)).clamp(1, SLICE_ROWS) as usize
    }

    /// Decodes `rows` of a row group.
    fn columns(&self, path: &Path, group: &RowGroupMetadata, rows: &Range<usize>) -> Result<Vec<Column>, DataError> {
        let decoded = self.fields.iter().map(|field| {
            let column = guarded(path, || {
                let decoded = self.column(group, field, rows);
                decoded.map_err(|why| format!("column `{}`: {why}", field.name))
            })?;
            match column.len() == rows.len() {
                true => Ok(column),
                false => {
                    let why = format!(
                        "damaged Parquet: column `{}` has {} values for {} rows",
                        field.name,
                        column.len(),
                        rows.len()
                    );
                    Err(DataError::Unreadable { path: path.to_owned(), why })
                }
            }
        });
        decoded.collect()
    }

    fn column(&self, group: &RowGroupMetadata, field: &Field, rows: &Range<usize>) -> Result<Column, String> {
        let chunks = group.columns_under_root_iter(&field.name).ok_or("it is missing in a row group")?;
        let (mut pages, mut types) = (Vec::new(), Vec::new());
        for chunk in chunks {
            let range = chunk.byte_range();
            let bytes = self.bytes.clone().sliced(range.start as usize..range.end as usize);
            pages.push(BasicDecompressor::new(
                PageReader::new(Cursor::new(bytes), chunk, Vec::new(), usize::MAX),
                Vec::new(),
            ));
            types.push(&chunk.descriptor().descriptor.primitive_type);
        }
        let filter = Filter::new_ranged(rows.start, rows.end);
        let decoded = column_iter_to_arrays(pages, types, field.clone(), Some(filter));
        let (parts, _) = decoded.map_err(|error| error.to_string())?;
        Ok(Column { name: field.name.to_string(), parts })
    }
}

/// The Arrow field of a column, derived only from the Parquet schema. The Arrow schema that some writers add would turn
/// texts into dictionaries. `None` for a group without columns.
fn arrow_field(column: &ParquetType) -> Option<Field> {
    let (_, mut field) = parquet_to_arrow_schema(std::slice::from_ref(column)).into_iter().next()?;
    field.dtype = match column {
        ParquetType::PrimitiveType(primitive)
            if primitive.logical_type == Some(PrimitiveLogicalType::Float16)
                && field.dtype == ArrowDataType::FixedSizeBinary(2) =>
        {
            ArrowDataType::Float16
        }
        _ => maps_as_lists(field.dtype),
    };
    Some(field)
}

/// Replaces maps by lists of pairs, which is how they are stored.
fn maps_as_lists(dtype: ArrowDataType) -> ArrowDataType {
    let inner = |mut field: Field| {
        field.dtype = maps_as_lists(field.dtype);
        field
    };
    match dtype {
        ArrowDataType::Map(field, _) | ArrowDataType::LargeList(field) => {
            ArrowDataType::LargeList(Box::new(inner(*field)))
        }
        ArrowDataType::Struct(fields) => ArrowDataType::Struct(fields.into_iter().map(inner).collect()),
        other => other,
    }
}

#[expect(unsafe_code, reason = "a memory map")]
fn map(path: &Path) -> Result<Buffer<u8>, DataError> {
    let io = |source| DataError::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(io)?;
    // SAFETY: the bytes are only read. If another process changes them, the decoder returns other values or reports
    // damage. If the file is truncated, the process ends with a signal, as in every program that maps files.
    let map = unsafe { Mmap::map(&file) }.map_err(io)?;
    Ok(Buffer::from_owner(map))
}

/// Runs polars code. A panic caused by a damaged file becomes an error and prints nothing.
fn guarded<T>(path: &Path, run: impl FnOnce() -> Result<T, String>) -> Result<T, DataError> {
    let unreadable = |why: String| DataError::Unreadable { path: path.to_owned(), why };
    match caught(run) {
        Some(result) => result.map_err(|error| unreadable(first_line(&error))),
        None => Err(unreadable("the file is damaged".to_owned())),
    }
}

/// The first line of a message, limited in length.
fn first_line(message: &str) -> String {
    const SHOWN: usize = 200;
    let line = message.lines().next().unwrap_or_default();
    match line.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}
