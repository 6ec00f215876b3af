//! A table of embeddings that stays in the host's memory.
//!
//! Responsible for: bringing the rows that a pass needs to the device that computes. A model whose head has a matrix of its
//! own needs a few thousand rows of its embeddings at a time: the whole table, a gigabyte at Llama-3.1-8B's shape, would
//! lie idle on the device.
//! Must not depend on: what the rows mean.

use std::sync::{Mutex, PoisonError};

use burn::tensor::{DType, Device, Tensor};
use rayon::prelude::*;
use tonfall_blocks::{Format, byte_len};

use crate::buffer::Buffer;
use crate::embedding::embedding;
use crate::frozen::{FrozenMatrix, MatrixLayout};

/// A frozen table `[rows, cols]` in the host's memory, looked up for a device.
#[derive(Debug)]
pub struct HostTable {
    bytes: Vec<u8>,
    layout: MatrixLayout,
    device: Device,
    /// Ids and rows that were looked up ahead.
    ahead: Mutex<Option<(Vec<u32>, Tensor<2>)>>,
}

impl HostTable {
    /// A table from bytes laid out as `tonfall_blocks` describes. The bytes are moved, not copied.
    ///
    /// # Panics
    /// When `bytes` is not as long as format and shape ask for, or the format is NF4, whose scales don't belong to rows.
    #[must_use]
    pub fn new(bytes: Vec<u8>, format: Format, rows: usize, cols: usize, device: &Device) -> Self {
        assert_ne!(format, Format::Nf4, "rows of NF4 can't be told apart");
        assert_eq!(bytes.len(), byte_len(format, rows, cols), "bytes of a {rows} x {cols} table in {format}");
        Self { bytes, layout: MatrixLayout { format, rows, cols }, device: device.clone(), ahead: Mutex::default() }
    }

    /// Looks up what [`HostTable::embedding`] will be asked for next, while the device is busy with something else.
    ///
    /// # Panics
    /// When an id is beyond the table.
    pub fn look_ahead(&self, ids: &[u32], dtype: DType) {
        let rows = self.look_up(ids, dtype);
        *self.ahead.lock().unwrap_or_else(PoisonError::into_inner) = Some((ids.to_vec(), rows));
    }

    /// Rows `ids`, `[T, cols]`, on the device, as `dtype`: to the bit those of [`embedding`] with the whole table there.
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
    fn rows_are_those_of_the_whole_table() {
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
    fn what_was_looked_up_ahead_is_taken_where_it_is_what_is_asked_for() {
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
    #[should_panic(expected = "rows of NF4 can't be told apart")]
    fn nf4_is_refused() {
        let _ = HostTable::new(Vec::new(), Format::Nf4, 20, 64, &Device::flex());
    }
}
