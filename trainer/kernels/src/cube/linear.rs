//! Linear layers with a stored matrix. It is dequantized for each product, and freed after it.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn_cubecl::CubeBackend;

use super::dequantize::dense;
use super::gemm::{Factor, product};
use crate::frozen::MatrixLayout;
use crate::linear::LinearOps;

impl LinearOps for CubeBackend {
    fn frozen_linear(x: FloatTensor<Self>, weight: IntTensor<Self>, layout: MatrixLayout) -> FloatTensor<Self> {
        let dtype = x.dtype;
        product(Factor::plain(x), Factor::transposed(dense(weight, layout, dtype)), dtype)
    }

    fn frozen_linear_backward(
        dy: FloatTensor<Self>,
        weight: IntTensor<Self>,
        layout: MatrixLayout,
    ) -> FloatTensor<Self> {
        let dtype = dy.dtype;
        product(Factor::plain(dy), Factor::plain(dense(weight, layout, dtype)), dtype)
    }
}
