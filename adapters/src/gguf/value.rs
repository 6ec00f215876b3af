//! Metadata values of a GGUF file.
//!
//! Source: the GGUF specification of the ggml repository (`docs/gguf.md`).

use super::cursor::{Cursor, Fault};

/// Maximum number of array elements in a file: twice as many as the largest vocabularies with merges and scores have.
pub(crate) const ELEMENT_BUDGET: usize = 1 << 21;
/// Maximum nesting depth of arrays. No known file is nested as deeply.
const DEPTH_LIMIT: usize = 4;

/// The type numbers of metadata values.
pub(super) mod kind {
    pub(crate) const U8: u32 = 0;
    pub(crate) const I8: u32 = 1;
    pub(crate) const U16: u32 = 2;
    pub(crate) const I16: u32 = 3;
    pub(crate) const U32: u32 = 4;
    pub(crate) const I32: u32 = 5;
    pub(crate) const F32: u32 = 6;
    pub(crate) const BOOL: u32 = 7;
    pub(crate) const STRING: u32 = 8;
    pub(crate) const ARRAY: u32 = 9;
    pub(crate) const U64: u32 = 10;
    pub(crate) const I64: u32 = 11;
    pub(crate) const F64: u32 = 12;
}

/// A value. Integers are widened to 64 bits, floats to f64. Arrays stay in the file: they are checked when the file is
/// opened, and decoded on demand.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    String(String),
    Array(Array),
}

/// The place of an array's elements in its file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Array {
    /// Type of the elements.
    kind: u32,
    count: usize,
    /// Offset of the first element.
    start: usize,
}

impl Array {
    /// The elements as strings. `None` if they have another type.
    pub(crate) fn strings<'a>(&self, file: &'a [u8]) -> Option<Vec<&'a str>> {
        let mut cursor = Cursor::at(file, self.start);
        let strings = (0..self.count).map(|_| cursor.string("an element").ok());
        if self.kind == kind::STRING { strings.collect() } else { None }
    }

    /// The elements, converted by `convert`. `None` if `convert` returns `None` for one of them.
    pub(crate) fn numbers<T>(&self, file: &[u8], convert: impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
        let mut cursor = Cursor::at(file, self.start);
        (0..self.count).map(|_| convert(&Value::read_kind(&mut cursor, self.kind, DEPTH_LIMIT, &mut 0).ok()?)).collect()
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// The first elements, at most `limit`. Empty if they are arrays themselves.
    pub(crate) fn first(&self, file: &[u8], limit: usize) -> Vec<Value> {
        let mut cursor = Cursor::at(file, self.start);
        let read = |_| Value::read_kind(&mut cursor, self.kind, DEPTH_LIMIT, &mut 0).ok();
        (0..self.count.min(limit)).map_while(read).collect()
    }
}

impl Value {
    /// Reads a value and its type. `budget` is the remaining part of [`ELEMENT_BUDGET`].
    pub(crate) fn read(cursor: &mut Cursor<'_>, budget: &mut usize) -> Result<Self, Fault> {
        let number = cursor.u32()?;
        Self::read_kind(cursor, number, 0, budget)
    }

    fn read_kind(cursor: &mut Cursor<'_>, number: u32, depth: usize, budget: &mut usize) -> Result<Self, Fault> {
        Ok(match number {
            kind::U8 => Self::Unsigned(u64::from(cursor.array::<1>()?[0])),
            kind::I8 => Self::Signed(i64::from(i8::from_le_bytes(cursor.array()?))),
            kind::U16 => Self::Unsigned(u64::from(u16::from_le_bytes(cursor.array()?))),
            kind::I16 => Self::Signed(i64::from(i16::from_le_bytes(cursor.array()?))),
            kind::U32 => Self::Unsigned(u64::from(cursor.u32()?)),
            kind::I32 => Self::Signed(i64::from(i32::from_le_bytes(cursor.array()?))),
            kind::F32 => Self::Float(f64::from(f32::from_le_bytes(cursor.array()?))),
            kind::BOOL => match cursor.array::<1>()? {
                [byte @ (0 | 1)] => Self::Bool(byte == 1),
                [byte] => return Err(cursor.fault(format!("{byte} is neither false nor true"))),
            },
            kind::STRING => Self::String(cursor.string("a metadata value")?.to_owned()),
            kind::ARRAY if depth < DEPTH_LIMIT => {
                let element = cursor.u32()?;
                let Some(smallest) = smallest_size(element) else { return Err(unknown(cursor, element)) };
                let count = cursor.count(smallest, *budget, "array elements")?;
                *budget -= count;
                let start = cursor.offset();
                for _ in 0..count {
                    match element {
                        kind::STRING => drop(cursor.string("a metadata value")?),
                        _ => drop(Self::read_kind(cursor, element, depth + 1, budget)?),
                    }
                }
                Self::Array(Array { kind: element, count, start })
            }
            kind::ARRAY => return Err(cursor.fault("arrays are nested too deeply")),
            kind::U64 => Self::Unsigned(cursor.u64()?),
            kind::I64 => Self::Signed(i64::from_le_bytes(cursor.array()?)),
            kind::F64 => Self::Float(f64::from_le_bytes(cursor.array()?)),
            other => return Err(unknown(cursor, other)),
        })
    }

    pub(crate) fn as_u64(&self) -> Option<u64> {
        match self {
            Self::Unsigned(value) => Some(*value),
            Self::Signed(value) => u64::try_from(*value).ok(),
            _ => None,
        }
    }

    pub(crate) fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Float(value) => Some(*value),
            _ => None,
        }
    }

    pub(crate) fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            _ => None,
        }
    }

    pub(crate) fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(value) => Some(value),
            _ => None,
        }
    }

    pub(crate) fn as_array(&self) -> Option<Array> {
        match self {
            Self::Array(array) => Some(*array),
            _ => None,
        }
    }
}

fn smallest_size(kind: u32) -> Option<usize> {
    const SIZES: [usize; 13] = [1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8];
    SIZES.get(kind as usize).copied()
}

fn unknown(cursor: &Cursor<'_>, kind: u32) -> Fault {
    cursor.fault(format!("metadata type {kind} is unknown"))
}
