//! Launch dimensions of kernels.
//!
//! Responsible for: sizes of grids, and which units process which row. A side of a grid has at most 65,535 cubes (the least
//! that Vulkan guarantees), so long grids are two-dimensional. Kernels read `CUBE_POS` or `ABSOLUTE_POS`; units beyond the
//! end return.
//!
//! A plane (warp) reduces a row with plane instructions: no shared memory, no barrier, a fixed order. Rows as long as a
//! vocabulary are split over several planes.

use burn::tensor::DType;
use cubecl::client::Client;
use cubecl::prelude::*;

use crate::index32::{grid, index};

/// Units of a cube in element-wise kernels.
pub(crate) const UNITS: u32 = 256;

/// A grid of at least `count` cubes.
fn cubes(count: usize) -> CubeCount {
    let [x, y] = grid(count);
    CubeCount::Static(x, y, 1)
}

/// A grid of at least `count` units, in cubes of [`UNITS`].
///
/// # Panics
/// When the position of a unit doesn't fit 32 bits.
pub(crate) fn units(count: usize) -> CubeCount {
    cubes((index(count) as usize).div_ceil(UNITS as usize))
}

/// Elements per vector load or store for rows of `columns` elements: as many as fit into 16 bytes and divide a row.
pub(crate) fn vector_size(dtype: DType, columns: usize) -> usize {
    let most = 1 << (16 / dtype.size()).ilog2();
    1 << columns.trailing_zeros().min(usize::ilog2(most))
}

/// A grid with one plane per row.
pub(crate) struct Planes {
    pub(crate) count: CubeCount,
    pub(crate) dim: CubeDim,
    /// Units per plane.
    pub(crate) lanes: u32,
}

/// A grid with one plane for each of `rows` rows.
///
/// # Panics
/// When the index of a row doesn't fit 32 bits.
pub(crate) fn planes(client: &Client, rows: usize) -> Planes {
    let lanes = client.properties().hardware.plane_size_max;
    let height = (UNITS / lanes).max(1);
    Planes {
        count: cubes((index(rows) as usize).div_ceil(height as usize)),
        dim: CubeDim::new_2d(lanes, height),
        lanes,
    }
}

/// The row of this unit's plane. The unit's position in the plane is `UNIT_POS_X`.
#[cube]
pub(crate) fn plane_row() -> u32 {
    CUBE_POS as u32 * CUBE_DIM_Y + UNIT_POS_Y
}

/// The sum of a vector's elements, from the first to the last.
#[cube]
pub(crate) fn vector_sum<N: Size>(vector: Vector<f32, N>) -> f32 {
    let mut sum = 0.0f32;
    #[unroll]
    for i in 0..N::value() {
        sum += vector.extract(i);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_divide_rows_and_fit_into_16_bytes() {
        let sizes = |dtype| [4096, 12, 6, 7, 1].map(|columns| vector_size(dtype, columns));
        assert_eq!(sizes(DType::BF16), [8, 4, 2, 1, 1]);
        assert_eq!(sizes(DType::F32), [4, 4, 2, 1, 1]);
    }
}
