//! Attention in blocks of queries: two matrix products and a softmax per block. Scores exist for one block at a time.
//!
//! Responsible for: the same attention as on the CPU. Each query has a range of visible keys. A block of queries is multiplied
//! by the keys from the first to the last that any of its queries attends to, so short sequences share a block. The query
//! heads that share a key head are rows of one matrix, so the keys are not copied for grouped-query attention.

use std::sync::Arc;

use burn::backend::tensor::FloatTensor;
use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::cast;
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

#[cfg(feature = "cuda")]
use super::cuda;
use super::gemm::{Factor, product};
use super::launch::{Planes, UNITS, plane_row, planes, units, vector_size, vector_sum};
use super::soft_cap::{cap_arguments, slope, soft_capped};
use super::tensors::{argument, contiguous, dims, empty, float, upload_shared, vector_argument, zeros};
use crate::attention::{AttentionLayout, AttentionOps};
use crate::index32::index;

/// Most queries per block.
const QUERIES: usize = 512;
/// Most scores per block: 128 MiB of f32.
const SCORES: usize = 32 << 20;
/// Blocks of keys begin at a multiple of this, and end at one unless there are too few keys. Tensor cores need aligned sizes.
const ALIGNED: usize = 64;

/// `out[g, h · rows + i, d] = x[first + i, (g · group + h) · head_dim + d]`, one unit per vector. Lengths are in vectors.
#[cube(launch)]
fn pack<F: Float, N: Size>(
    x: &[Vector<F, N>],
    out: &mut [Vector<F, N>],
    len: u32,
    first: u32,
    rows: u32,
    heads: u32,
    head_dim: u32,
    #[define(F)] _type: ElemType,
) {
    let at = ABSOLUTE_POS as u32;
    if at < len {
        let d = at % head_dim;
        let i = at / head_dim % rows;
        let head = at / head_dim / rows;
        out[at as usize] = x[((first + i) * heads * head_dim + head * head_dim + d) as usize];
    }
}

/// The inverse of [`pack`]: writes or adds to rows `first ..` of `out`.
#[cube(launch)]
fn unpack<F: Float, N: Size>(
    packed: &[Vector<F, N>],
    out: &mut [Vector<F, N>],
    len: u32,
    first: u32,
    rows: u32,
    heads: u32,
    head_dim: u32,
    #[comptime] add: bool,
    #[define(F)] _type: ElemType,
) {
    let at = ABSOLUTE_POS as u32;
    if at < len {
        let d = at % head_dim;
        let i = at / head_dim % rows;
        let head = at / head_dim / rows;
        let to = ((first + i) * heads * head_dim + head * head_dim + d) as usize;
        let mut value = packed[at as usize];
        if add {
            value += out[to];
        }
        out[to] = value;
    }
}

/// Rows `head · queries + i` of scores to probabilities and log-sum-exp, one plane per row.
#[cube(launch)]
fn softmax<F: Float>(
    scores: &[f32],
    starts: &[u32],
    ends: &[u32],
    probabilities: &mut [F],
    lse: &mut [f32],
    rows: u32,
    first_query: u32,
    queries: u32,
    first_key: u32,
    keys: u32,
    heads: u32,
    scale: f32,
    inverse_cap: f32,
    #[comptime] capped: bool,
    #[comptime] lanes: u32,
    #[define(F)] _type: ElemType,
) {
    let row = plane_row();
    if row < rows {
        let (head, query) = (row / queries, first_query + row % queries);
        let (start, end) = (starts[query as usize], ends[query as usize]);
        let at = row as usize * keys as usize;
        let mut largest = f32::new(-3.0e38);
        let mut j = UNIT_POS_X;
        while j < keys {
            let key = first_key + j;
            if key >= start && key < end {
                largest = max(largest, soft_capped(scores[at + j as usize], inverse_cap, capped) * scale);
            }
            j += lanes;
        }
        let largest = plane_max(largest);
        let mut sum = 0.0f32;
        let mut j = UNIT_POS_X;
        while j < keys {
            let key = first_key + j;
            if key >= start && key < end {
                sum += f32::exp(soft_capped(scores[at + j as usize], inverse_cap, capped) * scale - largest);
            }
            j += lanes;
        }
        let sum = plane_sum(sum);
        let mut j = UNIT_POS_X;
        while j < keys {
            let key = first_key + j;
            let mut value = 0.0f32;
            if key >= start && key < end {
                value = f32::exp(soft_capped(scores[at + j as usize], inverse_cap, capped) * scale - largest) / sum;
            }
            probabilities[at + j as usize] = F::cast_from(value);
            j += lanes;
        }
        if UNIT_POS_X == 0 {
            let mut log_sum = 0.0f32;
            if end > start {
                log_sum = largest + f32::ln(sum);
            }
            lse[(query * heads + head) as usize] = log_sum;
        }
    }
}

/// `delta[t, h] = Σ_d gradient · output`, one unit per head of a token. `head_dim` is in vectors.
#[cube(launch)]
fn deltas<F: Float, N: Size>(
    gradient: &[Vector<F, N>],
    output: &[Vector<F, N>],
    delta: &mut [f32],
    len: u32,
    head_dim: u32,
    #[define(F)] _type: ElemType,
) {
    let head = ABSOLUTE_POS as u32;
    if head < len {
        let mut sums = Vector::<f32, N>::zeroed();
        let mut d = 0u32;
        while d < head_dim {
            let at = (head * head_dim + d) as usize;
            sums += Vector::<f32, N>::cast_from(gradient[at]) * Vector::<f32, N>::cast_from(output[at]);
            d += 1;
        }
        delta[head as usize] = vector_sum::<N>(sums);
    }
}

/// Recomputes probabilities from scores, and turns the gradient of the probabilities into that of the unscaled scores. One unit
/// per vector of keys; `vectors` is their number per row.
#[cube(launch)]
fn score_gradients<F: Float, N: Size>(
    scores: &[Vector<f32, N>],
    dprobabilities: &[Vector<f32, N>],
    starts: &[u32],
    ends: &[u32],
    lse: &[f32],
    delta: &[f32],
    probabilities: &mut [Vector<F, N>],
    dscores: &mut [Vector<F, N>],
    len: u32,
    first_query: u32,
    queries: u32,
    first_key: u32,
    vectors: u32,
    heads: u32,
    scale: f32,
    inverse_cap: f32,
    #[comptime] capped: bool,
    #[define(F)] _type: ElemType,
) {
    let at = ABSOLUTE_POS;
    if (at as u32) < len {
        let (row, key) = (at as u32 / vectors, first_key + at as u32 % vectors * N::value() as u32);
        let (head, query) = (row / queries, first_query + row % queries);
        let (start, end) = (starts[query as usize], ends[query as usize]);
        let (lse, delta) = (lse[(query * heads + head) as usize], delta[(query * heads + head) as usize]);
        let (scores, dprobabilities) = (scores[at], dprobabilities[at]);
        let mut kept = Vector::<F, N>::empty();
        let mut gradients = Vector::<F, N>::empty();
        #[unroll]
        for j in 0..N::value() {
            let mut p = 0.0f32;
            let key = key + j as u32;
            let score = soft_capped(scores.extract(j), inverse_cap, capped);
            if key >= start && key < end {
                p = f32::exp(score * scale - lse);
            }
            kept.insert(j, F::cast_from(p));
            let gradient = p * (dprobabilities.extract(j) - delta) * scale;
            gradients.insert(j, F::cast_from(gradient * slope(score, inverse_cap, capped)));
        }
        probabilities[at] = kept;
        dscores[at] = gradients;
    }
}

/// The range of visible keys of each query on the device, and the blocks.
struct Visible {
    starts: CubeTensor,
    ends: CubeTensor,
    blocks: Vec<Block>,
}

/// Consecutive queries, and the keys that any of them attends to.
struct Block {
    first_query: usize,
    queries: usize,
    first_key: usize,
    keys: usize,
}

impl Visible {
    fn new(q: &CubeTensor, queries: usize, keys: usize, layout: &AttentionLayout) -> Self {
        let mut ranges = vec![0..0; queries];
        for segment in &layout.segments {
            for i in 0..segment.q_len {
                let keys = layout.visible(segment, i);
                ranges[segment.q_start + i] = segment.k_start + keys.start..segment.k_start + keys.end;
            }
        }
        let mut blocks = Vec::new();
        let mut first = 0;
        while first < queries {
            let mut size = QUERIES.min(queries - first);
            let (start, end) = loop {
                let seen = ranges[first..first + size].iter().filter(|range| !range.is_empty());
                let start = seen.clone().map(|range| range.start).min().unwrap_or(0) / ALIGNED * ALIGNED;
                let end = seen.map(|range| range.end).max().unwrap_or(1).next_multiple_of(ALIGNED).min(keys);
                if size == 1 || layout.heads * size * (end - start) <= SCORES {
                    break (start, end);
                }
                size = size.div_ceil(2);
            };
            blocks.push(Block { first_query: first, queries: size, first_key: start, keys: end - start });
            first += size;
        }
        let upload_all = |bound: fn(&std::ops::Range<usize>) -> usize| {
            upload_shared(q, &ranges.iter().map(|range| index(bound(range))).collect::<Vec<_>>())
        };
        Self { starts: upload_all(|range| range.start), ends: upload_all(|range| range.end), blocks }
    }

    #[cfg(feature = "cuda")]
    fn inputs<'a>(
        &'a self,
        [q, k, v]: [&'a CubeTensor; 3],
        [queries, keys]: [usize; 2],
        layout: &'a AttentionLayout,
    ) -> cuda::attention::Inputs<'a> {
        cuda::attention::Inputs { q, k, v, starts: &self.starts, ends: &self.ends, queries, keys, layout }
    }
}

/// Rows `first .. first + rows` of `x[_, heads · head_dim]` as `[kv_heads, heads / kv_heads · rows, head_dim]`.
fn packed(x: &CubeTensor, first: usize, rows: usize, heads: usize, layout: &AttentionLayout) -> CubeTensor {
    let (group, head_dim) = (heads / layout.kv_heads, layout.head_dim);
    let out = empty(x, [layout.kv_heads, group * rows, head_dim], x.dtype);
    let size = vector_size(x.dtype, head_dim);
    let len = heads * rows * head_dim / size;
    pack::launch(
        &out.client.clone(),
        units(len),
        CubeDim::new_1d(UNITS),
        size,
        vector_argument(x.clone(), size),
        vector_argument(out.clone(), size),
        index(len),
        index(first),
        index(rows),
        index(heads),
        index(head_dim / size),
        float(x),
    );
    out
}

/// Writes a packed matrix of `heads` heads to rows `first ..` of `out`, or adds it to them.
fn unpacked(packed: CubeTensor, out: &CubeTensor, first: usize, rows: usize, heads: usize, add: bool) {
    let packed = contiguous(packed);
    let head_dim = dims(out).1 / heads;
    let size = vector_size(packed.dtype, head_dim);
    let (len, kind) = (heads * rows * head_dim / size, float(&packed));
    unpack::launch(
        &out.client,
        units(len),
        CubeDim::new_1d(UNITS),
        size,
        vector_argument(packed, size),
        vector_argument(out.clone(), size),
        index(len),
        index(first),
        index(rows),
        index(heads),
        index(head_dim / size),
        add,
        kind,
    );
}

impl AttentionOps for CubeBackend {
    fn segment_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        layout: Arc<AttentionLayout>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let [q, k, v] = [q, k, v].map(contiguous);
        let ((queries, columns), (keys, _), kind) = (dims(&q), dims(&k), float(&q));
        let client = q.client.clone();
        let output = empty(&q, [queries, columns], q.dtype);
        let lse = empty(&q, [queries, layout.heads], DType::F32);
        let visible = Visible::new(&q, queries, keys, &layout);
        #[cfg(feature = "cuda")]
        if cuda::attention::served(&q, &layout) {
            cuda::attention::forward(visible.inputs([&q, &k, &v], [queries, keys], &layout), &output, &lse);
            return (output, lse);
        }
        let (inverse_cap, capped) = cap_arguments(layout.soft_cap, layout.scale);
        for block in &visible.blocks {
            let q_block = packed(&q, block.first_query, block.queries, layout.heads, &layout);
            let k_block = packed(&k, block.first_key, block.keys, layout.kv_heads, &layout);
            let v_block = packed(&v, block.first_key, block.keys, layout.kv_heads, &layout);
            let scores = product(Factor::plain(q_block), Factor::transposed(k_block), DType::F32);
            let rows = layout.heads * block.queries;
            let shape = [layout.kv_heads, rows / layout.kv_heads, block.keys];
            let probabilities = empty(&q, shape, q.dtype);
            let Planes { count, dim, lanes } = planes(&client, rows);
            softmax::launch(
                &client,
                count,
                dim,
                argument(contiguous(scores)),
                argument(visible.starts.clone()),
                argument(visible.ends.clone()),
                argument(probabilities.clone()),
                argument(lse.clone()),
                index(rows),
                index(block.first_query),
                index(block.queries),
                index(block.first_key),
                index(block.keys),
                index(layout.heads),
                layout.scale,
                inverse_cap,
                capped,
                lanes,
                kind,
            );
            let out = product(Factor::plain(probabilities), Factor::plain(v_block), q.dtype);
            unpacked(out, &output, block.first_query, block.queries, layout.heads, false);
        }
        (output, lse)
    }

    fn segment_attention_backward(
        gradient: FloatTensor<Self>,
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        output: FloatTensor<Self>,
        lse: FloatTensor<Self>,
        layout: Arc<AttentionLayout>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let [gradient, q, k, v, output, lse] = [gradient, q, k, v, output, lse].map(contiguous);
        let ((queries, columns), (keys, k_columns), kind) = (dims(&q), dims(&k), float(&q));
        let client = q.client.clone();
        let delta = empty(&q, [queries, layout.heads], DType::F32);
        let size = vector_size(q.dtype, layout.head_dim);
        deltas::launch(
            &client,
            units(queries * layout.heads),
            CubeDim::new_1d(UNITS),
            size,
            vector_argument(gradient.clone(), size),
            vector_argument(output, size),
            argument(delta.clone()),
            index(queries * layout.heads),
            index(layout.head_dim / size),
            kind,
        );
        let dq = empty(&q, [queries, columns], q.dtype);
        let visible = Visible::new(&q, queries, keys, &layout);
        #[cfg(feature = "cuda")]
        if cuda::attention::served(&q, &layout) {
            let [dk, dv] = [(); 2].map(|()| empty(&q, [keys, k_columns], q.dtype));
            let more = cuda::attention::BackwardInputs { gradient: &gradient, lse: &lse, delta: &delta };
            cuda::attention::backward(visible.inputs([&q, &k, &v], [queries, keys], &layout), &more, [&dq, &dk, &dv]);
            return (dq, dk, dv);
        }
        let (dk, dv) = (zeros(&q, keys, k_columns), zeros(&q, keys, k_columns));
        let (inverse_cap, capped) = cap_arguments(layout.soft_cap, layout.scale);
        for block in &visible.blocks {
            let q_block = packed(&q, block.first_query, block.queries, layout.heads, &layout);
            let d_block = packed(&gradient, block.first_query, block.queries, layout.heads, &layout);
            let k_block = packed(&k, block.first_key, block.keys, layout.kv_heads, &layout);
            let v_block = packed(&v, block.first_key, block.keys, layout.kv_heads, &layout);
            let scores = product(Factor::plain(q_block.clone()), Factor::transposed(k_block.clone()), DType::F32);
            let dprobabilities = product(Factor::plain(d_block.clone()), Factor::transposed(v_block), DType::F32);
            let rows = layout.heads * block.queries;
            let shape = [layout.kv_heads, rows / layout.kv_heads, block.keys];
            let [probabilities, dscores] = [(); 2].map(|()| empty(&q, shape, q.dtype));
            let size = vector_size(DType::F32, block.keys);
            let vectors = block.keys / size;
            score_gradients::launch(
                &client,
                units(rows * vectors),
                CubeDim::new_1d(UNITS),
                size,
                vector_argument(contiguous(scores), size),
                vector_argument(contiguous(dprobabilities), size),
                argument(visible.starts.clone()),
                argument(visible.ends.clone()),
                argument(lse.clone()),
                argument(delta.clone()),
                vector_argument(probabilities.clone(), size),
                vector_argument(dscores.clone(), size),
                index(rows * vectors),
                index(block.first_query),
                index(block.queries),
                index(block.first_key),
                index(vectors),
                index(layout.heads),
                layout.scale,
                inverse_cap,
                capped,
                kind,
            );
            let dq_block = product(Factor::plain(dscores.clone()), Factor::plain(k_block), q.dtype);
            unpacked(dq_block, &dq, block.first_query, block.queries, layout.heads, false);
            let dk_block = product(Factor::transposed(dscores), Factor::plain(q_block), DType::F32);
            unpacked(dk_block, &dk, block.first_key, block.keys, layout.kv_heads, true);
            let dv_block = product(Factor::transposed(probabilities), Factor::plain(d_block), DType::F32);
            unpacked(dv_block, &dv, block.first_key, block.keys, layout.kv_heads, true);
        }
        (dq, cast(dk, k.dtype), cast(dv, v.dtype))
    }
}
