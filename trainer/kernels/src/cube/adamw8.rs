//! AdamW with 8-bit moments: one plane per block of 256 elements.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::cast;
use cubecl::prelude::*;

use super::launch::{Planes, plane_row, planes};
use super::tensors::{argument, contiguous, len, owned, upload_shared};
use crate::adamw::Coefficients;
use crate::adamw8::{AdamW8Ops, BLOCK, WORDS, maps};
use crate::index32::index;

/// Offsets in a table that has, for each moment, the values of its map and then their midpoints.
const MOMENT: u32 = 512;
const BETWEEN: u32 = 256;

/// The new first and second moment of an element, given the old ones.
#[cube]
fn updated(m: f32, v: f32, gradient: f32, beta1_rest: f32, beta2: f32, beta2_rest: f32) -> (f32, f32) {
    (m + (gradient - m) * beta1_rest, v * beta2 + beta2_rest * gradient * gradient)
}

/// The value of byte `byte` of `word` in the map that begins at `table`.
#[cube]
fn decoded(tables: &[f32], word: u32, byte: u32, #[comptime] table: u32) -> f32 {
    tables[(table + ((word >> (8 * byte)) & 255)) as usize]
}

/// The code of the nearest value in the map whose midpoints begin at `between`.
#[cube]
fn nearest(tables: &[f32], value: f32, #[comptime] between: u32) -> u32 {
    let mut below = 0u32;
    #[unroll]
    for bit in 0..8u32 {
        let half = comptime!(128u32 >> bit);
        if value > tables[(between + below + half - 1) as usize] {
            below += half;
        }
    }
    below
}

#[cube(launch)]
fn step(
    parameter: &mut [f32],
    gradient: &[f32],
    first: &mut [u32],
    first_absmax: &mut [f32],
    second: &mut [u32],
    second_absmax: &mut [f32],
    tables: &[f32],
    len: u32,
    blocks: u32,
    grad_scale: f32,
    decay: f32,
    beta1_rest: f32,
    beta2: f32,
    beta2_rest: f32,
    step_size: f32,
    inverse_correction2: f32,
    epsilon: f32,
    #[comptime] lanes: u32,
    #[comptime] words: u32,
) {
    let block = plane_row();
    if block < blocks {
        let (m_scale, v_scale) = (first_absmax[block as usize], second_absmax[block as usize]);
        let mut m_most = 0.0f32;
        let mut v_most = 0.0f32;
        // First pass over the new moments: their largest magnitudes.
        let mut at = UNIT_POS_X;
        while at < words {
            let word = block * words + at;
            let (m_codes, v_codes) = (first[word as usize], second[word as usize]);
            #[unroll]
            for byte in 0..4u32 {
                let i = word * 4 + byte;
                if i < len {
                    let gradient = gradient[i as usize] * grad_scale;
                    let m = decoded(tables, m_codes, byte, 0u32) * m_scale;
                    let v = decoded(tables, v_codes, byte, MOMENT) * v_scale;
                    let (m, v) = updated(m, v, gradient, beta1_rest, beta2, beta2_rest);
                    m_most = max(m_most, f32::abs(m));
                    v_most = max(v_most, v);
                }
            }
            at += lanes;
        }
        let (m_most, v_most) = (plane_max(m_most), plane_max(v_most));
        let m_inverse = select(m_most > 0.0, 1.0 / m_most, 0.0f32);
        let v_inverse = select(v_most > 0.0, 1.0 / v_most, 0.0f32);
        // Second pass: the parameter and the new codes. Each unit writes its own words.
        let mut at = UNIT_POS_X;
        while at < words {
            let word = block * words + at;
            let (m_codes, v_codes) = (first[word as usize], second[word as usize]);
            let mut m_new = 0u32;
            let mut v_new = 0u32;
            #[unroll]
            for byte in 0..4u32 {
                let i = word * 4 + byte;
                if i < len {
                    let gradient = gradient[i as usize] * grad_scale;
                    let m = decoded(tables, m_codes, byte, 0u32) * m_scale;
                    let v = decoded(tables, v_codes, byte, MOMENT) * v_scale;
                    let (m, v) = updated(m, v, gradient, beta1_rest, beta2, beta2_rest);
                    let denominator = f32::sqrt(v) * inverse_correction2 + epsilon;
                    parameter[i as usize] = parameter[i as usize] * decay - step_size * m / denominator;
                    m_new |= nearest(tables, m * m_inverse, BETWEEN) << (8 * byte);
                    v_new |= nearest(tables, v * v_inverse, MOMENT + BETWEEN) << (8 * byte);
                }
            }
            first[word as usize] = m_new;
            second[word as usize] = v_new;
            at += lanes;
        }
        if UNIT_POS_X == 0 {
            first_absmax[block as usize] = m_most;
            second_absmax[block as usize] = v_most;
        }
    }
}

impl AdamW8Ops for CubeBackend {
    fn adamw8(
        parameter: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        first: IntTensor<Self>,
        first_absmax: FloatTensor<Self>,
        second: IntTensor<Self>,
        second_absmax: FloatTensor<Self>,
        c: Coefficients,
    ) -> (FloatTensor<Self>, IntTensor<Self>, FloatTensor<Self>, IntTensor<Self>, FloatTensor<Self>) {
        let [parameter, first, first_absmax, second, second_absmax] =
            [parameter, first, first_absmax, second, second_absmax].map(owned);
        let gradient = contiguous(cast(gradient, DType::F32));
        let (count, blocks) = (len(&parameter), len(&first_absmax));
        assert_eq!(blocks, count.div_ceil(BLOCK), "blocks of {count} elements");
        let numbers = maps().iter().flat_map(|map| map.values.into_iter().chain(map.between));
        let tables = upload_shared(&parameter, &numbers.map(f32::to_bits).collect::<Vec<u32>>());
        let Planes { count: cubes, dim, lanes } = planes(&parameter.client, blocks);
        step::launch(
            &parameter.client.clone(),
            cubes,
            dim,
            argument(parameter.clone()),
            argument(gradient),
            argument(first.clone()),
            argument(first_absmax.clone()),
            argument(second.clone()),
            argument(second_absmax.clone()),
            argument(tables),
            index(count),
            index(blocks),
            c.grad_scale,
            c.decay,
            c.beta1_rest,
            c.beta2,
            c.beta2_rest,
            c.step_size,
            c.inverse_correction2,
            c.epsilon,
            lanes,
            index(WORDS),
        );
        (parameter, first, first_absmax, second, second_absmax)
    }
}
