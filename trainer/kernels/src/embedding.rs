//! Embeddings: rows of a matrix by index.

use std::sync::Arc;

use burn::tensor::{DType, Tensor};

use crate::buffer::Buffer;
use crate::cpu::level::Level;
use crate::cpu::memory::Shared;
use crate::cpu::threads;
use crate::flex::{bytes, constant, contiguous, dims, floats, matrix};
use crate::frozen::{FrozenMatrix, MatrixLayout};
use crate::op::{
    Autodiff, Backend, Backward, CheckpointStrategy, Checkpointer, Dispatch, Flex, FloatTensor, Gradients, IntTensor,
    Ops, OpsKind, backend_extension, unary,
};

/// The operations of a backend.
#[backend_extension(Flex, Autodiff, Cube: cfg(feature = "cube"))]
pub(crate) trait EmbeddingOps: Backend {
    /// Rows `ids` of a stored matrix, `[T, cols]`, as `dtype`.
    fn frozen_rows(table: IntTensor<Self>, layout: MatrixLayout, ids: Arc<[u32]>, dtype: DType) -> FloatTensor<Self>;
    /// Rows `ids` of `table[rows, cols]`, `[T, cols]`, as `dtype`.
    fn rows(table: FloatTensor<Self>, ids: Arc<[u32]>, dtype: DType) -> FloatTensor<Self>;
    /// `dy[T, cols]` → `[rows, cols]`: row `id` is the sum of all `dy[t]` with `ids[t] = id`. Not differentiable itself.
    fn rows_backward(dy: FloatTensor<Self>, ids: Arc<[u32]>, rows: usize) -> FloatTensor<Self>;
}

/// A matrix `[ids, columns]` whose rows `read` fills.
fn fill(ids: &[u32], rows: usize, columns: usize, read: impl Fn(usize, &mut [f32]) + Sync + Send) -> Buffer {
    let mut out = Buffer::dirty(ids.len() * columns);
    let shared = Shared::new(&mut out);
    let piece = threads::rows_per_piece(ids.len(), columns);
    threads::each(ids.len().div_ceil(piece), |task| {
        for (t, id) in ids.iter().enumerate().skip(task * piece).take(piece) {
            let id = *id as usize;
            assert!(id < rows, "id {id} in a table of {rows} rows");
            #[expect(unsafe_code, reason = "tasks write disjoint parts of one buffer")]
            // SAFETY: each row belongs to one task.
            read(id, unsafe { shared.part(t * columns, columns) });
        }
    });
    out
}

impl EmbeddingOps for Flex {
    fn frozen_rows(table: IntTensor<Self>, layout: MatrixLayout, ids: Arc<[u32]>, dtype: DType) -> FloatTensor<Self> {
        assert_eq!(dtype, DType::F32, "the CPU computes in f32");
        let (level, stored) = (Level::best(), layout.view(bytes(&table)));
        let values = fill(&ids, layout.rows, layout.cols, |id, row| stored.read(level, id * layout.cols, row));
        matrix(values, ids.len(), layout.cols)
    }

    fn rows(table: FloatTensor<Self>, ids: Arc<[u32]>, dtype: DType) -> FloatTensor<Self> {
        assert_eq!(dtype, DType::F32, "the CPU computes in f32");
        let table = contiguous(table);
        let ((rows, columns), table) = (dims(&table), floats(&table));
        let values = fill(&ids, rows, columns, |id, row| row.copy_from_slice(&table[id * columns..][..columns]));
        matrix(values, ids.len(), columns)
    }

    fn rows_backward(dy: FloatTensor<Self>, ids: Arc<[u32]>, rows: usize) -> FloatTensor<Self> {
        let dy = contiguous(dy);
        let ((_, columns), dy) = (dims(&dy), floats(&dy));
        let mut out = Buffer::zeroed(rows * columns);
        let shared = Shared::new(&mut out);
        // Tasks split the columns, so that each sum has a fixed order.
        let piece = columns.div_ceil(threads::count()).next_multiple_of(16);
        threads::each(columns.div_ceil(piece), |task| {
            let (start, len) = (task * piece, piece.min(columns - task * piece));
            for (t, id) in ids.iter().enumerate() {
                #[expect(unsafe_code, reason = "tasks write disjoint parts of one buffer")]
                // SAFETY: these columns belong to this task.
                let row = unsafe { shared.part(*id as usize * columns + start, len) };
                row.iter_mut().zip(&dy[t * columns + start..]).for_each(|(sum, value)| *sum += value);
            }
        });
        matrix(out, rows, columns)
    }
}

impl<B: EmbeddingOps, C: CheckpointStrategy> EmbeddingOps for Autodiff<B, C> {
    fn frozen_rows(table: IntTensor<Self>, layout: MatrixLayout, ids: Arc<[u32]>, dtype: DType) -> FloatTensor<Self> {
        constant::<B, C>(B::frozen_rows(table, layout, ids, dtype))
    }

    fn rows(table: FloatTensor<Self>, ids: Arc<[u32]>, dtype: DType) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step;
        impl<B: EmbeddingOps> Backward<B, 1> for Step {
            type State = (Arc<[u32]>, usize);
            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let (ids, rows) = ops.state;
                unary::<B, _>(ops.parents, ops.node, grads, |dy| B::rows_backward(dy, ids, rows));
            }
        }
        use burn::backend::TensorMetadata;
        let (table, node) = table.into_parts();
        let rows = table.shape()[0];
        let y = B::rows(table, ids.clone(), dtype);
        match Step.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((ids, rows), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn rows_backward(dy: FloatTensor<Self>, ids: Arc<[u32]>, rows: usize) -> FloatTensor<Self> {
        constant::<B, C>(B::rows_backward(dy.into_primitive(), ids, rows))
    }
}

/// Rows `ids` of a frozen table `[vocab, hidden]`, as `[T, hidden]`. `dtype` is the type in which later operations compute:
/// f32 on the CPU.
///
/// # Panics
/// When an id is beyond the table.
#[must_use]
pub fn embedding(ids: &[u32], table: &FrozenMatrix, dtype: DType) -> Tensor<2> {
    let data = table.data().clone().into_dispatch();
    Tensor::from_dispatch(<Dispatch as EmbeddingOps>::frozen_rows(data, table.layout(), ids.into(), dtype))
}

/// Rows `ids` of `table[vocab, hidden]`, as `[T, hidden]` in `dtype`. The gradient of a row is the sum over its occurrences.
///
/// # Panics
/// When an id is beyond the table.
#[must_use]
pub fn trainable_embedding(ids: &[u32], table: Tensor<2>, dtype: DType) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as EmbeddingOps>::rows(table.into_dispatch(), ids.into(), dtype))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{SHAPES, random, stored, values};
    use tonfall_blocks::Format;

    #[test]
    fn rows_of_every_format_equal_the_dense_rows() {
        for format in Format::ALL {
            let lengths = [0, 1, 2, 3, 4, 5, 17, 40, 65, 300];
            for (len, cols) in lengths.into_iter().flat_map(|len| [256, 512].map(|cols| (len, cols))) {
                let ids: Vec<u32> = (0..len).map(|i| i * i * 7 % 20).collect();
                let (table, dense) = stored(format, 20, cols, 1);
                let dense = values(&dense);
                let want: Vec<f32> =
                    ids.iter().flat_map(|id: &u32| &dense[*id as usize * cols..][..cols]).copied().collect();
                assert_eq!(values(&embedding(&ids, &table, DType::F32)), want, "{format}");
            }
        }
    }

    #[test]
    fn the_gradient_of_a_row_is_the_sum_over_its_occurrences() {
        for (n, cols) in SHAPES {
            let ids: Vec<u32> = (0..n as u32).map(|i| i * i % 11).collect();
            let table = random::<2>([12, cols], 1).require_grad();
            let dy = random::<2>([n, cols], 2);
            let got = (trainable_embedding(&ids, table.clone(), DType::F32) * dy.clone()).sum().backward();
            let dy = values(&dy);
            let mut want = vec![0.0; 12 * cols];
            for (t, id) in ids.iter().enumerate() {
                for c in 0..cols {
                    want[*id as usize * cols + c] += dy[t * cols + c];
                }
            }
            assert_eq!(values(&table.grad(&got).expect("table")), want);
        }
    }

    #[test]
    #[should_panic(expected = "id 20 in a table of 20 rows")]
    fn an_unknown_id_is_refused() {
        let (table, _) = stored(Format::F32, 20, 4, 1);
        let _ = embedding(&[20], &table, DType::F32);
    }
}
