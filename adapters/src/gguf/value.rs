//! Metadata values of a GGUF file.
//!
//! Source: the GGUF specification of the ggml repository (`docs/gguf.md`).

use super::cursor::{Cursor, Fault};

/// Maximum number of array elements in a file: twice as many as the largest vocabularies with merges and scores have.
pub(crate) const ELEMENT_BUDGET: usize = 1 << 21;
/// Maximum nesting depth of arrays. No known file is nested as deeply.
const DEPTH_LIMIT: usize = 4;

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
        if self.kind == STRING { strings.collect() } else { None }
    }

    /// The elements, converted by `convert`. `None` if `convert` returns `None` for one of them.
    pub(crate) fn numbers<T>(&self, file: &[u8], convert: impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
        let mut cursor = Cursor::at(file, self.start);
        (0..self.count).map(|_| convert(&Value::read_kind(&mut cursor, self.kind, DEPTH_LIMIT, &mut 0).ok()?)).collect()
    }
}

const STRING: u32 = 8;

impl Value {
    /// Reads a value and its type. `budget` is the remaining part of [`ELEMENT_BUDGET`].
    pub(crate) fn read(cursor: &mut Cursor<'_>, budget: &mut usize) -> Result<Self, Fault> {
        let kind = cursor.u32()?;
        Self::read_kind(cursor, kind, 0, budget)
    }

    fn read_kind(cursor: &mut Cursor<'_>, kind: u32, depth: usize, budget: &mut usize) -> Result<Self, Fault> {
        Ok(match kind {
            0 => Self::Unsigned(u64::from(cursor.array::<1>()?[0])),
            1 => Self::Signed(i64::from(i8::from_le_bytes(cursor.array()?))),
            2 => Self::Unsigned(u64::from(u16::from_le_bytes(cursor.array()?))),
            3 => Self::Signed(i64::from(i16::from_le_bytes(cursor.array()?))),
            4 => Self::Unsigned(u64::from(cursor.u32()?)),
            5 => Self::Signed(i64::from(i32::from_le_bytes(cursor.array()?))),
            6 => Self::Float(f64::from(f32::from_le_bytes(cursor.array()?))),
            7 => match cursor.array::<1>()? {
                [byte @ (0 | 1)] => Self::Bool(byte == 1),
                [byte] => return Err(cursor.fault(format!("{byte} is neither false nor true"))),
            },
            STRING => Self::String(cursor.string("a metadata value")?.to_owned()),
            9 if depth < DEPTH_LIMIT => {
                let element = cursor.u32()?;
                let Some(smallest) = smallest_size(element) else { return Err(unknown(cursor, element)) };
                let count = cursor.count(smallest, *budget, "array elements")?;
                *budget -= count;
                let start = cursor.offset();
                for _ in 0..count {
                    match element {
                        STRING => drop(cursor.string("a metadata value")?),
                        _ => drop(Self::read_kind(cursor, element, depth + 1, budget)?),
                    }
                }
                Self::Array(Array { kind: element, count, start })
            }
            9 => return Err(cursor.fault("arrays are nested too deeply")),
            10 => Self::Unsigned(cursor.u64()?),
            11 => Self::Signed(i64::from_le_bytes(cursor.array()?)),
            12 => Self::Float(f64::from_le_bytes(cursor.array()?)),
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
