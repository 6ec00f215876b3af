//! How many units work on what.
//!
//! Responsible for: sizes of grids, and who works on which row. A grid has at most 65,535 cubes a side (the least that
//! Vulkan promises), so long ones are folded: kernels ask `CUBE_POS` or `ABSOLUTE_POS` and leave when it is beyond the end.
//!
//! A row that is summed belongs to one plane (a warp), whose units sum among themselves: no shared memory, no barrier, and
//! one order of every sum.

use cubecl::client::Client;
use cubecl::prelude::*;

/// Units of a cube in element-wise kernels.
pub(crate) const UNITS: u32 = 256;
const LONGEST_SIDE: usize = 65_535;

/// At least `count` cubes.
fn cubes(count: usize) -> CubeCount {
    let x = count.clamp(1, LONGEST_SIDE);
    let y = count.max(1).div_ceil(x);
    CubeCount::Static(x as u32, y as u32, 1)
}

/// At least `count` units, in cubes of [`UNITS`].
pub(crate) fn units(count: usize) -> CubeCount {
    cubes(count.div_ceil(UNITS as usize))
}

/// A grid in which every row has a plane.
pub(crate) struct Planes {
    pub(crate) count: CubeCount,
    pub(crate) dim: CubeDim,
    /// Units of a plane.
    pub(crate) lanes: u32,
}

/// A plane for each of `rows` rows.
pub(crate) fn planes(client: &Client, rows: usize) -> Planes {
    let lanes = client.properties().hardware.plane_size_max;
    let height = (UNITS / lanes).max(1);
    Planes { count: cubes(rows.div_ceil(height as usize)), dim: CubeDim::new_2d(lanes, height), lanes }
}

/// The row of this unit's plane; its place in the plane is `UNIT_POS_X`.
#[cube]
pub(crate) fn plane_row() -> u32 {
    CUBE_POS as u32 * CUBE_DIM_Y + UNIT_POS_Y
}
