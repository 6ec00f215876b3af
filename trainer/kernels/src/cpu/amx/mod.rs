//! Matrix products on AMX, the matrix unit of Intel's Xeon processors from Sapphire Rapids on.
//!
//! Responsible for: f32 products from a unit that multiplies bf16. An f32 number is the exact sum of three bf16 numbers.
//! Six of the nine products of two such sums are computed and added up in f32; the three left out are together at most the
//! last bit of an f32 product, and mostly far less (Henry, Tang, Heinecke, "Leveraging the bfloat16 artificial intelligence
//! datatype for higher-precision computations", 2019). So the results are about as accurate as those of fused
//! multiply-adds. What differs: numbers below 2^-126 count as zeros, and operands beyond 3.38e38 give NaN.

pub(super) mod gemm;
mod split;
pub(super) mod tiles;
