//! Kernels over `f32` slices for the CPU: matrix products and the loops of the other operations.
//!
//! Responsible for: choosing instructions at run time, threads, packing, tiles.
//! Must not depend on: Burn. Every result is the same whatever the number of threads.

#[cfg(target_arch = "x86_64")]
mod amx;
pub(crate) mod dequantize;
pub(crate) mod elementary;
pub(crate) mod gemm;
pub(crate) mod gemv;
pub(crate) mod level;
pub(crate) mod memory;
pub(crate) mod pack;
pub(crate) mod reduce;
mod spin_pool;
#[cfg(test)]
mod testing;
pub(crate) mod threads;
pub(crate) mod tile;
pub(crate) mod transpose;
