//! An embedding table that stays in host memory.
//!
//! Responsible for: copying the rows that a pass needs to the device. A pass reads a few thousand rows. If the output head has
//! its own matrix, the rest of the table (1 GB for Llama-3.1-8B) would only occupy device memory.
//! Must not depend on: what the rows mean.

use std::sync::{Mutex, PoisonError};

use burn::tensor::{DType, Device, Tensor};
use rayon::prelude::*;
use tonfall_blocks::{Format, byte_len};

use crate::buffer::Buffer;
use crate::embedding::embedding;
use crate::frozen::{FrozenMatrix, MatrixLayout};

/// A frozen table `[rows, cols]` in host memory, whose rows are looked up for a device.
#[derive(Debug)]
pub struct HostTable {
    bytes: Vec<u8>,
    layout: MatrixLayout,
    device: Device,
    /// Prefetched ids and their rows.
    ahead: Mutex<Option<(Vec<u32>, Tensor<2>)>>,
}

impl HostTable {
    /// A table from bytes laid out as `tonfall_blocks` describes. The bytes are moved, not copied.
    ///
    /// # Panics
    /// When `bytes` doesn't have the length that format and shape require, or the format is NF4, whose blocks span rows.
    #[must_use]
    pub fn new(bytes: Vec<u8>, format: Format, rows: usize, cols: usize, device: &Device) -> Self {
        assert_ne!(format, Format::Nf4, "an NF4 table can't be split into rows");
        assert_eq!(bytes.len(), byte_len(format, rows, cols), "bytes of a {rows} x {cols} table in {format}");
        Self { bytes, layout: MatrixLayout { format, rows, cols }, device: device.clone(), ahead: Mutex::default() }
    }

    /// Prefetches the rows of the next call of [`HostTable::embedding`], while the device is busy.
    ///
    /// # Panics
    /// When an id is beyond the table.
    pub fn look_ahead(&self, ids: &[u32], dtype: DType) {
        let rows = self.look_up(ids, dtype);
        *self.ahead.lock().unwrap_or_else(PoisonError::into_inner) = Some((ids.to_vec(), rows));
    }

    /// Rows `ids` on the device, as `[T, cols]` in `dtype`. Bit-identical to [`embedding`] with the whole table on the device.
    ///
    /// # Panics
    /// When an id is beyond the table.
    #[must_use]
    pub fn embedding(&self, ids: &[u32], dtype: DType) -> Tensor<2> {
        let ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner).take();
        match ahead.filter(|(known, rows)| known == ids && rows.dtype() == dtype) {
            Some((_, rows)) => rows,
            None => self.look_up(ids, dtype),
        }
    }

    fn look_up(&self, ids: &[u32], dtype: DType) -> Tensor<2> {
        let MatrixLayout { format, rows, cols } = self.layout;
        let row_len = byte_len(format, 1, cols);
        let len = ids.len() * row_len;
        let mut words = Buffer::dirty(len.div_ceil(4));
        let bytes: &mut [u8] = &mut bytemuck::cast_slice_mut(&mut words)[..len];
        bytes.par_chunks_mut(row_len).zip(ids).for_each(|(to, id)| {
            let id = *id as usize;
            assert!(id < rows, "id {id} in a table of {rows} rows");
            to.copy_from_slice(&self.bytes[id * row_len..][..row_len]);
        });
        let selected = FrozenMatrix::passing(words, MatrixLayout { rows: ids.len(), ..self.layout }, &self.device);
        let in_order: Vec<u32> = (0..u32::try_from(ids.len()).expect("fewer than 2^32 ids")).collect();
        embedding(&in_order, &selected, dtype)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{stored_bytes, values};

    #[test]
    fn rows_equal_those_of_a_table_on_the_device() {
        let device = Device::flex();
        for format in Format::ALL.into_iter().filter(|format| *format != Format::Nf4) {
            for cols in [256, 512] {
                let bytes = stored_bytes(format, 20, cols, 1);
                let whole = FrozenMatrix::new(bytes.clone(), format, 20, cols, &device);
                let table = HostTable::new(bytes, format, 20, cols, &device);
                for len in [0, 1, 2, 3, 4, 5, 17, 40, 65, 300] {
                    let ids: Vec<u32> = (0..len).map(|i| i * i * 7 % 20).collect();
                    let want = values(&embedding(&ids, &whole, DType::F32));
                    assert_eq!(values(&table.embedding(&ids, DType::F32)), want, "{format}, {len} ids of {cols}");
                }
            }
        }
    }

    #[test]
    fn prefetched_rows_are_used_only_for_the_same_ids() {
        let table = HostTable::new(stored_bytes(Format::F32, 20, 4, 1), Format::F32, 20, 4, &Device::flex());
        let rows = |ids: &[u32]| values(&table.embedding(ids, DType::F32));
        let want = [rows(&[3, 5]), rows(&[6])];
        for ahead in [&[3, 5][..], &[6]] {
            table.look_ahead(ahead, DType::F32);
            assert_eq!(rows(&[3, 5]), want[0]);
            assert_eq!(rows(&[6]), want[1]);
        }
        table.look_ahead(&[3, 5], DType::F32);
        let held = table.ahead.lock().expect("nobody panicked").take();
        assert_eq!(held.map(|(ids, rows)| (ids, values(&rows))), Some((vec![3, 5], want[0].clone())));
    }

    #[test]
    #[should_panic(expected = "id 20 in a table of 20 rows")]
    fn an_unknown_id_is_refused() {
        let bytes = stored_bytes(Format::F32, 20, 4, 1);
        let _ = HostTable::new(bytes, Format::F32, 20, 4, &Device::flex()).embedding(&[20], DType::F32);
    }

    #[test]
    #[should_panic(expected = "can't be split into rows")]
    fn nf4_is_refused() {
        let _ = HostTable::new(Vec::new(), Format::Nf4, 20, 64, &Device::flex());
    }
}
