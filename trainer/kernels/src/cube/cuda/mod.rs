//! CUDA libraries and CUDA C++ kernels, on the stream of CubeCL's kernels.

pub(super) mod attention;
pub(super) mod copy_stream;
pub(super) mod cublaslt;
pub(super) mod multi_tensor;
pub(super) mod nccl;
mod program;
mod stream;

use burn::tensor::Tensor;
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::Client;

/// Whether a client's device is a CUDA GPU.
pub(super) fn serves(client: &Client) -> bool {
    client.name().contains("cuda")
}

/// The tensor, if it is on a CUDA GPU and outside autodiff graphs.
pub(super) fn on_cuda<const D: usize>(tensor: Tensor<D>) -> Option<CubeTensor> {
    tensor.try_into_primitive::<CubeBackend>().ok().filter(|tensor| serves(&tensor.client))
}
