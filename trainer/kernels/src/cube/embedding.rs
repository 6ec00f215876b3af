//! Embeddings: rows of a matrix by index. Gradients are summed per row in a fixed order.

use std::sync::Arc;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::dequantize::selected_rows;
use super::launch::{UNITS, units};
use super::tensors::{argument, contiguous, dims, empty, float, upload};
use crate::embedding::EmbeddingOps;
use crate::frozen::MatrixLayout;
use crate::index32::index;

#[cube(launch)]
fn gather<F: Float, G: Float>(
    table: &[F],
    ids: &[u32],
    y: &mut [G],
    len: u32,
    columns: u32,
    #[define(F, G)] _types: [ElemType; 2],
) {
    let i = ABSOLUTE_POS as u32;
    if i < len {
        let at = ids[(i / columns) as usize] * columns + i % columns;
        y[i as usize] = G::cast_from(table[at as usize]);
    }
}

/// Sums the rows of `dy` that belong to each row of the table. Those of `row` are `uses[starts[row] .. starts[row + 1]]`, in
/// ascending order.
#[cube(launch)]
fn sum_uses<F: Float>(
    dy: &[F],
    starts: &[u32],
    uses: &[u32],
    out: &mut [f32],
    len: u32,
    columns: u32,
    #[define(F)] _type: ElemType,
) {
    let i = ABSOLUTE_POS as u32;
    if i < len {
        let (row, column) = (i / columns, i % columns);
        let mut sum = 0.0f32;
        let mut at = starts[row as usize];
        let end = starts[(row + 1) as usize];
        while at < end {
            sum += f32::cast_from(dy[(uses[at as usize] * columns + column) as usize]);
            at += 1;
        }
        out[i as usize] = sum;
    }
}

fn check(ids: &[u32], rows: usize) {
    for id in ids {
        assert!((*id as usize) < rows, "id {id} in a table of {rows} rows");
    }
}

impl EmbeddingOps for CubeBackend {
    fn frozen_rows(table: IntTensor<Self>, layout: MatrixLayout, ids: Arc<[u32]>, dtype: DType) -> FloatTensor<Self> {
        check(&ids, layout.rows);
        let on_device = upload(&table, &ids);
        selected_rows(table, layout, on_device, ids.len(), dtype)
    }

    fn rows(table: FloatTensor<Self>, ids: Arc<[u32]>, dtype: DType) -> FloatTensor<Self> {
        let table = contiguous(table);
        let (rows, columns) = dims(&table);
        check(&ids, rows);
        let y = empty(&table, [ids.len(), columns], dtype);
        let (count, types, on_device) = (ids.len() * columns, [float(&table), float(&y)], upload(&table, &ids));
        gather::launch(
            &y.client.clone(),
            units(count),
            CubeDim::new_1d(UNITS),
            argument(table),
            argument(on_device),
            argument(y.clone()),
            index(count),
            index(columns),
            types,
        );
        y
    }

    fn rows_backward(dy: FloatTensor<Self>, ids: Arc<[u32]>, rows: usize) -> FloatTensor<Self> {
        let dy = contiguous(dy);
        let ((_, columns), kind) = (dims(&dy), float(&dy));
        let mut uses: Vec<u32> = (0..index(ids.len())).collect();
        uses.sort_by_key(|token| ids[*token as usize]);
        let starts: Vec<u32> = (0..=rows)
            .map(|row| uses.partition_point(|token| (ids[*token as usize] as usize) < row))
            .map(index)
            .collect();
        let out = empty(&dy, [rows, columns], DType::F32);
        let (starts, uses) = (upload(&dy, &starts), upload(&dy, &uses));
        sum_uses::launch(
            &out.client.clone(),
            units(rows * columns),
            CubeDim::new_1d(UNITS),
            argument(dy),
            argument(starts),
            argument(uses),
            argument(out.clone()),
            index(rows * columns),
            index(columns),
            kind,
        );
        out
    }
}
