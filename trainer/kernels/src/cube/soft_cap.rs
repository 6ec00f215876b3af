//! Soft-capping within kernels that read scores or logits. `bend` is one over the cap, in the units of what is capped.

use cubecl::prelude::*;

/// `tanh(x · bend) / bend`, or `x` where nothing is capped. The exponent ends where tanh is 1 in f32.
#[cube]
pub(crate) fn bent(x: f32, bend: f32, #[comptime] capped: bool) -> f32 {
    if comptime!(capped) { (1.0f32 - 2.0f32 / (1.0f32 + f32::exp(min(2.0f32 * bend * x, 40.0f32)))) / bend } else { x }
}

/// The derivative at the place whose result was `bent`.
#[cube]
pub(crate) fn slope(bent: f32, bend: f32, #[comptime] capped: bool) -> f32 {
    let mut slope = 1.0f32;
    if comptime!(capped) {
        slope = (1.0f32 - bent * bend) * (1.0f32 + bent * bend);
    }
    slope
}

/// `bend` and `capped` of the kernels, for things that are a factor `scale` smaller before they are capped.
pub(crate) fn bending(cap: Option<f32>, scale: f32) -> (f32, bool) {
    (cap.map_or(1.0, |cap| scale / cap), cap.is_some())
}
