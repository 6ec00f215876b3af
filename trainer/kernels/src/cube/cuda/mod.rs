//! What CUDA has and other devices don't: libraries and kernels of their own on the stream of CubeCL's kernels.

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

/// Whether a client computes on CUDA.
pub(super) fn serves(client: &Client) -> bool {
    client.name().contains("cuda")
}

/// The tensor, where it is on a CUDA card and outside of autodiff.
pub(super) fn on_card<const D: usize>(tensor: Tensor<D>) -> Option<CubeTensor> {
    tensor.try_into_primitive::<CubeBackend>().ok().filter(|tensor| serves(&tensor.client))
}
