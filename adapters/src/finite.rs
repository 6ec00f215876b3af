//! Finds values that are not finite, in memory and in the bytes of dense tensors.
//!
//! Must not depend on: the source of the values.

use std::fmt;

use tonfall_blocks::{Format, dequantize, first_non_finite};

/// Values that are checked at once.
const STRIDE: usize = 1024;

/// A value that is not finite, and its place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NotFinite {
    pub value: f32,
    pub row: usize,
    pub column: usize,
}

impl fmt::Display for NotFinite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at row {}, column {}", self.value, self.row, self.column)
    }
}

/// The first value that is not finite. `values` are rows of `columns` values, and `first_row` is the index of the first
/// row.
pub(crate) fn in_values(values: &[f32], columns: usize, first_row: usize) -> Option<NotFinite> {
    let special = |value: &f32| !value.is_finite();
    // A stride without a branch is several times as fast.
    let any = |values: &[f32]| values.iter().fold(false, |any, value| any | special(value));
    let start = values.chunks(STRIDE).position(any)? * STRIDE;
    let at = start + values[start..].iter().position(special)?;
    Some(NotFinite { value: values[at], row: first_row + at / columns, column: at % columns })
}

/// Like [`in_values`], for the bytes of a whole tensor.
pub(crate) fn in_bytes(bytes: &[u8], format: Format, columns: usize) -> Option<NotFinite> {
    let elements = bytes.len() / format.block_bytes() * format.block_len();
    let at = first_non_finite(format, bytes, elements)?;
    let mut value = [0.0];
    dequantize(format, bytes, 1, elements, at, &mut value);
    Some(NotFinite { value: value[0], row: at / columns, column: at % columns })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::safetensors_file::Dtype;
    use crate::safetensors_writer::encode;

    const DENSE: [(Dtype, Format); 3] =
        [(Dtype::F32, Format::F32), (Dtype::F16, Format::F16), (Dtype::Bf16, Format::Bf16)];

    #[test]
    fn the_first_non_finite_value_is_found_in_every_dense_dtype() {
        let mut values = vec![1.5f32; 3 * 5000];
        for (dtype, format) in DENSE {
            assert_eq!(in_bytes(&encode(&values, dtype), format, 5000), None);
        }
        values[2 * 5000 + 17] = f32::INFINITY;
        let place = NotFinite { value: f32::INFINITY, row: 2, column: 17 };
        for (dtype, format) in DENSE {
            assert_eq!(in_bytes(&encode(&values, dtype), format, 5000), Some(place), "{dtype:?}");
        }
        assert_eq!(in_values(&values, 5000, 0), Some(place));
        assert_eq!(place.to_string(), "inf at row 2, column 17");
        values[4] = f32::NAN;
        let first = in_bytes(&encode(&values, Dtype::Bf16), Format::Bf16, 5000).expect("a NaN");
        assert!(first.value.is_nan() && (first.row, first.column) == (0, 4));
    }
}
