//! Dropout with Philox, one unit per element. The mask is bit-identical to the CPU's.

use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::launch::{UNITS, units};
use super::tensors::{argument, contiguous, dims, empty, float, len};
use crate::dropout::Dropout;
use crate::index32::index;

/// Word `index` of a stream of Philox4x32-10.
#[cube]
fn word(index: u32, seed_low: u32, seed_high: u32, stream_low: u32, stream_high: u32) -> u32 {
    let (mut c0, mut c1, mut c2, mut c3) = (index / 4, 0u32, stream_low, stream_high);
    let (mut k0, mut k1) = (seed_low, seed_high);
    #[unroll]
    for _ in 0..10 {
        let (high0, low0) = (c0.mul_hi(0xD251_1F53u32), c0 * 0xD251_1F53u32);
        let (high1, low1) = (c2.mul_hi(0xCD9E_8D57u32), c2 * 0xCD9E_8D57u32);
        let (next0, next2) = (high1 ^ c1 ^ k0, high0 ^ c3 ^ k1);
        c0 = next0;
        c1 = low1;
        c2 = next2;
        c3 = low0;
        k0 += 0x9E37_79B9u32;
        k1 += 0xBB67_AE85u32;
    }
    let place = index % 4;
    let mut chosen = c0;
    if place == 1 {
        chosen = c1;
    }
    if place == 2 {
        chosen = c2;
    }
    if place == 3 {
        chosen = c3;
    }
    chosen
}

#[cube(launch)]
fn apply<F: Float>(
    x: &[F],
    y: &mut [F],
    len: u32,
    seed_low: u32,
    seed_high: u32,
    stream_low: u32,
    stream_high: u32,
    threshold: u32,
    scale: f32,
    #[define(F)] _type: ElemType,
) {
    let i = ABSOLUTE_POS;
    if (i as u32) < len {
        let mut value = f32::cast_from(x[i]) * scale;
        if word(i as u32, seed_low, seed_high, stream_low, stream_high) < threshold {
            value = 0.0f32;
        }
        y[i] = F::cast_from(value);
    }
}

/// The matrix with the dropout mask applied.
pub(crate) fn dropped(x: CubeTensor, dropout: &Dropout) -> CubeTensor {
    let x = contiguous(x);
    let ((rows, columns), count) = (dims(&x), len(&x));
    let (y, kind) = (empty(&x, [rows, columns], x.dtype), float(&x));
    let halves = |value: u64| (value as u32, (value >> 32) as u32);
    let ((seed_low, seed_high), (stream_low, stream_high)) = (halves(dropout.seed), halves(dropout.stream));
    apply::launch(
        &y.client.clone(),
        units(count),
        CubeDim::new_1d(UNITS),
        argument(x),
        argument(y.clone()),
        index(count),
        seed_low,
        seed_high,
        stream_low,
        stream_high,
        dropout.threshold(),
        dropout.scale(),
        kind,
    );
    y
}
