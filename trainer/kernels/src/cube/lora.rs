//! A frozen linear layer with its adapter. `A` and `B` are f32 and multiplied in the type of the activations; their
//! gradients are accumulated and given as f32.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::cast;
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::dequantize::dense;
use super::dropout::dropped;
use super::launch::{UNITS, units};
use super::product::{Factor, product};
use super::tensors::{contiguous, dims, empty, float, len, nothing};
use crate::lora::{LoraBackward, LoraOps, LoraSettings};

#[cube(launch)]
fn add_scaled<F: Float, G: Float>(
    base: &[F],
    addend: &[G],
    y: &mut [F],
    len: u32,
    scale: f32,
    #[define(F, G)] _types: [ElemType; 2],
) {
    let i = ABSOLUTE_POS;
    if (i as u32) < len {
        y[i] = F::cast_from(f32::cast_from(base[i]) + scale * f32::cast_from(addend[i]));
    }
}

/// `base + scale · addend`, of the type of `base`.
fn plus(base: CubeTensor, addend: CubeTensor, scale: f32) -> CubeTensor {
    let (base, addend) = (contiguous(base), contiguous(addend));
    let ((rows, columns), count, types) = (dims(&base), len(&base), [float(&base), float(&addend)]);
    let y = empty(&base, [rows, columns], base.dtype);
    add_scaled::launch(
        &y.client.clone(),
        units(count),
        CubeDim::new_1d(UNITS),
        base.into_buffer_arg(),
        addend.into_buffer_arg(),
        y.clone().into_buffer_arg(),
        count as u32,
        scale,
        types,
    );
    y
}

#[cube(launch)]
fn multiply<F: Float>(x: &[F], y: &mut [F], len: u32, factor: f32, #[define(F)] _type: ElemType) {
    let i = ABSOLUTE_POS;
    if (i as u32) < len {
        y[i] = F::cast_from(f32::cast_from(x[i]) * factor);
    }
}

fn scaled(x: CubeTensor, factor: f32) -> CubeTensor {
    let x = contiguous(x);
    let ((rows, columns), count, kind) = (dims(&x), len(&x), float(&x));
    let y = empty(&x, [rows, columns], x.dtype);
    let (client, dim) = (y.client.clone(), CubeDim::new_1d(UNITS));
    multiply::launch(
        &client,
        units(count),
        dim,
        x.into_buffer_arg(),
        y.clone().into_buffer_arg(),
        count as u32,
        factor,
        kind,
    );
    y
}

impl LoraOps for CubeBackend {
    fn lora(
        x: FloatTensor<Self>,
        weight: IntTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        settings: LoraSettings,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let LoraSettings { layout, scale, dropout } = settings;
        let dtype = x.dtype;
        let input = match &dropout {
            None => x.clone(),
            Some(dropout) => dropped(x.clone(), dropout),
        };
        let u = product(Factor::plain(input), Factor::transposed(cast(a, dtype)), dtype);
        let base = product(Factor::plain(x), Factor::transposed(dense(weight, layout, dtype)), dtype);
        let adapter = product(Factor::plain(u.clone()), Factor::transposed(cast(b, dtype)), dtype);
        (plus(base, adapter, scale), u)
    }

    fn lora_backward(
        dy: FloatTensor<Self>,
        x: FloatTensor<Self>,
        u: FloatTensor<Self>,
        weight: IntTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        how: LoraBackward,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let LoraBackward { settings: LoraSettings { layout, scale, dropout }, input_gradient } = how;
        let dtype = x.dtype;
        // du = s · dy·B
        let du = scaled(product(Factor::plain(dy.clone()), Factor::plain(cast(b, dtype)), dtype), scale);
        // dB = s · dyᵀ·u
        let db = scaled(product(Factor::transposed(dy.clone()), Factor::plain(u), DType::F32), scale);
        // dA = duᵀ·drop(x)
        let input = match &dropout {
            None => x.clone(),
            Some(dropout) => dropped(x.clone(), dropout),
        };
        let da = product(Factor::transposed(du.clone()), Factor::plain(input), DType::F32);
        if !input_gradient {
            return (nothing(&x), da, db);
        }
        // dx = dy·W + drop(du·A)
        let adapter = product(Factor::plain(du), Factor::plain(cast(a, dtype)), dtype);
        let adapter = match &dropout {
            None => adapter,
            Some(dropout) => dropped(adapter, dropout),
        };
        let base = product(Factor::plain(dy), Factor::plain(dense(weight, layout, dtype)), dtype);
        (plus(base, adapter, 1.0), da, db)
    }
}
