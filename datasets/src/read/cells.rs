//! Converts the cells of Arrow arrays to JSON.
//!
//! Responsible for: the supported column types, and rows by column name. Must not depend on: the source of the arrays.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use polars_arrow::array::{
    Array, BinaryViewArray, BooleanArray, FixedSizeBinaryArray, ListArray, PrimitiveArray, StructArray, Utf8ViewArray,
};
use polars_arrow::datatypes::{ArrowDataType, TimeUnit};
use polars_arrow::types::NativeType;
use polars_utils::float16::pf16;
use serde_json::{Map, Value};

use crate::error::RowFault;
use crate::read::rows::Row;

/// A column of some rows. The decoder may return it in several parts.
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) parts: Vec<Box<dyn Array>>,
}

impl Column {
    pub(crate) fn len(&self) -> usize {
        self.parts.iter().map(|part| part.len()).sum()
    }

    fn cell(&self, mut index: usize) -> Result<Value, String> {
        for part in &self.parts {
            if index < part.len() {
                return json(part.as_ref(), index);
            }
            index -= part.len();
        }
        Err("the column has fewer values than the table has rows".to_owned())
    }
}

/// Converts a row. Nulls are kept.
pub(crate) fn row(columns: &[Column], index: usize) -> Result<Row, RowFault> {
    let cells = columns.iter().map(|column| {
        let value = column.cell(index).map_err(|why| RowFault::Syntax(format!("column `{}`: {why}", column.name)))?;
        Ok((column.name.clone(), value))
    });
    cells.collect()
}

/// Whether cells of this type can be converted to JSON.
pub(crate) fn is_readable(dtype: &ArrowDataType) -> bool {
    use ArrowDataType as D;
    match dtype {
        D::LargeList(field) => is_readable(field.dtype()),
        D::Struct(fields) => fields.iter().all(|field| is_readable(field.dtype())),
        D::Null
        | D::Boolean
        | D::Int8
        | D::Int16
        | D::Int32
        | D::Int64
        | D::UInt8
        | D::UInt16
        | D::UInt32
        | D::UInt64
        | D::Float16
        | D::Float32
        | D::Float64
        | D::Utf8View
        | D::BinaryView
        | D::FixedSizeBinary(_)
        | D::Date32
        | D::Timestamp(..)
        | D::Time32(_)
        | D::Time64(_) => true,
        // More than 38 digits don't fit in 128 bits.
        D::Decimal(digits, _) => *digits <= 38,
        _ => false,
    }
}

/// Converts a cell. Every struct of a table has every key, so a null in a struct means that the key is absent. Only
/// `content` keeps its null, because chat templates check for it.
fn json(array: &dyn Array, index: usize) -> Result<Value, String> {
    use ArrowDataType as D;
    if array.dtype() == &D::Null || array.is_null(index) {
        return Ok(Value::Null);
    }
    Ok(match array.dtype() {
        D::Boolean => of::<BooleanArray>(array)?.value(index).into(),
        D::Int8 => number::<i8>(array, index)?.into(),
        D::Int16 => number::<i16>(array, index)?.into(),
        D::Int32 => number::<i32>(array, index)?.into(),
        D::Int64 => number::<i64>(array, index)?.into(),
        D::UInt8 => number::<u8>(array, index)?.into(),
        D::UInt16 => number::<u16>(array, index)?.into(),
        D::UInt32 => number::<u32>(array, index)?.into(),
        D::UInt64 => number::<u64>(array, index)?.into(),
        D::Float16 => f32::from(number::<pf16>(array, index)?).into(),
        D::Float32 => number::<f32>(array, index)?.into(),
        D::Float64 => number::<f64>(array, index)?.into(),
        D::Utf8View => of::<Utf8ViewArray>(array)?.value(index).into(),
        D::BinaryView => text(of::<BinaryViewArray>(array)?.value(index))?,
        D::FixedSizeBinary(_) => text(of::<FixedSizeBinaryArray>(array)?.value(index))?,
        D::LargeList(_) => {
            let list = of::<ListArray<i64>>(array)?;
            let (start, end) = list.offsets().start_end(index);
            Value::Array((start..end).map(|item| json(list.values().as_ref(), item)).collect::<Result<_, _>>()?)
        }
        D::Struct(fields) => {
            let mut object = Map::new();
            for (field, values) in fields.iter().zip(of::<StructArray>(array)?.values()) {
                let value = json(values.as_ref(), index)?;
                if !value.is_null() || field.name == "content" {
                    object.insert(field.name.to_string(), value);
                }
            }
            Value::Object(object)
        }
        D::Date32 => date(number::<i32>(array, index)?)?.to_string().into(),
        D::Timestamp(unit, zone) => {
            let utc = timestamp(number::<i64>(array, index)?, *unit)?.strftime("%Y-%m-%d %H:%M:%S%.f").to_string();
            if zone.is_some() { format!("{utc} UTC").into() } else { utc.into() }
        }
        D::Time32(unit) => time(number::<i32>(array, index)?.into(), *unit)?.into(),
        D::Time64(unit) => time(number::<i64>(array, index)?, *unit)?.into(),
        D::Decimal(_, scale) => decimal(number::<i128>(array, index)?, *scale).into(),
        other => return Err(format!("cells of the type {other:?} are not read")),
    })
}

fn of<A: 'static>(array: &dyn Array) -> Result<&A, String> {
    array.as_any().downcast_ref().ok_or_else(|| format!("a damaged column of the type {:?}", array.dtype()))
}

fn number<T: NativeType>(array: &dyn Array, index: usize) -> Result<T, String> {
    Ok(of::<PrimitiveArray<T>>(array)?.value(index))
}

/// Some writers have no text type and store texts as bytes.
fn text(bytes: &[u8]) -> Result<Value, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        format!("bytes that are not UTF-8, invalid at offset {}; write it as text", error.valid_up_to())
    })?;
    Ok(text.into())
}

/// Seconds and the remaining nanoseconds.
fn seconds(value: i64, unit: TimeUnit) -> (i64, i32) {
    let per_second: i64 = match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    };
    let rest = value.rem_euclid(per_second) * (1_000_000_000 / per_second);
    (value.div_euclid(per_second), i32::try_from(rest).unwrap_or_default())
}

/// Days since 1970-01-01.
fn date(days: i32) -> Result<Date, String> {
    Ok(timestamp(i64::from(days) * 86_400, TimeUnit::Second)?.date())
}

/// Time since 1970-01-01 in UTC.
fn timestamp(value: i64, unit: TimeUnit) -> Result<DateTime, String> {
    let (seconds, nanoseconds) = seconds(value, unit);
    let timestamp = Timestamp::new(seconds, nanoseconds).map_err(|error| format!("no date: {error}"))?;
    Ok(timestamp.to_zoned(TimeZone::UTC).datetime())
}

/// Time since midnight.
fn time(value: i64, unit: TimeUnit) -> Result<String, String> {
    let (seconds, nanoseconds) = seconds(value, unit);
    let part = |value: i64| i8::try_from(value).unwrap_or(i8::MAX);
    let time = Time::new(part(seconds / 3600), part(seconds / 60 % 60), part(seconds % 60), nanoseconds);
    Ok(time.map_err(|error| format!("no time of day: {error}"))?.strftime("%H:%M:%S%.f").to_string())
}

/// A fixed-point number with `scale` digits after the point.
fn decimal(value: i128, scale: usize) -> String {
    let sign = if value < 0 { "-" } else { "" };
    let digits = format!("{:0>width$}", value.unsigned_abs(), width = scale + 1);
    match digits.split_at(digits.len() - scale) {
        (whole, "") => format!("{sign}{whole}"),
        (whole, fraction) => format!("{sign}{whole}.{fraction}"),
    }
}
