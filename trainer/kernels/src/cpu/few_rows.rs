//! Products of a stored matrix and a few rows, for decoding: `y = x·Wᵀ` for 1 to 16 rows of `x`.
//!
//! Responsible for: reading and dequantizing `W` once for all rows, in pieces that stay in the L1 cache. Each sum has the
//! same order for any number of rows: a row's result doesn't depend on the other rows.
//! Must not depend on: models, threads.
#![expect(unsafe_code, reason = "raw addresses and vector instructions")]

#[cfg(target_arch = "x86_64")]
use tonfall_blocks::Format;

#[cfg(target_arch = "x86_64")]
use super::blocks::{self, Bf16, F16, Packed, Q4, Q4K, Q4WithMin, Q5, Q5K, Q5WithMin, Q6K, Q8};
use super::dequantize::Stored;
use super::level::Level;
#[cfg(target_arch = "x86_64")]
use super::memory::prefetch;
use super::vector::{Portable, Vector};

/// Most rows of `x` in one call.
pub(crate) const MAX_ROWS: usize = 16;
/// Rows of `W` that are dequantized together.
pub(crate) const OUTPUTS: usize = 8;
/// Columns of `W` that are dequantized together: a multiple of the block length of every format.
const PIECE: usize = 256;
/// Lanes of the widest vector. Rows of `x` have a multiple of it, the last ones zero.
pub(crate) const LANES: usize = 16;

/// Some rows of `x`: row `m` is at `values[m * stride ..]`. From `depth` to the next multiple of 16 they have zeros.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) stride: usize,
    pub(crate) count: usize,
}

/// Scratch memory of one call: dequantized pieces of [`OUTPUTS`] rows.
#[repr(C, align(64))]
struct Pieces([[f32; PIECE]; OUTPUTS]);

/// `sums[o][m] = Σ_k W[first + o, k] · x[m, k]` for `outputs` rows of `W`, at most [`OUTPUTS`].
///
/// # Panics
/// When there are more than [`MAX_ROWS`] rows, or rows shorter than the padded depth.
pub(crate) fn sums(
    level: Level,
    w: &Stored<'_>,
    first: usize,
    outputs: usize,
    x: Rows<'_>,
    sums: &mut [[f32; MAX_ROWS]; OUTPUTS],
) {
    let depth = w.cols;
    assert!(outputs <= OUTPUTS && first + outputs <= w.rows, "more outputs than rows of the matrix");
    assert!(x.count <= MAX_ROWS && depth.next_multiple_of(LANES) <= x.stride, "the rows of the input are too short");
    assert!(x.count * x.stride <= x.values.len(), "there are too few rows of the input");
    // SAFETY: the assertions above; the level proves that the processor has the instructions.
    unsafe {
        match level {
            Level::Portable => generic::<Portable>(level, w, first, outputs, x, sums),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => avx2(level, w, first, outputs, x, sums),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 | Level::Amx => avx512(level, w, first, outputs, x, sums),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn avx2(
    level: Level,
    w: &Stored<'_>,
    first: usize,
    outputs: usize,
    x: Rows<'_>,
    sums: &mut [[f32; MAX_ROWS]; OUTPUTS],
) {
    // SAFETY: the caller's promise.
    unsafe { generic::<std::arch::x86_64::__m256>(level, w, first, outputs, x, sums) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn avx512(
    level: Level,
    w: &Stored<'_>,
    first: usize,
    outputs: usize,
    x: Rows<'_>,
    sums: &mut [[f32; MAX_ROWS]; OUTPUTS],
) {
    // SAFETY: the caller's promise.
    unsafe { generic::<std::arch::x86_64::__m512>(level, w, first, outputs, x, sums) }
}

/// Most rows of `x` for which values are used directly after their dequantization. For more rows, they are stored first, so
/// that they are dequantized once.
const DIRECT_ROWS: usize = 3;

#[inline(always)]
unsafe fn generic<V: Vector>(
    level: Level,
    w: &Stored<'_>,
    first: usize,
    outputs: usize,
    x: Rows<'_>,
    sums: &mut [[f32; MAX_ROWS]; OUTPUTS],
) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller's promise.
    if unsafe { x.count <= DIRECT_ROWS && direct::<V>(level, w, first, outputs, x, sums) } {
        return;
    }
    let depth = w.cols;
    let in_place = w.as_f32().filter(|_| depth.is_multiple_of(LANES));
    // SAFETY: the assertions of `sums`.
    unsafe {
        let mut pieces = Pieces([[0.0; PIECE]; OUTPUTS]);
        let mut totals = [[V::zero(); MAX_ROWS]; OUTPUTS];
        let mut k = 0;
        while k < depth {
            let len = PIECE.min(depth - k);
            let padded = len.next_multiple_of(LANES);
            let (from, stride) = match in_place {
                Some(values) => (values.as_ptr().add(first * depth + k), depth),
                None => {
                    for (output, piece) in pieces.0.iter_mut().enumerate().take(outputs) {
                        w.read(level, (first + output) * depth + k, &mut piece[..len]);
                        piece[len..padded].fill(0.0);
                    }
                    (pieces.0.as_ptr().cast::<f32>(), PIECE)
                }
            };
            let x_at = |row: usize| x.values.as_ptr().add(row * x.stride + k);
            let mut row = 0;
            while row < x.count {
                let rows = (x.count - row).min(3);
                let mut output = 0;
                while output < outputs {
                    let (w_at, left) = (from.add(output * stride), outputs - output);
                    let totals = &mut totals[output..];
                    output += match (left, rows) {
                        (8.., 1) => tile::<V, 8, 1>(w_at, stride, x_at(row), x.stride, padded, totals, row),
                        (4.., 1) => tile::<V, 4, 1>(w_at, stride, x_at(row), x.stride, padded, totals, row),
                        (4.., 2) => tile::<V, 4, 2>(w_at, stride, x_at(row), x.stride, padded, totals, row),
                        (4.., _) => tile::<V, 4, 3>(w_at, stride, x_at(row), x.stride, padded, totals, row),
                        (_, 1) => tile::<V, 1, 1>(w_at, stride, x_at(row), x.stride, padded, totals, row),
                        (_, 2) => tile::<V, 1, 2>(w_at, stride, x_at(row), x.stride, padded, totals, row),
                        (_, _) => tile::<V, 1, 3>(w_at, stride, x_at(row), x.stride, padded, totals, row),
                    };
                }
                row += rows;
            }
            k += len;
        }
        for (sums, totals) in sums.iter_mut().zip(&totals).take(outputs) {
            for (sum, total) in sums.iter_mut().zip(totals).take(x.count) {
                *sum = total.sum();
            }
        }
    }
}

/// Multiplies values directly after their dequantization. Returns false if the format or the level has none.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn direct<V: Vector>(
    level: Level,
    w: &Stored<'_>,
    first: usize,
    outputs: usize,
    x: Rows<'_>,
    sums: &mut [[f32; MAX_ROWS]; OUTPUTS],
) -> bool {
    let len = w.format.block_len().max(32);
    if level == Level::Portable || !w.cols.is_multiple_of(len) {
        return false;
    }
    macro_rules! run {
        ($packed:ty) => {{
            let blocks = w.cols / len;
            let (stride, mut output) = (blocks * <$packed>::BYTES, 0);
            while output < outputs {
                let from = w.bytes[(first + output) * stride..].as_ptr();
                let sums = &mut sums[output..];
                // SAFETY: the caller's promise; all rows of `W` have `blocks` blocks.
                output += unsafe {
                    match (outputs - output, x.count) {
                        (4.., 1) => direct_tile::<V, $packed, 4, 1>(from, blocks, x, sums),
                        (4.., 2) => direct_tile::<V, $packed, 4, 2>(from, blocks, x, sums),
                        (2.., 3) => direct_tile::<V, $packed, 2, 3>(from, blocks, x, sums),
                        (_, 1) => direct_tile::<V, $packed, 1, 1>(from, blocks, x, sums),
                        (_, 2) => direct_tile::<V, $packed, 1, 2>(from, blocks, x, sums),
                        (_, _) => direct_tile::<V, $packed, 1, 3>(from, blocks, x, sums),
                    }
                };
            }
            true
        }};
    }
    blocks::with_packed!(w.format, run, false)
}

/// All products of `O` rows of `W` and `R` rows of `x`. Returns `O`.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn direct_tile<V: Vector, P: Packed, const O: usize, const R: usize>(
    w: *const u8,
    blocks: usize,
    x: Rows<'_>,
    sums: &mut [[f32; MAX_ROWS]],
) -> usize {
    // SAFETY: the caller's promise.
    unsafe {
        let mut totals = [[V::zero(); R]; O];
        for index in 0..blocks {
            let mut headers = [P::header(w.add(index * P::BYTES)); O];
            for (o, header) in headers.iter_mut().enumerate().skip(1) {
                *header = P::header(w.add((o * blocks + index) * P::BYTES));
            }
            for part in 0..P::PARTS {
                let x_at = x.values.as_ptr().add((index * P::PARTS + part) * 32);
                for (o, totals) in totals.iter_mut().enumerate() {
                    let block = w.add((o * blocks + index) * P::BYTES);
                    // Hardware prefetchers don't follow several rows. The same place in the next rows is needed soon. For the
                    // smallest blocks, the instructions cost more than they gain.
                    if P::BYTES > 32 && part % 2 == 0 {
                        let ahead = block.wrapping_add(O * blocks * P::BYTES + part * P::BYTES / P::PARTS);
                        prefetch(ahead.cast());
                    }
                    let values = P::part(block, headers[o], part);
                    for (r, total) in totals.iter_mut().enumerate() {
                        *total = V::multiply_add_32(values, x_at.add(r * x.stride), *total);
                    }
                }
            }
        }
        for (sums, totals) in sums.iter_mut().zip(totals) {
            for (sum, total) in sums.iter_mut().zip(totals) {
                *sum = total.sum();
            }
        }
    }
    O
}

/// Adds `len` products of `O` rows of `W` and `R` rows of `x` to the totals. Returns `O`.
#[inline(always)]
unsafe fn tile<V: Vector, const O: usize, const R: usize>(
    w: *const f32,
    w_stride: usize,
    x: *const f32,
    x_stride: usize,
    len: usize,
    totals: &mut [[V; MAX_ROWS]],
    row: usize,
) -> usize {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums: [[V; R]; O] = std::array::from_fn(|o| std::array::from_fn(|r| totals[o][row + r]));
        let mut k = 0;
        while k < len {
            let x: [V; R] = std::array::from_fn(|r| V::load(x.add(r * x_stride + k)));
            for (o, sums) in sums.iter_mut().enumerate() {
                let w = V::load(w.add(o * w_stride + k));
                for (sum, x) in sums.iter_mut().zip(x) {
                    *sum = w.multiply_add(x, *sum);
                }
            }
            k += V::LANES;
        }
        for (totals, sums) in totals.iter_mut().zip(sums) {
            totals[row..row + R].copy_from_slice(&sums);
        }
    }
    O
}

#[cfg(test)]
mod tests {
    use tonfall_blocks::{Format, byte_len, quantize_nf4};

    use super::super::testing::values;
    use super::*;

    fn stored_bytes(format: Format, rows: usize, cols: usize) -> Vec<u8> {
        match format {
            Format::Nf4 => quantize_nf4(&values(rows * cols, 3)),
            Format::F32 => values(rows * cols, 3).iter().flat_map(|v| v.to_le_bytes()).collect(),
            _ => (0..byte_len(format, rows, cols)).map(|i| (i * 29 % 251) as u8 & 0x3b).collect(),
        }
    }

    /// `count` rows of `depth` elements, padded with zeros.
    fn padded(count: usize, depth: usize) -> (Vec<f32>, usize) {
        let stride = depth.next_multiple_of(LANES);
        let mut x = vec![0.0; count * stride];
        for (row, values) in x.chunks_exact_mut(stride).zip(values(count * depth, 4).chunks_exact(depth)) {
            row[..depth].copy_from_slice(values);
        }
        (x, stride)
    }

    #[test]
    fn sums_equal_a_naive_product_in_every_format_and_do_not_depend_on_the_number_of_rows() {
        for format in Format::ALL {
            let depths: &[usize] = match format.block_len() {
                256 => &[256, 1024],
                32 => &[32, 96, 352, 1024],
                _ => &[1, 7, 33, 64, 100, 256, 577],
            };
            for &depth in depths {
                let rows = 11;
                let bytes = stored_bytes(format, rows, depth);
                let mut dense = vec![0.0; rows * depth];
                tonfall_blocks::dequantize(format, &bytes, rows, depth, 0, &mut dense);
                let w = Stored::new(&bytes, format, rows, depth);
                let (x, stride) = padded(MAX_ROWS, depth);
                for level in Level::available() {
                    for (first, outputs) in [(0, 8), (3, 8), (8, 3), (10, 1), (0, 5)] {
                        let product = |start: usize, count: usize| {
                            let x = Rows { values: &x[start * stride..], stride, count };
                            let mut found = [[f32::NAN; MAX_ROWS]; OUTPUTS];
                            sums(level, &w, first, outputs, x, &mut found);
                            found
                        };
                        let all = product(0, MAX_ROWS);
                        for (output, row) in (0..outputs).flat_map(|o| (0..MAX_ROWS).map(move |row| (o, row))) {
                            let terms = (0..depth).map(|k| {
                                f64::from(x[row * stride + k]) * f64::from(dense[(first + output) * depth + k])
                            });
                            let (want, size) =
                                terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
                            let error = (f64::from(all[output][row]) - want).abs();
                            assert!(error <= 2e-6 * size + 1e-7, "{format} {level:?} {depth} {output} {row}: {error}");
                        }
                        for (start, count) in (1..MAX_ROWS).flat_map(|count| [(0, count), (MAX_ROWS - count, count)]) {
                            let some = product(start, count);
                            for (some, all) in some.iter().zip(&all).take(outputs) {
                                assert_eq!(
                                    some[..count],
                                    all[start..start + count],
                                    "{format} {level:?} {depth} {count}"
                                );
                            }
                        }
                    }
                }
            }
        }
    }
}
