//! Quantization to the dense formats and to ggml's block formats.
//!
//! Responsible for: the entry point, and the weights of columns. The formats are in one file per kind:
//! - `dense.rs`: F32, F16, BF16
//! - `blocks_of_32.rs`: Q8_0, Q4_0, Q4_1, Q5_0, Q5_1 as ggml's reference computes them; `weighted_32.rs`: with importance
//! - `k_quants.rs`: Q4_K, Q5_K; `q6_k.rs`: Q6_K; both use `search.rs`

mod blocks_of_32;
mod dense;
mod k_quants;
mod lanes;
mod q6_k;
mod scale;
mod search;
mod weighted_32;

use crate::Format;

/// The smallest weight, as a part of the mean weight: columns without importance keep meaningful values, and weights of
/// different magnitude can be added in f32.
const LEAST_WEIGHT: f32 = 1e-4;

/// Quantizes whole rows of `cols` values and appends their bytes to `out`, in the layout that [`crate::dequantize`] reads.
///
/// - **Dense formats** are rounded once, to the nearest number, ties to even. An F16 value from 65,520 on is infinite.
/// - **Q8_0, Q4_0, Q4_1, Q5_0 and Q5_1 without importance** have the bytes of ggml's reference quantizers.
/// - **Q4_K, Q5_K and Q6_K, and the others with importance**, minimise the weighted squared error by search.
///
/// `importance` has `cols` non-negative, finite weights: the mean squared input of each column (llama.cpp's importance matrix).
/// Without it, all columns weigh the same. Dense formats and Q8_0 don't use it.
///
/// Rows are independent of each other: quantizing them one at a time gives the same bytes. Values must be finite, which the
/// caller checks ([`crate::first_non_finite`]); for others, the content of their block is unspecified. Finite values never become
/// NaN or infinite in block formats: a scale beyond the range of f16 becomes its largest finite number, and values are clipped.
/// A block whose values all are below half the smallest f16 becomes zero.
///
/// # Panics
/// When `values` is not whole rows, a row is not whole blocks, `importance` has another length than `cols`, or the format is
/// [`Format::Nf4`], which has [`crate::quantize_nf4`].
pub fn quantize(format: Format, values: &[f32], cols: usize, importance: Option<&[f32]>, out: &mut Vec<u8>) {
    assert!(format != Format::Nf4, "NF4 is quantized by quantize_nf4");
    assert!(
        importance.is_none_or(|weights| weights.len() == cols),
        "importance must have {cols} weights, one per column"
    );
    if values.is_empty() {
        return;
    }
    assert!(
        cols > 0 && cols.is_multiple_of(format.block_len()) && values.len().is_multiple_of(cols),
        "{} values are not rows of {cols} in whole blocks of {format}",
        values.len()
    );
    match format {
        Format::F32 | Format::F16 | Format::Bf16 => dense::append(format, values, out),
        Format::Q4K => blocks(values, &weights(format, cols, importance), out, k_quants::q4_k),
        Format::Q5K => blocks(values, &weights(format, cols, importance), out, k_quants::q5_k),
        Format::Q6K => blocks(values, &weights(format, cols, importance), out, q6_k::q6_k),
        Format::Q4_0 | Format::Q4_1 | Format::Q5_0 | Format::Q5_1 if importance.is_some() => {
            let weights = weights(format, cols, importance);
            for row in values.chunks_exact(cols) {
                weighted_32::append(format, row, &weights, out);
            }
        }
        _ => blocks_of_32::append(format, values, out),
    }
}

/// The weights of a row's values, with a mean of one in each block. Only their ratio within a block matters.
fn weights(format: Format, cols: usize, importance: Option<&[f32]>) -> Vec<f32> {
    let mut weights = vec![1.0; cols];
    let Some(importance) = importance else { return weights };
    let len = format.block_len();
    for (weights, importance) in weights.chunks_mut(len).zip(importance.chunks(len)) {
        let mean = importance.iter().map(|weight| f64::from(*weight)).sum::<f64>() / len as f64;
        if mean > 0.0 {
            for (weight, importance) in weights.iter_mut().zip(importance) {
                *weight = ((f64::from(*importance) / mean) as f32).max(LEAST_WEIGHT);
            }
        }
    }
    weights
}

/// Blocks of `LEN` values in rows of `weights.len()` values.
fn blocks<const LEN: usize, const BYTES: usize>(
    values: &[f32],
    weights: &[f32],
    out: &mut Vec<u8>,
    encode: impl Fn(&[f32; LEN], &[f32; LEN], &mut [u8; BYTES]),
) {
    let start = out.len();
    out.resize(start + values.len() / LEN * BYTES, 0);
    let (bytes, _) = out[start..].as_chunks_mut::<BYTES>();
    let (blocks, weights) = (values.as_chunks::<LEN>().0, weights.as_chunks::<LEN>().0);
    for ((block, weights), bytes) in blocks.iter().zip(weights.iter().cycle()).zip(bytes) {
        encode(block, weights, bytes);
    }
}
