//! GPU implementations in CubeCL, which compiles for CUDA (NVRTC) and Vulkan (SPIR-V).
//!
//! Responsible for: the `CubeBackend` implementations of the traits in the parent module, one file each, with their kernels.
//! Activations are bf16 or f32, as the embedding returns them. Reductions, norms and exponentials are f32; so are adapters,
//! their gradients and optimizer states. No sum uses atomics, so each has a fixed order.
//! Must not depend on: the CPU implementations.

mod adamw;
mod adamw8;
#[cfg(feature = "cuda")]
mod all_reduce;
mod attention;
mod bias;
mod cotangent;
mod cross_entropy;
#[cfg(feature = "cuda")]
mod cuda;
mod dequantize;
mod dropout;
mod embedding;
mod gemm;
mod glu;
#[cfg(feature = "cuda")]
mod host_stack;
mod launch;
mod linear;
mod lora;
mod rms_norm;
mod rope;
mod soft_cap;
mod square_sums;
mod tensors;
mod trainable_linear;
#[cfg(feature = "cuda")]
mod update;

#[cfg(feature = "cuda")]
pub(crate) use all_reduce::all_reduce;
#[cfg(feature = "cuda")]
pub(crate) use cuda::nccl::{available as nccl_available, new_id as nccl_id};
pub(crate) use dequantize::device_words;
#[cfg(feature = "cuda")]
pub(crate) use host_stack::Offloaded;
pub(crate) use tensors::upload;
#[cfg(feature = "cuda")]
pub(crate) use update::update;
