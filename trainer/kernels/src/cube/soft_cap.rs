//! Soft-capping in kernels that read scores or logits. `inverse_cap` is `1 / cap`, in the units of the values that kernels read.

use cubecl::prelude::*;

/// `tanh(x · inverse_cap) / inverse_cap`, or `x` without a cap. The exponent is limited to 40, where tanh is 1 in f32.
#[cube]
pub(crate) fn soft_capped(x: f32, inverse_cap: f32, #[comptime] capped: bool) -> f32 {
    if comptime!(capped) {
        (1.0f32 - 2.0f32 / (1.0f32 + f32::exp(min(2.0f32 * inverse_cap * x, 40.0f32)))) / inverse_cap
    } else {
        x
    }
}

/// The derivative, given the capped value.
#[cube]
pub(crate) fn slope(soft_capped: f32, inverse_cap: f32, #[comptime] capped: bool) -> f32 {
    let mut slope = 1.0f32;
    if comptime!(capped) {
        slope = (1.0f32 - soft_capped * inverse_cap) * (1.0f32 + soft_capped * inverse_cap);
    }
    slope
}

/// The arguments `inverse_cap` and `capped` of the kernels, for values that are multiplied by `scale` before the cap.
pub(crate) fn cap_arguments(cap: Option<f32>, scale: f32) -> (f32, bool) {
    (cap.map_or(1.0, |cap| scale / cap), cap.is_some())
}
