//! Starts a backward pass from a known cotangent.

use burn::backend::tensor::FloatTensor;
use burn_cubecl::CubeBackend;

use super::tensors::{reshaped, zeros};
use crate::cotangent::CotangentOps;

impl CotangentOps for CubeBackend {
    fn with_cotangent(y: FloatTensor<Self>, _: FloatTensor<Self>) -> FloatTensor<Self> {
        reshaped(zeros(&y, 1, 1), [1])
    }
}
