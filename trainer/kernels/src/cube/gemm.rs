//! GEMM of dense matrices.
//!
//! Responsible for: one interface on all devices. CUDA uses cuBLASLt. Other devices use a simple kernel without shared memory,
//! which is slow: the software driver that CI tests on crashes on shared memory.

use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

#[cfg(feature = "cuda")]
use super::cuda::{self, cublaslt};
use super::launch::{UNITS, units};
use super::tensors::{argument, contiguous, empty, float};
use crate::index32::index;
#[cfg(feature = "cuda")]
use crate::index32::signed;

/// A factor of a product, `[rows, columns]` or `[batch, rows, columns]`, which may be read as its transpose.
#[derive(Clone, Debug)]
pub(crate) struct Factor {
    tensor: CubeTensor,
    transposed: bool,
}

impl Factor {
    pub(crate) fn plain(tensor: CubeTensor) -> Self {
        Self { tensor, transposed: false }
    }

    pub(crate) fn transposed(tensor: CubeTensor) -> Self {
        Self { tensor, transposed: true }
    }

    /// Batch, rows and columns, after the transposition.
    fn shape(&self) -> [usize; 3] {
        let [batch, rows, columns] = match self.tensor.meta.shape()[..] {
            [rows, columns] => [1, rows, columns],
            [batch, rows, columns] => [batch, rows, columns],
            ref shape => panic!("a factor has two or three dimensions, not the shape {shape:?}"),
        };
        if self.transposed { [batch, columns, rows] } else { [batch, rows, columns] }
    }
}

/// `y[b, m, n] (+)= alpha · Σ_k left[b, m, k] · right[b, k, n]`, one unit per element.
#[cube(launch)]
fn dot_products<F: Float, G: Float, H: Float>(
    left: &[F],
    right: &[G],
    y: &mut [H],
    len: u32,
    m: u32,
    n: u32,
    k: u32,
    alpha: f32,
    #[comptime] left_transposed: bool,
    #[comptime] right_transposed: bool,
    #[comptime] add: bool,
    #[define(F, G, H)] _types: [ElemType; 3],
) {
    let at = ABSOLUTE_POS as u32;
    if at < len {
        let column = at % n;
        let row = at / n % m;
        let batch = at / n / m;
        let mut left_at = (batch * m + row) * k;
        let mut left_step = 1u32.runtime();
        if left_transposed {
            left_at = batch * k * m + row;
            left_step = m;
        }
        let mut right_at = batch * k * n + column;
        let mut right_step = n;
        if right_transposed {
            right_at = (batch * n + column) * k;
            right_step = 1u32.runtime();
        }
        let mut sum = 0.0f32;
        let mut step = 0u32;
        while step < k {
            let a = f32::cast_from(left[(left_at + step * left_step) as usize]);
            sum += a * f32::cast_from(right[(right_at + step * right_step) as usize]);
            step += 1;
        }
        let mut value = alpha * sum;
        if add {
            value += f32::cast_from(y[at as usize]);
        }
        y[at as usize] = H::cast_from(value);
    }
}

/// `left · right` as `dtype`, accumulated in f32. Factors with three dimensions are batches.
pub(crate) fn product(left: Factor, right: Factor, dtype: DType) -> CubeTensor {
    scaled_product(left, right, 1.0, dtype)
}

/// `alpha · left · right`, as [`product`].
pub(crate) fn scaled_product(left: Factor, right: Factor, alpha: f32, dtype: DType) -> CubeTensor {
    let ([batch, m, _], [_, _, n]) = (left.shape(), right.shape());
    let y = match left.tensor.meta.num_dims() {
        2 => empty(&left.tensor, [m, n], dtype),
        _ => empty(&left.tensor, [batch, m, n], dtype),
    };
    write(left, right, alpha, &y, false);
    y
}

/// Adds `alpha · left · right` to a contiguous tensor in place.
pub(crate) fn add_product(left: Factor, right: Factor, alpha: f32, y: &CubeTensor) {
    write(left, right, alpha, y, true);
}

/// As [`product`], written to an existing contiguous tensor.
pub(crate) fn product_into(left: Factor, right: Factor, y: &CubeTensor) {
    write(left, right, 1.0, y, false);
}

fn write(left: Factor, right: Factor, alpha: f32, y: &CubeTensor, add: bool) {
    let ([batch, m, k], [right_batch, right_k, n]) = (left.shape(), right.shape());
    assert_eq!((batch, k), (right_batch, right_k), "batch and k of the factors");
    assert!(k > 0, "a product with k = 0");
    assert_eq!(y.meta.num_elements(), batch * m * n, "elements of the product");
    if batch * m * n == 0 {
        return;
    }
    let (left_transposed, right_transposed) = (left.transposed, right.transposed);
    let (left, right) = (contiguous(left.tensor), contiguous(right.tensor));
    #[cfg(feature = "cuda")]
    if cuda::serves(&y.client) {
        assert_eq!(left.dtype, right.dtype, "dtypes of the factors");
        let (factors, output) = (left.dtype, y.dtype);
        let kind = cublaslt::Kind { batch: signed(batch), m, n, k, left_transposed, right_transposed, factors, output };
        cublaslt::product(kind, &left, &right, y, alpha, if add { 1.0 } else { 0.0 });
        return;
    }
    let (types, len) = ([float(&left), float(&right), float(y)], batch * m * n);
    dot_products::launch(
        &y.client.clone(),
        units(len),
        CubeDim::new_1d(UNITS),
        argument(left),
        argument(right),
        argument(y.clone()),
        index(len),
        index(m),
        index(n),
        index(k),
        alpha,
        left_transposed,
        right_transposed,
        add,
        types,
    );
}
