//! Checks the lengths in a Parquet file before anything is allocated for them.
//!
//! Responsible for: refusing files whose footer or page headers state more than the file can hold. polars trusts these
//! lengths, and a failed allocation ends the process. Must not depend on: polars.
//!
//! The layout follows the specification of the format (apache/parquet-format, `parquet.thrift`), encoded in Thrift's
//! compact protocol (apache/thrift, `thrift-compact-protocol.md`).

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use crate::error::DataError;

/// Maximum number of values that a column may state for each byte of the file. Run-length encoding makes values small.
const VALUES_PER_BYTE: i64 = 64;
/// Maximum number of bytes to which one byte of a compressed page may expand.
const EXPANSION: i64 = 1024;
/// Pages up to this size in bytes are accepted, whatever their expansion.
const SMALL_PAGE: i64 = 1 << 20;
const SCHEMA_DEPTH: usize = 32;
const THRIFT_DEPTH: usize = 16;
const MAGIC: &[u8; 4] = b"PAR1";

/// Checks the footer, and the pages of the columns that `wanted` accepts.
///
/// # Errors
/// If the file isn't Parquet, or states more than it can hold.
pub(crate) fn check(path: &Path, wanted: impl Fn(&str) -> bool) -> Result<(), DataError> {
    let unreadable =
        |why: &str| DataError::Unreadable { path: path.to_owned(), why: format!("damaged Parquet: {why}") };
    let io = |source| DataError::Io { path: path.to_owned(), source };
    let mut file = Window { file: File::open(path).map_err(io)?, len: 0 };
    file.len = file.file.metadata().map_err(io)?.len();
    let tail = file.read(file.len.saturating_sub(8), 8).map_err(io)?;
    let Ok([a, b, c, d, magic @ ..]) = <[u8; 8]>::try_from(tail) else { return Err(unreadable("it is too short")) };
    let footer = u64::from(u32::from_le_bytes([a, b, c, d]));
    let start = match (file.len.checked_sub(12), &magic == MAGIC) {
        (Some(room), true) if footer <= room => file.len - 8 - footer,
        (_, true) => return Err(unreadable("its footer is longer than the file")),
        (_, false) => return Err(unreadable("it doesn't end like a Parquet file; is it cut off?")),
    };
    let bytes = file.read(start, footer).map_err(io)?;
    let footer = Thrift::decode(&mut bytes.as_slice()).ok_or_else(|| unreadable("its footer can't be read"))?;
    check_schema(&footer).map_err(unreadable)?;
    for column in footer.list(4).iter().flat_map(|group| group.list(1)) {
        let column = column.field(3).ok_or_else(|| unreadable("a column lies in another file"))?;
        if wanted(&column.list(3).first().map(Thrift::text).unwrap_or_default()) {
            file.check_column(column).map_err(io)?.map_err(unreadable)?;
        }
    }
    Ok(())
}

/// Checks the flattened tree of columns: every node has as many children as stated, and the tree is not too deep.
fn check_schema(footer: &Thrift) -> Result<(), &'static str> {
    let mut open: Vec<i64> = Vec::new();
    let elements = footer.list(2);
    if elements.is_empty() {
        return Err("it has no columns");
    }
    for (index, element) in elements.iter().enumerate() {
        match open.last_mut() {
            Some(left) => *left -= 1,
            None if index == 0 => {}
            None => return Err("its columns don't form a tree"),
        }
        open.push(element.int(5).unwrap_or(0));
        if open.len() > SCHEMA_DEPTH || open.last().is_some_and(|children| *children < 0) {
            return Err("its columns are nested too deeply");
        }
        while open.last() == Some(&0) {
            open.pop();
        }
    }
    if open.is_empty() { Ok(()) } else { Err("its columns don't form a tree") }
}

/// A file that is read in pieces.
struct Window {
    file: File,
    len: u64,
}

impl Window {
    /// Reads up to `size` bytes from `start`.
    fn read(&mut self, start: u64, size: u64) -> std::io::Result<Vec<u8>> {
        let size = size.min(self.len.saturating_sub(start));
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        self.file.seek(SeekFrom::Start(start))?;
        self.file.by_ref().take(size).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Checks all pages of a column.
    fn check_column(&mut self, column: &Thrift) -> std::io::Result<Result<(), &'static str>> {
        let len = i64::try_from(self.len).unwrap_or(i64::MAX);
        let (values, size) = (column.int(5).unwrap_or(-1), column.int(7).unwrap_or(-1));
        // A row group without rows has no pages, and its offsets are undefined.
        if values == 0 {
            return Ok(Ok(()));
        }
        // The dictionary page, if there is one, comes before the data pages. Some writers state 0 if there is none.
        let data = column.int(9).unwrap_or(-1);
        let start = column.int(11).filter(|dictionary| *dictionary > 0 && *dictionary < data).unwrap_or(data);
        if values < 0 || start < 4 || size < 0 || start > len || size > len - start {
            return Ok(Err("a column lies outside of the file"));
        }
        if values > len.saturating_mul(VALUES_PER_BYTE) {
            return Ok(Err("a column states more values than the file can hold"));
        }
        let (mut at, end, mut left) = (start, start + size, values);
        while left > 0 {
            let Some((header, header_len)) = self.page_header(at as u64)? else {
                return Ok(Err("a page can't be read"));
            };
            let (full, packed) = (header.int(2).unwrap_or(-1), header.int(3).unwrap_or(-1));
            at += header_len as i64;
            if packed < 0 || packed > end - at {
                return Ok(Err("a page lies outside of its column"));
            }
            if full < 0 || full > SMALL_PAGE.max(packed.saturating_mul(EXPANSION)) {
                return Ok(Err("a page states an absurd size"));
            }
            let (data, dictionary) = (header.field(5).or_else(|| header.field(8)), header.field(7));
            let levels = header.field(8).map_or(0, |page| page.int(5).unwrap_or(-1).max(page.int(6).unwrap_or(-1)));
            let negative =
                header.field(8).is_some_and(|page| (2..=6).any(|field| page.int(field).is_some_and(|int| int < 0)));
            match (data, dictionary) {
                (Some(page), None) => {
                    let count = page.int(1).unwrap_or(-1);
                    if !(1..=left).contains(&count) || negative || levels > packed {
                        return Ok(Err("a page states more values than its column has"));
                    }
                    left -= count;
                }
                (None, Some(page)) if (0..=full).contains(&page.int(1).unwrap_or(-1)) => {}
                (None, None) => {}
                _ => return Ok(Err("a page can't be read")),
            }
            at += packed;
        }
        Ok(Ok(()))
    }

    fn page_header(&mut self, at: u64) -> std::io::Result<Option<(Thrift, usize)>> {
        // Nearly all headers are short, but statistics can make a header long.
        for size in [4 << 10, 1 << 20] {
            let bytes = self.read(at, size)?;
            let mut rest = bytes.as_slice();
            if let Some(header) = Thrift::decode(&mut rest) {
                return Ok(Some((header, bytes.len() - rest.len())));
            }
        }
        Ok(None)
    }
}

/// A decoded value of Thrift's compact protocol.
enum Thrift {
    Int(i64),
    Bytes(Vec<u8>),
    List(Vec<Thrift>),
    Struct(Vec<(i64, Thrift)>),
    /// Booleans and floats, which have no lengths to check.
    Other,
}

impl Thrift {
    /// Decodes a struct and advances `input` to the first byte after it. Allocations are limited by the input's length.
    fn decode(input: &mut &[u8]) -> Option<Self> {
        Self::value(input, 12, 0)
    }

    fn value(input: &mut &[u8], kind: u8, depth: usize) -> Option<Self> {
        if depth > THRIFT_DEPTH {
            return None;
        }
        Some(match kind {
            1 | 2 => Self::Other,
            3 => Self::Int(i64::from(take(input, 1)?[0] as i8)),
            4..=6 => Self::Int(zigzag(varint(input)?)),
            7 => {
                take(input, 8)?;
                Self::Other
            }
            8 => {
                let length = usize::try_from(varint(input)?).ok()?;
                Self::Bytes(take(input, length)?.to_vec())
            }
            9 | 10 => {
                let head = take(input, 1)?[0];
                let count = if head >> 4 == 15 { varint(input)? } else { u64::from(head >> 4) };
                // Every element takes at least one byte. Unlike in a struct, a boolean in a list takes one byte.
                if count > input.len() as u64 {
                    return None;
                }
                let element = |input: &mut &[u8]| match head & 15 {
                    1 | 2 => take(input, 1).map(|_| Self::Other),
                    kind => Self::value(input, kind, depth + 1),
                };
                Self::List((0..count).map(|_| element(input)).collect::<Option<_>>()?)
            }
            12 => {
                let (mut fields, mut id) = (Vec::new(), 0_i64);
                loop {
                    let head = take(input, 1)?[0];
                    if head == 0 {
                        break Self::Struct(fields);
                    }
                    id = if head >> 4 == 0 { zigzag(varint(input)?) } else { id.checked_add(i64::from(head >> 4))? };
                    fields.push((id, Self::value(input, head & 15, depth + 1)?));
                }
            }
            _ => return None,
        })
    }

    fn field(&self, id: i64) -> Option<&Self> {
        match self {
            Self::Struct(fields) => fields.iter().find(|(field, _)| *field == id).map(|(_, value)| value),
            _ => None,
        }
    }

    fn int(&self, id: i64) -> Option<i64> {
        match self.field(id)? {
            Self::Int(int) => Some(*int),
            _ => None,
        }
    }

    fn list(&self, id: i64) -> &[Self] {
        match self.field(id) {
            Some(Self::List(list)) => list,
            _ => &[],
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            _ => String::new(),
        }
    }
}

fn take<'a>(input: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = input.split_at_checked(count)?;
    *input = rest;
    Some(taken)
}

fn varint(input: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = take(input, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn zigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}
