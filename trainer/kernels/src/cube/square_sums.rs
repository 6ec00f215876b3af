//! Sums of vectors and of squares, each by planes in one order.

use burn::backend::tensor::FloatTensor;
use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::cast;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::launch::{Planes, plane_row, planes};
use super::tensors::{contiguous, empty, len, owned, reshaped, zeros};
use crate::square_sums::SquareSumOps;

/// Planes that sum one tensor.
const SUMMING: u32 = 1024;

/// Plane `p` sums the squares of elements `p · lanes + lane`, and so on in strides of all planes.
#[cube(launch)]
fn square_sums(x: &[f32], sums: &mut [f32], len: u32, planes: u32, #[comptime] lanes: u32) {
    let plane = plane_row();
    if plane < planes {
        let mut sum = 0.0f32;
        let mut i = plane * lanes + UNIT_POS_X;
        while i < len {
            let value = x[i as usize];
            sum += value * value;
            i += planes * lanes;
        }
        let sum = plane_sum(sum);
        if UNIT_POS_X == 0 {
            sums[plane as usize] = sum;
        }
    }
}

/// The sum of all elements to `sums[place]`, by one plane.
#[cube(launch)]
fn total(parts: &[f32], sums: &mut [f32], len: u32, place: u32, #[comptime] lanes: u32) {
    if plane_row() == 0 {
        let mut part = 0.0f32;
        let mut i = UNIT_POS_X;
        while i < len {
            part += parts[i as usize];
            i += lanes;
        }
        let all = plane_sum(part);
        if UNIT_POS_X == 0 {
            sums[place as usize] = all;
        }
    }
}

/// Writes the sum of a vector to a place of another one.
fn put_total(parts: CubeTensor, sums: &CubeTensor, place: usize) {
    let len = len(&parts) as u32;
    let Planes { count, dim, lanes } = planes(&parts.client, 1);
    total::launch(
        &sums.client,
        count,
        dim,
        parts.into_buffer_arg(),
        sums.clone().into_buffer_arg(),
        len,
        place as u32,
        lanes,
    );
}

/// The sum of a vector, `[1]`.
pub(super) fn summed(parts: CubeTensor) -> CubeTensor {
    let sum = empty(&parts, [1], DType::F32);
    put_total(parts, &sum, 0);
    sum
}

impl SquareSumOps for CubeBackend {
    fn no_square_sums(like: FloatTensor<Self>, len: usize) -> FloatTensor<Self> {
        reshaped(zeros(&like, 1, len), [len])
    }

    fn put_square_sum(sums: FloatTensor<Self>, x: FloatTensor<Self>, place: usize) -> FloatTensor<Self> {
        let (sums, x) = (owned(sums), contiguous(cast(x, DType::F32)));
        let (parts, len) = (empty(&x, [SUMMING as usize], DType::F32), len(&x));
        let Planes { count, dim, lanes } = planes(&x.client, SUMMING as usize);
        square_sums::launch(
            &parts.client.clone(),
            count,
            dim,
            x.into_buffer_arg(),
            parts.clone().into_buffer_arg(),
            len as u32,
            SUMMING,
            lanes,
        );
        put_total(parts, &sums, place);
        sums
    }
}
