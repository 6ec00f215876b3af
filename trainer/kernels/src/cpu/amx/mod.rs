//! GEMM on AMX, the matrix unit of Intel Xeon processors since Sapphire Rapids.
//!
//! Responsible for: f32 matrix products on a unit that multiplies bf16. An f32 number is the exact sum of three bf16 numbers
//! (high, middle and low part). Six of the nine products of two such sums are computed and added in f32. The other three
//! together are at most the last bit of an f32 product, and usually far less (Henry, Tang, Heinecke, "Leveraging the bfloat16
//! artificial intelligence datatype for higher-precision computations", 2019). Results are about as accurate as with fused
//! multiply-adds. Two differences remain: numbers below 2^-126 become zero, and operands above 3.38e38 give NaN.

pub(super) mod gemm;
mod split;
pub(super) mod tiles;
