//! Number formats of stored weight matrices, and their conversion to `f32`.
//!
//! Responsible for: the size of a matrix in each [`Format`], dequantizing any range of its elements ([`dequantize`]), and
//! quantizing whole rows ([`quantize()`]; NF4: [`quantize_nf4`]). Pure functions over slices.
//! Must not depend on: files, tensor frameworks, threads, any other crate.
//!
//! A matrix has `rows` output features and `cols` input features, and is stored row-major in one buffer. "Flattened" means in
//! that order. All numbers are little-endian.

mod blocks;
mod cascade_sum;
mod dynamic_map;
mod finite;
mod format;
mod half_precision;
mod nf4;
mod quantize;

pub use dynamic_map::DYNAMIC_MAP;
pub use finite::first_non_finite;
pub use format::Format;
pub use half_precision::{bf16_from_f32, bf16_to_f32, f16_from_f32, f16_to_f32};
pub use nf4::{NF4, NF4_BLOCK, Nf4Piece, Nf4Sections, Nf4View, SCALE_BLOCK, join_nf4, pack_nf4, quantize_nf4};
pub use quantize::quantize;

/// Elements per block; 1 for the dense formats.
#[must_use]
pub const fn block_len(format: Format) -> usize {
    format.block_len()
}

/// Bytes per block. For [`Format::Nf4`] only the codes; the scales are in separate sections.
#[must_use]
pub const fn block_bytes(format: Format) -> usize {
    format.block_bytes()
}

/// Bytes of a matrix. `None` if a row is not a whole number of blocks, or the size exceeds `usize`.
#[must_use]
pub fn checked_byte_len(format: Format, rows: usize, cols: usize) -> Option<usize> {
    let elements = rows.checked_mul(cols)?;
    if format == Format::Nf4 {
        return Nf4Sections::of(elements).map(|sections| sections.end);
    }
    if !cols.is_multiple_of(format.block_len()) {
        return None;
    }
    (elements / format.block_len()).checked_mul(format.block_bytes())
}

/// Bytes of a matrix whose shape is known to fit the format.
///
/// # Panics
/// When [`checked_byte_len`] is `None`. Check shapes from files with that function.
#[must_use]
pub fn byte_len(format: Format, rows: usize, cols: usize) -> usize {
    checked_byte_len(format, rows, cols)
        .unwrap_or_else(|| panic!("a matrix of {rows} x {cols} can't be stored as {format}"))
}

/// Dequantizes values `start_element .. start_element + out.len()` of the flattened matrix.
///
/// Any range is allowed; ranges that begin and end at block boundaries are fastest. The arithmetic is that of the format's
/// reference implementation (ggml's Python package, bitsandbytes), without fused operations.
///
/// # Panics
/// When `bytes` is not [`byte_len`] long, or the range exceeds the matrix. Both are bugs in the caller, since readers of files
/// check sizes first.
pub fn dequantize(format: Format, bytes: &[u8], rows: usize, cols: usize, start_element: usize, out: &mut [f32]) {
    let needed = byte_len(format, rows, cols);
    assert!(bytes.len() == needed, "{format} {rows} x {cols} takes {needed} bytes, not {}", bytes.len());
    assert!(
        start_element.checked_add(out.len()).is_some_and(|end| end <= rows * cols),
        "elements {start_element} + {} exceed a matrix of {rows} x {cols}",
        out.len()
    );
    if format == Format::Nf4 {
        nf4::dequantize(&Nf4View::of(bytes, rows * cols), start_element, out);
    } else {
        blocks::dequantize(format, bytes, start_element, out);
    }
}
