//! Tensors that stay on a device for as long as a run.
//!
//! Responsible for: keeping them apart from what comes and goes. A GPU's pools would otherwise grow their pages to the
//! largest weight, and get holes around each of them.

use burn::tensor::Device;

/// What `make` makes of `input`, every allocation of it of exactly its size and outside of the pools.
pub fn resident<I: Send, T: Send>(device: &Device, input: I, make: impl Fn(I) -> T + Send) -> T {
    device.memory_persistent_allocations(input, make)
}
