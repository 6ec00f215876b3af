//! Products with a stored matrix. Its dense form lives from its dequantisation to the end of the product.

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
