//! Rows of activations in host memory.

use crate::cpu::few_rows::LANES;

/// Sixteen floats in one cache line.
#[derive(Clone, Copy, Debug, bytemuck::Zeroable, bytemuck::Pod)]
#[repr(C, align(64))]
struct Line([f32; LANES]);

/// A matrix of activations `[count, columns]`, f32. Each row begins at a cache line; the elements between rows are zeros.
#[derive(Clone, Debug)]
pub struct Rows {
    lines: Vec<Line>,
    columns: usize,
    stride: usize,
}

impl Rows {
    /// Zeros.
    #[must_use]
    pub fn new(count: usize, columns: usize) -> Self {
        let lines = columns.div_ceil(LANES);
        Self { lines: vec![Line([0.0; LANES]); count * lines], columns, stride: lines * LANES }
    }

    /// Bytes of `count` rows of `columns` elements.
    #[must_use]
    pub fn bytes(count: usize, columns: usize) -> u64 {
        (count * columns.next_multiple_of(LANES) * size_of::<f32>()) as u64
    }

    #[must_use]
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Elements from the beginning of a row to that of the next.
    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    /// Number of rows.
    pub(crate) fn count(&self) -> usize {
        self.values().len().checked_div(self.stride).unwrap_or(0)
    }

    pub(crate) fn values(&self) -> &[f32] {
        bytemuck::cast_slice(&self.lines)
    }

    pub(crate) fn values_mut(&mut self) -> &mut [f32] {
        bytemuck::cast_slice_mut(&mut self.lines)
    }

    /// # Panics
    /// Beyond the last row.
    #[must_use]
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values()[row * self.stride..][..self.columns]
    }

    /// # Panics
    /// Beyond the last row.
    pub fn row_mut(&mut self, row: usize) -> &mut [f32] {
        let (start, columns) = (row * self.stride, self.columns);
        &mut self.values_mut()[start..][..columns]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_apart_and_aligned() {
        for columns in [1, 15, 16, 17, 33] {
            let mut rows = Rows::new(3, columns);
            for row in 0..3 {
                rows.row_mut(row).fill(1.0 + row as f32);
                assert_eq!(rows.row(row).as_ptr() as usize % 64, 0);
            }
            assert!((0..3).all(|row| rows.row(row) == vec![1.0 + row as f32; columns]));
            let sum: f32 = rows.values().iter().sum();
            assert_eq!(sum, 6.0 * columns as f32, "the elements between rows are zeros");
            assert_eq!(Rows::bytes(3, columns), (rows.values().len() * 4) as u64);
            assert_eq!(rows.count(), 3);
        }
    }
}
