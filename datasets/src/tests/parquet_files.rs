//! Parquet files for tests, written by polars.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use polars_arrow::array::{Array, ListArray, StructArray, Utf8ViewArray};
use polars_arrow::datatypes::{ArrowDataType, ArrowSchema, Field};
use polars_arrow::offset::OffsetsBuffer;
use polars_arrow::record_batch::RecordBatchT;
use polars_parquet::write::{
    CompressionOptions, FileWriter, RowGroupIterator, StatisticsOptions, Version, WriteOptions, get_dtype_encoding,
};

use super::tiny::write;

pub(super) fn texts(texts: &[Option<&str>]) -> Box<dyn Array> {
    Utf8ViewArray::from_slice(texts).boxed()
}

/// Writes a file with these row groups, including the Arrow schema that pyarrow and polars also write.
pub(super) fn parquet(folder: &Path, name: &str, names: &[&str], groups: Vec<Vec<Box<dyn Array>>>) -> PathBuf {
    let fields =
        names.iter().zip(&groups[0]).map(|(name, column)| Field::new((*name).into(), column.dtype().clone(), true));
    let schema: ArrowSchema = fields.map(|field| (field.name.clone(), field)).collect();
    let options = WriteOptions {
        statistics: StatisticsOptions::default(),
        version: Version::V1,
        compression: CompressionOptions::Uncompressed,
        data_page_size: None,
    };
    let mut writer = FileWriter::try_new(Vec::new(), schema.clone(), options).expect("a schema");
    let encodings: Vec<_> = groups[0].iter().map(|column| get_dtype_encoding(column.dtype())).collect();
    for columns in groups {
        let (rows, shared) = (columns[0].len(), Arc::new(schema.clone()));
        let batch = [Ok(RecordBatchT::new(rows, shared, columns))];
        let written = RowGroupIterator::try_new(batch.into_iter(), &schema, options, encodings.clone().into());
        for group in written.expect("a schema") {
            writer.write(rows as u64, group.expect("a row group")).expect("written");
        }
    }
    writer.end(None).expect("written");
    write(folder, name, writer.into_inner())
}

/// A column of lists of messages with role, content, and a number that only tool messages have.
pub(super) fn message_lists(rows: &[&[(&str, Option<&str>)]]) -> Box<dyn Array> {
    let all: Vec<(&str, Option<&str>)> = rows.concat();
    let roles: Vec<Option<&str>> = all.iter().map(|(role, _)| Some(*role)).collect();
    let contents: Vec<Option<&str>> = all.iter().map(|(_, content)| *content).collect();
    let counts = all.iter().map(|(role, _)| (*role == "tool").then_some(3_i64));
    let counts: polars_arrow::array::PrimitiveArray<i64> = counts.collect();
    let columns = [("role", texts(&roles)), ("content", texts(&contents)), ("count", counts.boxed())];
    let fields =
        columns.iter().map(|(name, column)| Field::new((*name).into(), column.dtype().clone(), true)).collect();
    let values = columns.into_iter().map(|(_, column)| column).collect();
    let messages = StructArray::new(ArrowDataType::Struct(fields), all.len(), values, None);
    let mut offsets = vec![0_i64];
    for row in rows {
        offsets.push(offsets[offsets.len() - 1] + row.len() as i64);
    }
    let dtype = ListArray::<i64>::default_datatype(messages.dtype().clone());
    let offsets = OffsetsBuffer::try_from(offsets).expect("growing offsets");
    ListArray::<i64>::new(dtype, offsets, messages.boxed(), None).boxed()
}
