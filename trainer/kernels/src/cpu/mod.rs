//! CPU kernels over `f32` slices: GEMM, and the loops of the other operations.
//!
//! Responsible for: run-time choice of instructions, threads, packing, register tiles. Results don't depend on the number of
//! threads.
//! Must not depend on: Burn.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod blocks;
pub(crate) mod dequantize;
pub(crate) mod elementary;
pub(crate) mod few_rows;
pub(crate) mod gemm;
pub(crate) mod gemv;
pub(crate) mod level;
pub(crate) mod memory;
pub(crate) mod pack;
pub(crate) mod reduce;
pub(crate) mod single_query;
mod spin_pool;
#[cfg(test)]
mod testing;
pub(crate) mod threads;
pub(crate) mod tile;
pub(crate) mod transpose;
mod vector;
