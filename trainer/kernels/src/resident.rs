//! Tensors that stay on a device for the whole run.
//!
//! Responsible for: allocating them outside the GPU's memory pools. Otherwise pool pages would grow to the size of the largest
//! weight, and the weights would fragment them.

use burn::tensor::Device;

/// Runs `make(input)`; each of its allocations has exactly the requested size and lies outside the pools.
pub fn resident<I: Send, T: Send>(device: &Device, input: I, make: impl Fn(I) -> T + Send) -> T {
    device.memory_persistent_allocations(input, make)
}
