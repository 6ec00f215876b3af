//! Linear layers with a trained weight: stored in f32, cast to the dtype of the activations for the products.

use burn::backend::tensor::FloatTensor;
use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::cast;

use super::gemm::{Factor, product};
use crate::trainable_linear::TrainableLinearOps;

impl TrainableLinearOps for CubeBackend {
    fn dense_linear(x: FloatTensor<Self>, w: FloatTensor<Self>) -> FloatTensor<Self> {
        let dtype = x.dtype;
        product(Factor::plain(x), Factor::transposed(cast(w, dtype)), dtype)
    }

    fn dense_linear_input_gradient(dy: FloatTensor<Self>, w: FloatTensor<Self>) -> FloatTensor<Self> {
        let dtype = dy.dtype;
        product(Factor::plain(dy), Factor::plain(cast(w, dtype)), dtype)
    }

    fn dense_linear_weight_gradient(dy: FloatTensor<Self>, x: FloatTensor<Self>) -> FloatTensor<Self> {
        product(Factor::transposed(dy), Factor::plain(x), DType::F32)
    }
}
