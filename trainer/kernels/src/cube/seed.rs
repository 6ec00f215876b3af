//! A scalar whose gradient is known.

use burn::backend::tensor::FloatTensor;
use burn_cubecl::CubeBackend;

use super::tensors::{reshaped, zeros};
use crate::seed::SeedOps;

impl SeedOps for CubeBackend {
    fn seeded(y: FloatTensor<Self>, _: FloatTensor<Self>) -> FloatTensor<Self> {
        reshaped(zeros(&y, 1, 1), [1])
    }
}
