//! Adds a bias to the rows of a matrix; its gradient is the sum of the rows.

use burn::backend::tensor::FloatTensor;
use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::launch::{UNITS, units};
use super::tensors::{argument, contiguous, dims, empty, float, len};
use crate::bias::BiasOps;
use crate::index32::index;

#[cube(launch)]
fn add<F: Float, G: Float>(
    x: &[F],
    bias: &[G],
    y: &mut [F],
    len: u32,
    columns: u32,
    #[define(F, G)] _types: [ElemType; 2],
) {
    let i = ABSOLUTE_POS;
    if (i as u32) < len {
        let column = i as u32 % columns;
        y[i] = F::cast_from(f32::cast_from(x[i]) + f32::cast_from(bias[column as usize]));
    }
}

#[cube(launch)]
fn column_sums<F: Float>(x: &[F], sums: &mut [f32], rows: u32, columns: u32, #[define(F)] _type: ElemType) {
    let column = ABSOLUTE_POS as u32;
    if column < columns {
        let mut sum = 0.0f32;
        let mut row = 0u32;
        while row < rows {
            sum += f32::cast_from(x[(row * columns + column) as usize]);
            row += 1;
        }
        sums[column as usize] = sum;
    }
}

impl BiasOps for CubeBackend {
    fn row_bias(x: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self> {
        let (x, bias) = (contiguous(x), contiguous(bias));
        let (rows, columns) = dims(&x);
        assert_eq!(columns, len(&bias), "elements of the bias");
        let y = empty(&x, [rows, columns], x.dtype);
        let types = [float(&x), float(&bias)];
        add::launch(
            &y.client.clone(),
            units(rows * columns),
            CubeDim::new_1d(UNITS),
            argument(x),
            argument(bias),
            argument(y.clone()),
            index(rows * columns),
            index(columns),
            types,
        );
        y
    }

    fn row_bias_backward(dy: FloatTensor<Self>) -> FloatTensor<Self> {
        let dy = contiguous(dy);
        let ((rows, columns), kind) = (dims(&dy), float(&dy));
        let sums = empty(&dy, [columns], DType::F32);
        column_sums::launch(
            &sums.client.clone(),
            units(columns),
            CubeDim::new_1d(UNITS),
            argument(dy),
            argument(sums.clone()),
            index(rows),
            index(columns),
            kind,
        );
        sums
    }
}
