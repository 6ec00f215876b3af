//! Fused attention kernels in CUDA C++, for tensor cores.

use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;

use super::program::{Argument, Launch, Program, capability};
use super::serves;
use super::stream::enqueue;
use crate::attention::{AttentionLayout, FUSED_HEAD_DIMS};
use crate::cube::soft_cap::cap_arguments;
use crate::index32::{index, side};

/// Queries or keys per block, in all sources.
const ROWS: usize = 128;

/// The kernels of one GPU generation.
struct Generation {
    source: &'static str,
    /// Threads per block.
    threads: u32,
    /// Rows of one head in shared memory, by `Pass`: the block's own tiles, and the pairs of tiles in the pipeline.
    held: [usize; 3],
    /// Additional bytes of shared memory, to align its start.
    alignment: usize,
}

/// With `mma`: compute capability 8.0 and later.
const AMPERE: Generation = Generation {
    source: concat!(include_str!("attention/prelude.cu"), include_str!("attention/ampere.cu")),
    threads: 256,
    held: [2 * 2 * 64, 2 * 2 * 32, 2 * ROWS + 2 * 2 * 32],
    alignment: 0,
};
/// With `wgmma`, which only compute capability 9.0 has.
const HOPPER: Generation = Generation {
    source: concat!(include_str!("attention/prelude.cu"), include_str!("attention/hopper.cu")),
    threads: 384,
    held: [ROWS + 3 * 2 * 128, 2 * ROWS + 4 * 2 * 64, 2 * ROWS + 4 * 2 * 64],
    alignment: 1024,
};

fn generation(capability: (i32, i32), head_dim: usize) -> &'static Generation {
    // The Hopper kernels' tiles have panels of 64 columns.
    if capability == (9, 0) && head_dim.is_multiple_of(64) { &HOPPER } else { &AMPERE }
}

#[derive(Clone, Copy)]
enum Pass {
    Forward,
    BackwardQueries,
    BackwardKeys,
}

impl Pass {
    const fn kernel(self) -> &'static str {
        match self {
            Self::Forward => "attention_forward",
            Self::BackwardQueries => "attention_backward_queries",
            Self::BackwardKeys => "attention_backward_keys",
        }
    }
}

/// Whether these kernels support the inputs. Other inputs use blocks of matrix products.
pub(in crate::cube) fn served(q: &CubeTensor, layout: &AttentionLayout) -> bool {
    let fused = FUSED_HEAD_DIMS.contains(&layout.head_dim);
    serves(&q.client) && q.dtype == DType::BF16 && fused && layout.scale > 0.0
}

/// Contiguous matrices of queries, keys and values. Query `i` attends to keys `starts[i] .. ends[i]`.
#[derive(Clone, Copy)]
pub(in crate::cube) struct Inputs<'a> {
    pub(in crate::cube) q: &'a CubeTensor,
    pub(in crate::cube) k: &'a CubeTensor,
    pub(in crate::cube) v: &'a CubeTensor,
    pub(in crate::cube) starts: &'a CubeTensor,
    pub(in crate::cube) ends: &'a CubeTensor,
    pub(in crate::cube) queries: usize,
    pub(in crate::cube) keys: usize,
    pub(in crate::cube) layout: &'a AttentionLayout,
}

/// Writes the output and the log-sum-exp.
pub(in crate::cube) fn forward(inputs: Inputs<'_>, output: &CubeTensor, lse: &CubeTensor) {
    let Inputs { q, k, v, starts, ends, .. } = inputs;
    launch(Pass::Forward, inputs, &[q, k, v, starts, ends], &[output, lse]);
}

/// Further inputs of the backward pass: the gradient of the output, the log-sum-exp, and `delta`, the inner products of output
/// and gradient.
pub(in crate::cube) struct BackwardInputs<'a> {
    pub(in crate::cube) gradient: &'a CubeTensor,
    pub(in crate::cube) lse: &'a CubeTensor,
    pub(in crate::cube) delta: &'a CubeTensor,
}

/// Writes the gradients of queries, keys and values.
pub(in crate::cube) fn backward(inputs: Inputs<'_>, more: &BackwardInputs<'_>, [dq, dk, dv]: [&CubeTensor; 3]) {
    let Inputs { q, k, v, starts, ends, .. } = inputs;
    let BackwardInputs { gradient, lse, delta } = *more;
    let read = [gradient, q, k, v, starts, ends, lse, delta];
    launch(Pass::BackwardQueries, inputs, &read, &[dq]);
    launch(Pass::BackwardKeys, inputs, &read, &[dk, dv]);
}

fn launch(pass: Pass, inputs: Inputs<'_>, read: &[&CubeTensor], written: &[&CubeTensor]) {
    let Inputs { queries, keys, layout, .. } = inputs;
    // Rows that are split into blocks, and heads.
    let (rows, heads) = match pass {
        Pass::Forward | Pass::BackwardQueries => (queries, layout.heads),
        Pass::BackwardKeys => (keys, layout.kv_heads),
    };
    if rows == 0 {
        return;
    }
    let (head_dim, scale) = (layout.head_dim, layout.scale);
    let (inverse_cap, capped) = cap_arguments(layout.soft_cap, scale);
    let sizes = [queries, keys, layout.heads, layout.kv_heads].map(|size| Argument::Word(index(size)));
    // Heads vary fastest, so that the blocks with the most keys start first.
    let grid = [index(heads), side(rows.div_ceil(ROWS)), 1];
    enqueue(read, written, move |stream, addresses| {
        let &Generation { source, threads, held, alignment } = generation(capability()?, head_dim);
        let program = Program { source, definitions: &[("HEAD_DIM", head_dim), ("SOFT_CAP", usize::from(capped))] };
        let addresses = addresses.iter().copied().map(Argument::Address);
        let arguments: Vec<Argument<'_>> =
            addresses.chain(sizes).chain([scale, inverse_cap].map(Argument::Float)).collect();
        let shared = index(held[pass as usize] * head_dim * size_of::<u16>() + alignment);
        program.launch(pass.kernel(), &Launch { grid, threads, shared }, &arguments, stream)
    });
}
