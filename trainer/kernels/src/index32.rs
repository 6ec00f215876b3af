//! Limits of 32-bit indices in GPU kernels.
//!
//! Responsible for: refusing, before a launch, whatever a kernel can't address, so that no index wraps. Kernels are compiled
//! with 32-bit addresses: element indices, byte offsets, counts and grid positions are `u32`.
//! Must not depend on: devices. These are functions of shapes, so they are tested without a GPU.

use tonfall_blocks::{Format, byte_len};

use crate::frozen::MatrixLayout;

/// Most elements, bytes or units that one kernel addresses. It is less than 2^32 because a grid is rounded up to whole rows
/// of cubes (fewer than 65,535 cubes of 256 units more) and a loop steps past its last element by one stride.
pub(crate) const MOST: usize = u32::MAX as usize - (1 << 25);

/// Most cubes along one side of a grid: the least that Vulkan guarantees, and CUDA's limit for `y`.
const LONGEST_SIDE: usize = 65_535;

/// A count, index or byte offset as an argument of a kernel.
///
/// # Panics
/// When a kernel can't address that many.
#[track_caller]
pub(crate) fn index(count: usize) -> u32 {
    match u32::try_from(count) {
        Ok(index) if count <= MOST => index,
        _ => panic!(
            "a GPU kernel addresses at most {MOST} elements or bytes of a tensor, not {count}: use fewer or shorter sequences in a \
             micro-batch, or the CPU"
        ),
    }
}

/// A count as an `i32`, for CUDA's libraries.
///
/// # Panics
/// When it doesn't fit.
#[cfg(any(test, feature = "cuda"))]
#[track_caller]
pub(crate) fn signed(count: usize) -> i32 {
    i32::try_from(count).unwrap_or_else(|_| panic!("{count} does not fit a 32-bit argument of a GPU library"))
}

/// Width and height of a grid of at least `cubes` cubes.
///
/// # Panics
/// When a grid is not that large.
#[track_caller]
pub(crate) fn grid(cubes: usize) -> [u32; 2] {
    let width = cubes.clamp(1, LONGEST_SIDE);
    [index(width), side(cubes.max(1).div_ceil(width))]
}

/// Number of cubes along one side of a grid.
///
/// # Panics
/// When a side is not that long.
#[track_caller]
pub(crate) fn side(cubes: usize) -> u32 {
    assert!(
        cubes <= LONGEST_SIDE,
        "a side of a GPU grid has at most {LONGEST_SIDE} blocks, not {cubes}: use fewer tokens"
    );
    index(cubes)
}

/// Checks that a kernel can address each element and each byte of a stored matrix.
///
/// # Panics
/// When it can't.
#[track_caller]
pub(crate) fn check_matrix(layout: MatrixLayout) {
    let MatrixLayout { format, rows, cols, .. } = layout;
    index(rows * cols);
    // F32 is read by words.
    if format != Format::F32 {
        index(byte_len(format, rows, cols));
    }
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use super::*;

    fn layout(format: Format, rows: usize, cols: usize) -> MatrixLayout {
        MatrixLayout { format, rows, cols }
    }

    #[test]
    fn counts_beyond_the_limit_are_refused_and_never_wrap() {
        for count in [0, 1, 1 << 31, MOST] {
            assert_eq!(index(count) as usize, count);
        }
        for count in [MOST + 1, u32::MAX as usize, 1 << 32, (1 << 32) + 5, usize::MAX] {
            let panic = catch_unwind(|| index(count)).expect_err("refused");
            let text = panic.downcast::<String>().expect("a text");
            assert!(text.contains(&format!("not {count}")) && text.contains("micro-batch"), "{text}");
        }
        assert_eq!(signed(i32::MAX as usize), i32::MAX);
        assert!(catch_unwind(|| signed(1 << 31)).is_err());
    }

    #[test]
    fn positions_in_the_largest_grid_fit_32_bits() {
        const UNITS: usize = 256;
        for units in [1, UNITS, UNITS + 1, UNITS * LONGEST_SIDE + 1, MOST - 1, MOST] {
            let [width, height] = grid(units.div_ceil(UNITS)).map(|side| side as usize);
            assert!(width.max(height) <= LONGEST_SIDE && width * height * UNITS >= units);
            assert!(u32::try_from(width * height * UNITS).is_ok(), "{units} units in {width} by {height} cubes");
        }
        assert!(catch_unwind(|| grid(LONGEST_SIDE * LONGEST_SIDE + 1)).is_err());
        assert!(catch_unwind(|| side(LONGEST_SIDE + 1)).is_err());
    }

    #[test]
    fn matrices_are_checked_by_elements_and_by_bytes() {
        // Llama-3.1-405B's head fits.
        check_matrix(layout(Format::Bf16, 128_256, 16_384));
        check_matrix(layout(Format::F32, 1 << 16, 60_000));
        for (format, rows, cols) in
            [(Format::Nf4, 1 << 16, 1 << 16), (Format::Bf16, 1 << 16, 1 << 15), (Format::Q8_0, 1 << 16, 62_500 - 4)]
        {
            assert!(catch_unwind(|| check_matrix(layout(format, rows, cols))).is_err(), "{format} {rows}x{cols}");
        }
    }
}
