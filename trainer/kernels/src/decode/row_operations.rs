//! Operations on single rows. Their loops are those of the tensor versions.

use super::host_matrix::HostMatrix;
use super::rows::Rows;
use crate::cpu::level::{Level, multiversion};
use crate::cpu::memory::Shared;
use crate::cpu::threads;
use crate::glu::{self, Activation};
use crate::rope::{RopeTable, rotate_row};
use crate::{rms_norm as norm, soft_cap as capping};

/// Calls `task(row, row of y)` for the first `rows` rows, on all threads if there are many elements.
fn each_row(rows: usize, y: &mut Rows, task: impl Fn(usize, &mut [f32]) + Sync) {
    assert!(rows <= y.count(), "rows of the output");
    let (columns, stride) = (y.columns(), y.stride());
    let piece = threads::rows_per_piece(rows, columns);
    let shared = Shared::new(y.values_mut());
    threads::each(rows.div_ceil(piece), |part| {
        for row in part * piece..rows.min((part + 1) * piece) {
            #[expect(unsafe_code, reason = "tasks write disjoint parts of one buffer")]
            // SAFETY: each row belongs to one task.
            task(row, unsafe { shared.part(row * stride, columns) });
        }
    });
}

/// `y = x / √(mean(x²) + ε) · γ`.
///
/// # Panics
/// When shapes don't fit.
pub fn rms_norm(rows: usize, x: &Rows, gamma: &[f32], epsilon: f64, y: &mut Rows) {
    assert_eq!([x.columns(), y.columns()], [gamma.len(); 2], "columns of a norm");
    let level = Level::best();
    each_row(rows, y, |row, y| norm::forward(level, x.row(row), gamma, epsilon, y));
}

/// [`rms_norm`] over each head of `y`, whose values are in `x` too. `x` is scratch memory of the same shape.
///
/// # Panics
/// When a row is not a whole number of heads.
pub fn rms_norm_heads(rows: usize, y: &mut Rows, gamma: &[f32], epsilon: f64, x: &mut Rows) {
    assert!(y.columns().is_multiple_of(gamma.len()) && x.columns() == y.columns(), "heads of {} elements", gamma.len());
    for row in 0..rows {
        x.row_mut(row).copy_from_slice(y.row(row));
    }
    let level = Level::best();
    each_row(rows, y, |row, y| norm::forward(level, x.row(row), gamma, epsilon, y));
}

/// Rotates every head of row `t` by the angles of `positions[t]`.
///
/// # Panics
/// When a position exceeds the table's maximum.
pub fn rotate(y: &mut Rows, table: &RopeTable, positions: &[u32]) {
    let angles = table.up_to(positions.iter().max().map_or(0, |highest| *highest as usize + 1));
    let level = Level::best();
    each_row(positions.len(), y, |row, y| {
        let (cos, sin) = angles.at(positions[row] as usize);
        rotate_row(level, y, cos, sin, 1.0);
    });
}

/// `y = act(gate) · up`.
///
/// # Panics
/// When shapes don't fit.
pub fn glu(rows: usize, gate: &Rows, up: &Rows, activation: Activation, y: &mut Rows) {
    assert_eq!([gate.columns(), up.columns()], [y.columns(); 2], "columns of a gated activation");
    let level = Level::best();
    each_row(rows, y, |row, y| glu::forward(level, activation, gate.row(row), up.row(row), y));
}

multiversion! {
    fn add_row(y: &mut [f32], x: &[f32]) {
        y.iter_mut().zip(x).for_each(|(y, x)| *y += x);
    }
}

/// `y += x`.
///
/// # Panics
/// When shapes don't fit.
pub fn add(rows: usize, y: &mut Rows, x: &Rows) {
    assert_eq!(x.columns(), y.columns(), "columns of a sum");
    let level = Level::best();
    each_row(rows, y, |row, y| add_row(level, y, x.row(row)));
}

/// Soft-caps the first `rows` rows.
pub fn soft_cap(rows: usize, y: &mut Rows, cap: f32) {
    let level = Level::best();
    each_row(rows, y, |_, y| capping::cap(level, y, cap));
}

/// Rows `ids` of a table, times `scale`.
///
/// # Panics
/// When an id is beyond the table.
pub fn embed(ids: impl Iterator<Item = u32>, table: &HostMatrix, scale: Option<f32>, y: &mut Rows) {
    assert_eq!(table.cols(), y.columns(), "columns of the table");
    let (level, stored) = (Level::best(), table.view());
    for (row, id) in ids.enumerate() {
        let id = id as usize;
        assert!(id < table.rows(), "id {id} in a table of {} rows", table.rows());
        let y = y.row_mut(row);
        stored.read(level, id * table.cols(), y);
        if let Some(scale) = scale {
            y.iter_mut().for_each(|y| *y *= scale);
        }
    }
}
