//! What CUDA has and other devices don't: libraries and kernels of their own on the stream of CubeCL's kernels.

pub(super) mod attention;
pub(super) mod cublaslt;
pub(super) mod nccl;
mod program;
mod stream;

use cubecl::client::Client;

/// Whether a client computes on CUDA.
pub(super) fn serves(client: &Client) -> bool {
    client.name().contains("cuda")
}
