//! Output head and cross-entropy, in chunks of [`held_tokens`] tokens.
#![expect(clippy::manual_div_ceil, clippy::manual_is_multiple_of, reason = "kernels have no such methods")]

use std::sync::Arc;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::cast;
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::dequantize::dense;
use super::gemm::{Factor, add_product, product, product_into};
use super::launch::{Planes, UNITS, plane_row, planes, units, vector_size, vector_sum};
use super::soft_cap::{cap_arguments, slope, soft_capped};
use super::square_sums::summed;
use super::tensors::{argument, contiguous, dims, empty, float, nothing, rows, upload, vector_argument, zeros};
use crate::cross_entropy::{CrossEntropyOps, IGNORED, held_tokens};
use crate::frozen::MatrixLayout;
use crate::index32::index;

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

/// Planes per row of logits.
const PARTS: u32 = 8;

/// The range of vectors of a row that plane `part` processes: first, and one past the last.
#[cube]
fn part_of(vectors: u32, part: u32) -> (u32, u32) {
    let each = (vectors + PARTS - 1) / PARTS;
    (min(part * each, vectors), min((part + 1) * each, vectors))
}

/// Logits after the cap.
#[cube]
fn all_capped<N: Size>(logits: Vector<f32, N>, inverse_cap: f32, #[comptime] capped: bool) -> Vector<f32, N> {
    let mut values = logits;
    if comptime!(capped) {
        #[unroll]
        for j in 0..N::value() {
            values.insert(j, soft_capped(logits.extract(j), inverse_cap, capped));
        }
    }
    values
}

/// Per part of a row of logits: the largest logit, the sum of exponentials relative to it, and the target's logit if it is in
/// this part. Units use online softmax (Milakov & Gimelshein 2018), so logits are read once here and once for the gradient.
#[cube(launch)]
fn row_parts<N: Size>(
    logits: &[Vector<f32, N>],
    targets: &[u32],
    largest_logits: &mut [f32],
    sums: &mut [f32],
    wanted_logits: &mut [f32],
    count: u32,
    vectors: u32,
    inverse_cap: f32,
    #[comptime] capped: bool,
    #[comptime] lanes: u32,
) {
    let plane = plane_row();
    if plane < count * PARTS {
        let row = plane / PARTS;
        let start = row as usize * vectors as usize;
        let target = targets[row as usize];
        let (first, end) = part_of(vectors, plane % PARTS);
        let mut largest = f32::new(-3.0e38);
        let mut sum = 0.0f32;
        let mut wanted = 0.0f32;
        let mut i = first + UNIT_POS_X;
        while i < end {
            let values = all_capped::<N>(logits[start + i as usize], inverse_cap, capped);
            let before = largest;
            #[unroll]
            for j in 0..N::value() {
                let value = values.extract(j);
                largest = max(largest, value);
                wanted += select(i * N::value() as u32 + j as u32 == target, value, 0.0f32);
            }
            sum *= f32::exp(before - largest);
            sum += vector_sum::<N>(Vector::exp(values - Vector::<f32, N>::new(largest)));
            i += lanes;
        }
        let most = plane_max(largest);
        let sum = plane_sum(sum * f32::exp(largest - most));
        let wanted = plane_sum(wanted);
        if UNIT_POS_X == 0 {
            largest_logits[plane as usize] = most;
            sums[plane as usize] = sum;
            wanted_logits[plane as usize] = wanted;
        }
    }
}

/// Combines the parts of a row to its loss. Writes the row's gradient, `softmax - one_hot`, to `gradient`.
#[cube(launch)]
fn row_losses<G: Float, N: Size>(
    logits: &[Vector<f32, N>],
    targets: &[u32],
    largest_logits: &[f32],
    sums: &[f32],
    wanted_logits: &[f32],
    losses: &mut [f32],
    gradient: &mut [Vector<G, N>],
    count: u32,
    vectors: u32,
    inverse_cap: f32,
    #[comptime] capped: bool,
    #[comptime] with_gradient: bool,
    #[comptime] lanes: u32,
    #[define(G)] _type: ElemType,
) {
    let plane = plane_row();
    if plane < count * PARTS {
        let row = plane / PARTS;
        let start = row as usize * vectors as usize;
        let target = targets[row as usize];
        let mut most = f32::new(-3.0e38);
        let mut part = 0u32;
        while part < PARTS {
            most = max(most, largest_logits[(row * PARTS + part) as usize]);
            part += 1;
        }
        let mut sum = 0.0f32;
        let mut wanted = 0.0f32;
        let mut part = 0u32;
        while part < PARTS {
            let at = (row * PARTS + part) as usize;
            sum += sums[at] * f32::exp(largest_logits[at] - most);
            wanted += wanted_logits[at];
            part += 1;
        }
        if plane % PARTS == 0 && UNIT_POS_X == 0 {
            losses[row as usize] = most + f32::ln(sum) - wanted;
        }
        if with_gradient {
            let (first, end) = part_of(vectors, plane % PARTS);
            let mut i = first + UNIT_POS_X;
            while i < end {
                let at = start + i as usize;
                let logits = all_capped::<N>(logits[at], inverse_cap, capped);
                let mut values = Vector::exp(logits - Vector::<f32, N>::new(most)) / Vector::<f32, N>::new(sum);
                #[unroll]
                for j in 0..N::value() {
                    let one = select(i * N::value() as u32 + j as u32 == target, 1.0f32, 0.0f32);
                    values.insert(j, (values.extract(j) - one) * slope(logits.extract(j), inverse_cap, capped));
                }
                gradient[at] = Vector::cast_from(values);
                i += lanes;
            }
        }
    }
}

/// [`spread`] to a new matrix `[tokens, columns]`.
fn spread_rows(x: CubeTensor, places: &CubeTensor, tokens: usize, columns: usize, dtype: DType) -> CubeTensor {
    let y = empty(&x, [tokens, columns], dtype);
    let types = [float(&x), float(&y)];
    spread::launch(
        &y.client.clone(),
        units(tokens * columns),
        CubeDim::new_1d(UNITS),
        argument(x),
        argument(places.clone()),
        argument(y.clone()),
        index(tokens * columns),
        index(columns),
        types,
    );
    y
}

/// Outputs of a pass over all chunks.
struct Outputs {
    sum: CubeTensor,
    losses: CubeTensor,
    dx: Option<CubeTensor>,
    dw: Option<CubeTensor>,
}

/// Runs all chunks. `head` is dense, in the dtype of `x`. The flags select the gradients of `x` and of the head.
fn pass(
    x: CubeTensor,
    head: CubeTensor,
    soft_cap: Option<f32>,
    targets: &[i32],
    [with_dx, with_dw]: [bool; 2],
) -> Outputs {
    let (inverse_cap, capped) = cap_arguments(soft_cap, 1.0);
    let x = contiguous(x);
    let ((tokens, hidden), (vocab, columns), kind) = (dims(&x), dims(&head), float(&x));
    assert_eq!(hidden, columns, "input features of the head");
    assert_eq!(tokens, targets.len(), "one target per token");
    let kept: Vec<u32> = (0..index(tokens)).filter(|row| targets[*row as usize] != IGNORED).collect();
    let (client, dtype, wanted_rows) = (x.client.clone(), x.dtype, kept.len());
    let checked = |row: &u32| {
        let target = targets[*row as usize];
        let known = u32::try_from(target).ok().filter(|target| (*target as usize) < vocab);
        known.unwrap_or_else(|| panic!("target {target} in a vocabulary of {vocab}"))
    };
    let wanted: Vec<u32> = kept.iter().map(checked).collect();
    let mut places = vec![0; tokens];
    kept.iter().zip(1..).for_each(|(row, place)| places[*row as usize] = place);
    let places = upload(&x, &places);

    // One row more than needed, so that no buffer is empty.
    let losses = empty(&x, [wanted_rows + 1, 1], DType::F32);
    let gradients = with_dx.then(|| empty(&x, [wanted_rows + 1, hidden], dtype));
    let dw = with_dw.then(|| zeros(&x, vocab, hidden));
    let held = held_tokens(wanted_rows, vocab, true).max(1);
    for start in (0..wanted_rows).step_by(held) {
        let chunk = held.min(wanted_rows - start);
        let ids = upload(&x, &kept[start..start + chunk]);
        let wanted = upload(&x, &wanted[start..start + chunk]);
        let inputs = empty(&x, [chunk, hidden], dtype);
        gather::launch(
            &client,
            units(chunk * hidden),
            CubeDim::new_1d(UNITS),
            argument(x.clone()),
            argument(ids),
            argument(inputs.clone()),
            index(chunk * hidden),
            index(hidden),
            kind,
        );
        let logits = product(Factor::plain(inputs.clone()), Factor::transposed(head.clone()), DType::F32);
        let with_gradient = with_dx || with_dw;
        let dlogits = match with_gradient {
            true => empty(&x, [chunk, vocab], dtype),
            false => empty(&x, [1, 1], dtype),
        };
        let Planes { count, dim, lanes } = planes(&client, chunk * PARTS as usize);
        let (size, logits) = (vector_size(DType::F32, vocab), contiguous(logits));
        let [largest, sums, targets_logits] = [(); 3].map(|()| empty(&x, [chunk * PARTS as usize], DType::F32));
        row_parts::launch(
            &client,
            count.clone(),
            dim,
            size,
            vector_argument(logits.clone(), size),
            argument(wanted.clone()),
            argument(largest.clone()),
            argument(sums.clone()),
            argument(targets_logits.clone()),
            index(chunk),
            index(vocab / size),
            inverse_cap,
            capped,
            lanes,
        );
        row_losses::launch(
            &client,
            count,
            dim,
            size,
            vector_argument(logits, size),
            argument(wanted),
            argument(largest),
            argument(sums),
            argument(targets_logits),
            argument(rows(&losses, start, chunk)),
            vector_argument(dlogits.clone(), size),
            index(chunk),
            index(vocab / size),
            inverse_cap,
            capped,
            with_gradient,
            lanes,
            kind,
        );
        if let Some(gradients) = &gradients {
            product_into(Factor::plain(dlogits.clone()), Factor::plain(head.clone()), &rows(gradients, start, chunk));
        }
        if let Some(dw) = &dw {
            add_product(Factor::transposed(dlogits), Factor::plain(inputs), 1.0, dw);
        }
    }
    let losses = spread_rows(losses, &places, tokens, 1, DType::F32);
    let losses = super::tensors::reshaped(losses, [tokens]);
    let sum = summed(losses.clone());
    let dx = gradients.map(|gradients| spread_rows(gradients, &places, tokens, hidden, dtype));
    Outputs { sum, losses, dx, dw }
}

impl CrossEntropyOps for CubeBackend {
    fn frozen_cross_entropy(
        x: FloatTensor<Self>,
        head: IntTensor<Self>,
        layout: MatrixLayout,
        soft_cap: Option<f32>,
        targets: Arc<[i32]>,
        gradient: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let head = dense(head, layout, x.dtype);
        let none = nothing(&x);
        let Outputs { sum, losses, dx, .. } = pass(x, head, soft_cap, &targets, [gradient, false]);
        (sum, losses, dx.unwrap_or(none))
    }

    fn dense_cross_entropy(
        x: FloatTensor<Self>,
        head: FloatTensor<Self>,
        soft_cap: Option<f32>,
        targets: Arc<[i32]>,
        gradient: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let head = contiguous(cast(head, x.dtype));
        let none = nothing(&x);
        let Outputs { sum, losses, dx, dw } = pass(x, head, soft_cap, &targets, [gradient; 2]);
        (sum, losses, dx.unwrap_or_else(|| none.clone()), dw.unwrap_or(none))
    }
}
