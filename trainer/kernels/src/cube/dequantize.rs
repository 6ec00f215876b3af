//! Dequantization of stored formats: whole matrices for products, rows for embeddings.
//!
//! Responsible for: the values of `tonfall_blocks::dequantize`, rounded once to the requested dtype. A matrix is stored on the
//! device as little-endian words. An NF4 matrix is followed by the two tables that it needs.

use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use cubecl::prelude::*;
use tonfall_blocks::{DYNAMIC_MAP, Format, NF4, Nf4Sections};

use super::launch::{UNITS, units, vector_size};
use super::tensors::{argument, contiguous, empty, float, vector_argument, words};
use crate::frozen::MatrixLayout;
use crate::index32::{check_matrix, index};

/// Numbers of the formats in kernels.
const F32: u32 = 0;
const F16: u32 = 1;
const BF16: u32 = 2;
const Q8_0: u32 = 3;
const Q4_0: u32 = 4;
const Q4_1: u32 = 5;
const Q4_K: u32 = 6;
const Q5_K: u32 = 7;
const Q6_K: u32 = 8;
const Q5_0: u32 = 9;
const Q5_1: u32 = 10;

const fn code(format: Format) -> u32 {
    match format {
        Format::F32 => F32,
        Format::F16 => F16,
        Format::Bf16 => BF16,
        Format::Q8_0 => Q8_0,
        Format::Q4_0 => Q4_0,
        Format::Q4_1 => Q4_1,
        Format::Q5_0 => Q5_0,
        Format::Q5_1 => Q5_1,
        Format::Q4K => Q4_K,
        Format::Q5K => Q5_K,
        Format::Q6K => Q6_K,
        Format::Nf4 => panic!("NF4 has its own kernel"),
    }
}

/// The words of a stored matrix on the device: its bytes, and for NF4 the sixteen values and the map of scales.
pub(crate) fn device_words(bytes: &[u8], format: Format) -> Vec<u32> {
    let mut all = words(bytes);
    if format == Format::Nf4 {
        all.extend(NF4.iter().chain(&DYNAMIC_MAP).map(|value| value.to_bits()));
    }
    all
}

#[cube]
fn byte(data: &[u32], at: u32) -> u32 {
    (data[(at / 4) as usize] >> (8 * (at % 4))) & 255
}

#[cube]
fn signed(byte: u32) -> f32 {
    f32::cast_from(byte) - select(byte > 127, 256.0f32, 0.0f32)
}

/// An IEEE half-precision number from its bits, exact as f32.
#[cube]
fn half(bits: u32) -> f32 {
    let sign = (bits & 0x8000) << 16;
    let exponent = (bits >> 10) & 31;
    let fraction = bits & 1023;
    let mut exponent_bits = exponent + 112;
    if exponent == 31 {
        exponent_bits = 255u32.runtime();
    }
    let mut value = f32::reinterpret(sign | (exponent_bits << 23) | (fraction << 13));
    if exponent == 0 {
        let magnitude = f32::cast_from(fraction) * 5.960_464_5e-8f32;
        value = select(sign == 0, magnitude, -magnitude);
    }
    value
}

#[cube]
fn half_at(data: &[u32], at: u32) -> f32 {
    half(byte(data, at) | (byte(data, at + 1) << 8))
}

/// The six-bit scale of sub-block `j`, from the twelve bytes at `at`.
#[cube]
fn k_scale(data: &[u32], at: u32, j: u32) -> f32 {
    let mut scale = byte(data, at + j) & 63;
    if j >= 4 {
        scale = (byte(data, at + j + 4) & 15) | ((byte(data, at + j - 4) >> 6) << 4);
    }
    f32::cast_from(scale)
}

/// The six-bit minimum of sub-block `j`.
#[cube]
fn k_min(data: &[u32], at: u32, j: u32) -> f32 {
    let mut min = byte(data, at + j + 4) & 63;
    if j >= 4 {
        min = (byte(data, at + j + 4) >> 4) | ((byte(data, at + j) >> 6) << 4);
    }
    f32::cast_from(min)
}

/// The five-bit code of element `i`: four bits at `codes`, the fifth in the 32 bits at `fifth`.
#[cube]
fn five_bits(data: &[u32], fifth: u32, codes: u32, i: u32) -> u32 {
    let low = (byte(data, codes + i % 16) >> (4 * (i / 16))) & 15;
    low | (((byte(data, fifth + i / 8) >> (i % 8)) & 1) << 4)
}

/// Element `i` of block `block`, in the layouts of `tonfall_blocks`.
#[cube]
fn element(data: &[u32], block: u32, i: u32, #[comptime] format: u32) -> f32 {
    if comptime!(format == F32) {
        f32::reinterpret(data[block as usize])
    } else if comptime!(format == F16) {
        half_at(data, 2 * block)
    } else if comptime!(format == BF16) {
        f32::reinterpret((byte(data, 2 * block) | (byte(data, 2 * block + 1) << 8)) << 16)
    } else if comptime!(format == Q8_0) {
        let at = block * 34;
        signed(byte(data, at + 2 + i)) * half_at(data, at)
    } else if comptime!(format == Q4_0) {
        let at = block * 18;
        let code = (byte(data, at + 2 + i % 16) >> (4 * (i / 16))) & 15;
        (f32::cast_from(code) - 8.0f32) * half_at(data, at)
    } else if comptime!(format == Q4_1) {
        let at = block * 20;
        let code = (byte(data, at + 4 + i % 16) >> (4 * (i / 16))) & 15;
        f32::cast_from(code) * half_at(data, at) + half_at(data, at + 2)
    } else if comptime!(format == Q5_0) {
        let at = block * 22;
        let code = five_bits(data, at + 2, at + 6, i);
        (f32::cast_from(code) - 16.0f32) * half_at(data, at)
    } else if comptime!(format == Q5_1) {
        let at = block * 24;
        let code = five_bits(data, at + 4, at + 8, i);
        f32::cast_from(code) * half_at(data, at) + half_at(data, at + 2)
    } else if comptime!(format == Q4_K) {
        let at = block * 144;
        let j = i / 32;
        let code = (byte(data, at + 16 + (j / 2) * 32 + i % 32) >> (4 * (j % 2))) & 15;
        let d = half_at(data, at) * k_scale(data, at + 4, j);
        d * f32::cast_from(code) - half_at(data, at + 2) * k_min(data, at + 4, j)
    } else if comptime!(format == Q5_K) {
        let at = block * 176;
        let j = i / 32;
        let low = (byte(data, at + 48 + (j / 2) * 32 + i % 32) >> (4 * (j % 2))) & 15;
        let fifth = (byte(data, at + 16 + i % 32) >> j) & 1;
        let d = half_at(data, at) * k_scale(data, at + 4, j);
        d * f32::cast_from(low | (fifth << 4)) - half_at(data, at + 2) * k_min(data, at + 4, j)
    } else {
        let at = block * 210;
        let (part, inside) = (i / 128, i % 128);
        let (k, e) = (inside / 32, inside % 32);
        let low = (byte(data, at + part * 64 + 32 * (k % 2) + e) >> (4 * (k / 2))) & 15;
        let high = (byte(data, at + 128 + part * 32 + e) >> (2 * k)) & 3;
        let code = f32::cast_from(low | (high << 4)) - 32.0f32;
        let scale = signed(byte(data, at + 192 + part * 8 + 2 * k + e / 16));
        half_at(data, at + 208) * scale * code
    }
}

/// Element `at` of an NF4 matrix. `absmax` is a byte offset; `nested` (scales), `offset` and `tables` are word offsets.
#[cube]
fn nf4_element(data: &[u32], at: u32, absmax: u32, nested: u32, offset: u32, tables: u32) -> f32 {
    let code = (byte(data, at / 2) >> (4 * (1 - at % 2))) & 15;
    let block = at / 64;
    let scale = f32::reinterpret(data[(tables + 16 + byte(data, absmax + block)) as usize]);
    let scale = scale * f32::reinterpret(data[(nested + block / 256) as usize]);
    let scale = scale + f32::reinterpret(data[offset as usize]);
    f32::reinterpret(data[(tables + code) as usize]) * scale
}

/// One unit per vector of codes. `N` divides 8, the number of codes per word.
#[cube(launch)]
fn nf4_matrix<F: Float, N: Size>(
    data: &[u32],
    y: &mut [Vector<F, N>],
    vectors: u32,
    absmax: u32,
    nested: u32,
    offset: u32,
    tables: u32,
    #[define(F)] _type: ElemType,
) {
    let i = ABSOLUTE_POS;
    if (i as u32) < vectors {
        let first = i as u32 * N::value() as u32;
        let codes = data[(first / 8) as usize];
        let block = first / 64;
        let scale = f32::reinterpret(data[(tables + 16 + byte(data, absmax + block)) as usize]);
        let scale = scale * f32::reinterpret(data[(nested + block / 256) as usize]);
        let scale = scale + f32::reinterpret(data[offset as usize]);
        let mut values = Vector::<F, N>::empty();
        #[unroll]
        for j in 0..N::value() {
            let place = first % 8 + j as u32;
            let code = (codes >> (8 * (place / 2) + 4 * (1 - place % 2))) & 15;
            values.insert(j, F::cast_from(f32::reinterpret(data[(tables + code) as usize]) * scale));
        }
        y[i] = values;
    }
}

#[cube(launch)]
fn block_matrix<F: Float>(
    data: &[u32],
    y: &mut [F],
    len: u32,
    #[comptime] format: u32,
    #[comptime] block_len: u32,
    #[define(F)] _type: ElemType,
) {
    let at = ABSOLUTE_POS as u32;
    if at < len {
        y[at as usize] = F::cast_from(element(data, at / block_len, at % block_len, format));
    }
}

#[cube(launch)]
fn nf4_rows<F: Float>(
    data: &[u32],
    ids: &[u32],
    y: &mut [F],
    len: u32,
    columns: u32,
    absmax: u32,
    nested: u32,
    offset: u32,
    tables: u32,
    #[define(F)] _type: ElemType,
) {
    let i = ABSOLUTE_POS as u32;
    if i < len {
        let at = ids[(i / columns) as usize] * columns + i % columns;
        y[i as usize] = F::cast_from(nf4_element(data, at, absmax, nested, offset, tables));
    }
}

#[cube(launch)]
fn block_rows<F: Float>(
    data: &[u32],
    ids: &[u32],
    y: &mut [F],
    len: u32,
    columns: u32,
    #[comptime] format: u32,
    #[comptime] block_len: u32,
    #[define(F)] _type: ElemType,
) {
    let i = ABSOLUTE_POS as u32;
    if i < len {
        let at = ids[(i / columns) as usize] * columns + i % columns;
        y[i as usize] = F::cast_from(element(data, at / block_len, at % block_len, format));
    }
}

/// Offsets of the sections of an NF4 matrix on the device: absmax in bytes; nested scales, offset and tables in words.
fn nf4_places(layout: MatrixLayout) -> [u32; 4] {
    let sections =
        Nf4Sections::of(layout.rows * layout.cols).unwrap_or_else(|| unreachable!("checked by `FrozenMatrix::new`"));
    let word = |byte: usize| index(byte / 4);
    [index(sections.absmax.start), word(sections.nested_absmax.start), word(sections.offset.start), word(sections.end)]
}

/// The matrix `[rows, cols]` as `dtype`. A matrix that is stored in this dtype is not copied.
///
/// # Panics
/// When a kernel can't address the matrix with 32 bits.
pub(crate) fn dense(data: CubeTensor, layout: MatrixLayout, dtype: DType) -> CubeTensor {
    let data = contiguous(data);
    let (rows, cols) = (layout.rows, layout.cols);
    if matches!((layout.format, dtype), (Format::F32, DType::F32) | (Format::Bf16, DType::BF16)) {
        let shape = burn::tensor::Shape::from([rows, cols]);
        return CubeTensor::new_contiguous(data.client, data.device, shape, data.handle, dtype);
    }
    check_matrix(layout);
    let y = empty(&data, [rows, cols], dtype);
    let (client, kind, len) = (y.client.clone(), float(&y), rows * cols);
    let dim = CubeDim::new_1d(UNITS);
    if layout.format == Format::Nf4 {
        let [absmax, nested, offset, tables] = nf4_places(layout);
        let size = vector_size(dtype, len);
        let (data, out) = (argument(data), vector_argument(y.clone(), size));
        let (grid, vectors) = (units(len / size), index(len / size));
        nf4_matrix::launch(&client, grid, dim, size, data, out, vectors, absmax, nested, offset, tables, kind);
    } else {
        let (data, out) = (argument(data), argument(y.clone()));
        let (format, block_len) = (code(layout.format), index(layout.format.block_len()));
        block_matrix::launch(&client, units(len), dim, data, out, index(len), format, block_len, kind);
    }
    y
}

/// Rows `ids` (u32, on the device) of the matrix, as `[count, cols]` in `dtype`.
///
/// # Panics
/// When a kernel can't address the matrix with 32 bits.
pub(crate) fn selected_rows(
    data: CubeTensor,
    layout: MatrixLayout,
    ids: CubeTensor,
    count: usize,
    dtype: DType,
) -> CubeTensor {
    check_matrix(layout);
    let data = contiguous(data);
    let y = empty(&data, [count, layout.cols], dtype);
    let (client, kind, len, dim) = (y.client.clone(), float(&y), count * layout.cols, CubeDim::new_1d(UNITS));
    let (data, ids, out) = (argument(data), argument(ids), argument(y.clone()));
    let (len, grid, columns) = (index(len), units(len), index(layout.cols));
    if layout.format == Format::Nf4 {
        let [absmax, nested, offset, tables] = nf4_places(layout);
        nf4_rows::launch(&client, grid, dim, data, ids, out, len, columns, absmax, nested, offset, tables, kind);
    } else {
        let (format, block_len) = (code(layout.format), index(layout.format.block_len()));
        block_rows::launch(&client, grid, dim, data, ids, out, len, columns, format, block_len, kind);
    }
    y
}
