//! Memory and peak speed of an NVIDIA GPU.
//!
//! Responsible for: the memory that the driver reports, and the peak speed from the data sheets. Must not depend on:
//! models, Burn.

use cudarc::driver::CudaContext;

/// TFLOP/s of bf16 matrix products (GEMM) with f32 accumulation, without sparsity, by a word in the GPU's name. The
/// first match counts. From NVIDIA's data sheets.
const PEAK_TFLOPS: [(&str, f64); 8] = [
    ("B200", 2250.0),
    ("H200", 989.4),
    ("H100 PCIe", 756.0),
    ("H100 NVL", 835.0),
    ("H100", 989.4),
    ("A100", 312.0),
    ("L40S", 362.0),
    ("L4", 121.0),
];

/// Peak floating-point operations per second of a known GPU.
pub(crate) fn peak_flops(name: &str) -> Option<f64> {
    let words: Vec<&str> = name.split([' ', '-', ',']).collect();
    let is = |known: &str| known.split(' ').all(|word| words.contains(&word));
    PEAK_TFLOPS.iter().find(|(known, _)| is(known)).map(|(_, tflops)| tflops * 1e12)
}

/// Free and total bytes of the GPU with this index.
pub(crate) fn memory(index: usize) -> Option<(u64, u64)> {
    let (free, all) = CudaContext::new(index).ok()?.mem_get_info().ok()?;
    Some((free as u64, all as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_are_known_by_their_names() {
        assert_eq!(peak_flops("NVIDIA H100 80GB HBM3, bf16"), Some(989.4e12));
        assert_eq!(peak_flops("NVIDIA H100 PCIe, bf16"), Some(756e12));
        assert_eq!(peak_flops("NVIDIA A100-SXM4-80GB, bf16"), Some(312e12));
        assert_eq!(peak_flops("NVIDIA L4, bf16"), Some(121e12));
        assert_eq!(peak_flops("NVIDIA L40, bf16"), None);
    }
}
