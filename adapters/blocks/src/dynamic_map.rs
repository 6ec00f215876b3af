//! The 8-bit dynamic data type in which bitsandbytes stores block scales.
//!
//! Source: Dettmers et al., "8-bit Optimizers via Block-wise Quantization" (arXiv 2110.02861), and bitsandbytes'
//! `create_dynamic_map(signed=True)`, bit for bit.

/// The 256 values in ascending order, from about -0.993 to 1.
///
/// Seven decades from 10^-6 to 1 have 1, 2, 4 … 64 values of each sign. Zero and one complete the map.
pub const DYNAMIC_MAP: [f32; 256] = dynamic_map();

const DECADES: [f32; 7] = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0];

const fn dynamic_map() -> [f32; 256] {
    let mut map = [0.0; 256];
    map[255] = 1.0;
    let mut magnitude_index = 0;
    let mut decade = 0;
    while decade < DECADES.len() {
        let count = 1 << decade;
        let mut i = 0;
        while i < count {
            let middle = (boundary(i, count) + boundary(i + 1, count)) / 2.0;
            let value = DECADES[decade] * middle;
            map[128 + magnitude_index] = value;
            map[126 - magnitude_index] = -value;
            magnitude_index += 1;
            i += 1;
        }
        decade += 1;
    }
    map
}

/// Boundary `i` of `count` equal parts of 0.1 … 1. PyTorch's `linspace` counts from the nearer end with a fused multiply-add.
/// In `f64` the product is exact, which gives the same result.
const fn boundary(i: usize, count: usize) -> f32 {
    let step = ((1.0f32 - 0.1f32) / count as f32) as f64;
    if i < count.div_ceil(2) {
        (0.1f32 as f64 + step * i as f64) as f32
    } else {
        (1.0 - step * (count - i) as f64) as f32
    }
}
