//! Sums of vectors, and partial sums of squares, in a fixed order.

use burn::backend::tensor::FloatTensor;
use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::cast;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::launch::{Planes, plane_row, planes, vector_size, vector_sum};
use super::tensors::{argument, contiguous, empty, len, owned, reshaped, vector_argument, zeros};
use crate::index32::index;
use crate::square_sums::SquareSumOps;

/// Planes per tensor; each writes one partial sum.
const SUMMING: usize = 256;

/// Plane `p` writes `sums[first + p]`, the sum of the squares of vectors `(p + i · planes) · lanes + lane` for all `i`.
#[cube(launch)]
fn square_sums<N: Size>(
    x: &[Vector<f32, N>],
    sums: &mut [f32],
    vectors: u32,
    planes: u32,
    first: u32,
    #[comptime] lanes: u32,
) {
    let plane = plane_row();
    if plane < planes {
        let mut squares = Vector::<f32, N>::zeroed();
        let mut i = plane * lanes + UNIT_POS_X;
        while i < vectors {
            let values = x[i as usize];
            squares += values * values;
            i += planes * lanes;
        }
        let sum = plane_sum(vector_sum::<N>(squares));
        if UNIT_POS_X == 0 {
            sums[(first + plane) as usize] = sum;
        }
    }
}

/// The sum of all elements, computed by one plane.
#[cube(launch)]
fn total(parts: &[f32], sum: &mut [f32], len: u32, #[comptime] lanes: u32) {
    if plane_row() == 0 {
        let mut part = 0.0f32;
        let mut i = UNIT_POS_X;
        while i < len {
            part += parts[i as usize];
            i += lanes;
        }
        let all = plane_sum(part);
        if UNIT_POS_X == 0 {
            sum[0] = all;
        }
    }
}

/// The sum of a vector, `[1]`.
pub(super) fn summed(parts: CubeTensor) -> CubeTensor {
    let (sum, len) = (empty(&parts, [1], DType::F32), index(len(&parts)));
    let Planes { count, dim, lanes } = planes(&parts.client, 1);
    total::launch(&sum.client, count, dim, argument(parts), argument(sum.clone()), len, lanes);
    sum
}

impl SquareSumOps for CubeBackend {
    fn zero_square_sums(like: FloatTensor<Self>, tensors: usize) -> FloatTensor<Self> {
        reshaped(zeros(&like, tensors, SUMMING), [tensors * SUMMING])
    }

    fn put_square_sum(sums: FloatTensor<Self>, x: FloatTensor<Self>, place: usize) -> FloatTensor<Self> {
        let (sums, x) = (owned(sums), contiguous(cast(x, DType::F32)));
        let Planes { count, dim, lanes } = planes(&x.client, SUMMING);
        let size = vector_size(DType::F32, len(&x));
        let vectors = index(len(&x) / size);
        square_sums::launch(
            &sums.client,
            count,
            dim,
            size,
            vector_argument(x, size),
            argument(sums.clone()),
            vectors,
            index(SUMMING),
            index(place * SUMMING),
            lanes,
        );
        sums
    }
}
