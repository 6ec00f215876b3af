//! The head and the cross-entropy of its logits, a chunk of tokens at a time: at most [`HELD_LOGITS`] logits exist.

use std::sync::Arc;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::cast;
use burn_cubecl::ops::numeric;
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::adamw::summed;
use super::dequantize::dense;
use super::launch::{Planes, UNITS, plane_row, planes, units};
use super::product::{Factor, product, product_into};
use super::tensors::{contiguous, dims, empty, float, nothing, rows, upload, zeros};
use crate::cross_entropy::{CrossEntropyOps, IGNORED};
use crate::frozen::MatrixLayout;

/// Most logits held at once: 512 MiB of f32.
const HELD_LOGITS: usize = 128 << 20;

/// Rows `ids` of `x`.
#[cube(launch)]
fn gather<F: Float>(x: &[F], ids: &[u32], y: &mut [F], len: u32, columns: u32, #[define(F)] _type: ElemType) {
    let i = ABSOLUTE_POS as u32;
    if i < len {
        y[i as usize] = x[(ids[(i / columns) as usize] * columns + i % columns) as usize];
    }
}

/// Row `t` of `y` is row `place[t] - 1` of `x`, or zeros where `place[t]` is 0.
#[cube(launch)]
fn spread<F: Float, G: Float>(
    x: &[F],
    places: &[u32],
    y: &mut [G],
    len: u32,
    columns: u32,
    #[define(F, G)] _types: [ElemType; 2],
) {
    let i = ABSOLUTE_POS as u32;
    if i < len {
        let place = places[(i / columns) as usize];
        let mut value = 0.0f32;
        if place > 0 {
            value = f32::cast_from(x[((place - 1) * columns + i % columns) as usize]);
        }
        y[i as usize] = G::cast_from(value);
    }
}

/// The loss of a row of logits a plane; the row's gradient goes to `gradient`, `softmax - one hot`.
#[cube(launch)]
fn row_losses<G: Float>(
    logits: &[f32],
    targets: &[u32],
    losses: &mut [f32],
    gradient: &mut [G],
    count: u32,
    vocab: u32,
    #[comptime] with_gradient: bool,
    #[comptime] lanes: u32,
    #[define(G)] _type: ElemType,
) {
    let row = plane_row();
    if row < count {
        let start = row as usize * vocab as usize;
        let mut largest = f32::new(-3.0e38);
        let mut i = UNIT_POS_X;
        while i < vocab {
            largest = max(largest, logits[start + i as usize]);
            i += lanes;
        }
        let largest = plane_max(largest);
        let mut sum = 0.0f32;
        let mut i = UNIT_POS_X;
        while i < vocab {
            sum += f32::exp(logits[start + i as usize] - largest);
            i += lanes;
        }
        let sum = plane_sum(sum);
        let target = targets[row as usize];
        if UNIT_POS_X == 0 {
            losses[row as usize] = largest + f32::ln(sum) - logits[start + target as usize];
        }
        if with_gradient {
            let mut i = UNIT_POS_X;
            while i < vocab {
                let mut value = f32::exp(logits[start + i as usize] - largest) / sum;
                if i == target {
                    value -= 1.0f32;
                }
                gradient[start + i as usize] = G::cast_from(value);
                i += lanes;
            }
        }
    }
}

/// `spread` as a whole matrix or vector.
fn spread_rows(x: CubeTensor, places: &CubeTensor, tokens: usize, columns: usize, dtype: DType) -> CubeTensor {
    let y = empty(&x, [tokens, columns], dtype);
    let types = [float(&x), float(&y)];
    spread::launch(
        &y.client.clone(),
        units(tokens * columns),
        CubeDim::new_1d(UNITS),
        x.into_buffer_arg(),
        places.clone().into_buffer_arg(),
        y.clone().into_buffer_arg(),
        (tokens * columns) as u32,
        columns as u32,
        types,
    );
    y
}

/// What a pass over the chunks gave.
struct Passed {
    sum: CubeTensor,
    losses: CubeTensor,
    dx: Option<CubeTensor>,
    dw: Option<CubeTensor>,
}

/// `head` is dense, of the type of `x`.
fn pass(x: CubeTensor, head: CubeTensor, targets: &[i32], with_dx: bool, with_dw: bool) -> Passed {
    let x = contiguous(x);
    let ((tokens, hidden), (vocab, columns), kind) = (dims(&x), dims(&head), float(&x));
    assert_eq!(hidden, columns, "input features of the head");
    assert_eq!(tokens, targets.len(), "one target a row");
    let kept: Vec<u32> = (0..tokens as u32).filter(|row| targets[*row as usize] != IGNORED).collect();
    let (client, dtype, wanted_rows) = (x.client.clone(), x.dtype, kept.len());
    let checked = |row: &u32| {
        let target = targets[*row as usize];
        let known = u32::try_from(target).ok().filter(|target| (*target as usize) < vocab);
        known.unwrap_or_else(|| panic!("target {target} of a vocabulary of {vocab}"))
    };
    let wanted: Vec<u32> = kept.iter().map(checked).collect();
    let mut places = vec![0; tokens];
    kept.iter().zip(1..).for_each(|(row, place)| places[*row as usize] = place);
    let places = upload(&x, &places);

    // One row more than needed, so that no buffer is empty.
    let losses = empty(&x, [wanted_rows + 1, 1], DType::F32);
    let gradients = with_dx.then(|| empty(&x, [wanted_rows + 1, hidden], dtype));
    let mut dw = with_dw.then(|| zeros(&x, vocab, hidden));
    let held = (HELD_LOGITS / vocab.max(1)).max(1);
    for start in (0..wanted_rows).step_by(held) {
        let chunk = held.min(wanted_rows - start);
        let ids = upload(&x, &kept[start..start + chunk]);
        let wanted = upload(&x, &wanted[start..start + chunk]);
        let inputs = empty(&x, [chunk, hidden], dtype);
        gather::launch(
            &client,
            units(chunk * hidden),
            CubeDim::new_1d(UNITS),
            x.clone().into_buffer_arg(),
            ids.into_buffer_arg(),
            inputs.clone().into_buffer_arg(),
            (chunk * hidden) as u32,
            hidden as u32,
            kind,
        );
        let logits = product(Factor::plain(inputs.clone()), Factor::transposed(head.clone()), DType::F32);
        let with_gradient = with_dx || with_dw;
        let dlogits = match with_gradient {
            true => empty(&x, [chunk, vocab], dtype),
            false => empty(&x, [1, 1], dtype),
        };
        let Planes { count, dim, lanes } = planes(&client, chunk);
        row_losses::launch(
            &client,
            count,
            dim,
            contiguous(logits).into_buffer_arg(),
            wanted.into_buffer_arg(),
            rows(&losses, start, chunk).into_buffer_arg(),
            dlogits.clone().into_buffer_arg(),
            chunk as u32,
            vocab as u32,
            with_gradient,
            lanes,
            kind,
        );
        if let Some(gradients) = &gradients {
            product_into(Factor::plain(dlogits.clone()), Factor::plain(head.clone()), rows(gradients, start, chunk));
        }
        dw = dw.map(|sum| numeric::add(sum, product(Factor::transposed(dlogits), Factor::plain(inputs), DType::F32)));
    }
    let losses = spread_rows(losses, &places, tokens, 1, DType::F32);
    let losses = super::tensors::reshaped(losses, [tokens]);
    let sum = summed(losses.clone());
    let dx = gradients.map(|gradients| spread_rows(gradients, &places, tokens, hidden, dtype));
    Passed { sum, losses, dx, dw }
}

impl CrossEntropyOps for CubeBackend {
    fn frozen_cross_entropy(
        x: FloatTensor<Self>,
        head: IntTensor<Self>,
        layout: MatrixLayout,
        targets: Arc<[i32]>,
        gradient: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let head = dense(head, layout, x.dtype);
        let none = nothing(&x);
        let Passed { sum, losses, dx, .. } = pass(x, head, &targets, gradient, false);
        (sum, losses, dx.unwrap_or(none))
    }

    fn dense_cross_entropy(
        x: FloatTensor<Self>,
        head: FloatTensor<Self>,
        targets: Arc<[i32]>,
        gradient: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let head = contiguous(cast(head, x.dtype));
        let none = nothing(&x);
        let Passed { sum, losses, dx, dw } = pass(x, head, &targets, gradient, gradient);
        (sum, losses, dx.unwrap_or_else(|| none.clone()), dw.unwrap_or(none))
    }
}
