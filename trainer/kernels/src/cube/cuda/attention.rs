//! Attention as one kernel a pass, written in CUDA C++ since it lives on tensor cores.

use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;

use super::program::{Argument, Launch, Program, capability};
use super::serves;
use super::stream::enqueue;
use crate::attention::{AttentionLayout, FUSED_HEAD_DIMS};
use crate::cube::soft_cap::cap_arguments;
use crate::index32::{index, side};

/// Queries or keys of a block, in every source.
const ROWS: usize = 128;

/// The kernels as they are written for some cards.
struct Generation {
    source: &'static str,
    /// Of a block.
    threads: u32,
    /// Rows of one head in shared memory, by `Pass`: a block's own tiles, and as many pairs of tiles as are held at once.
    held: [usize; 3],
    /// Bytes more, to begin where the card wants them to.
    alignment: usize,
}

/// With mma: everything from compute capability 8.0 on.
const AMPERE: Generation = Generation {
    source: concat!(include_str!("attention/prelude.cu"), include_str!("attention/ampere.cu")),
    threads: 256,
    held: [2 * 2 * 64, 2 * 2 * 32, 2 * ROWS + 2 * 2 * 32],
    alignment: 0,
};
/// With wgmma, which compute capability 9.0 alone has.
const HOPPER: Generation = Generation {
    source: concat!(include_str!("attention/prelude.cu"), include_str!("attention/hopper.cu")),
    threads: 384,
    held: [ROWS + 3 * 2 * 128, 2 * ROWS + 4 * 2 * 64, 2 * ROWS + 4 * 2 * 64],
    alignment: 1024,
};

fn generation(capability: (i32, i32), head_dim: usize) -> &'static Generation {
    // Its tiles are panels of 64 columns.
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

/// Whether the kernels serve these queries; what they don't goes by blocks of products.
pub(in crate::cube) fn served(q: &CubeTensor, layout: &AttentionLayout) -> bool {
    let fused = FUSED_HEAD_DIMS.contains(&layout.head_dim);
    serves(&q.client) && q.dtype == DType::BF16 && fused && layout.scale > 0.0
}

/// Contiguous matrices of queries, keys and values, and the first key and the one behind the last that each query sees.
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

/// Writes the output and the logarithms of the lse.
pub(in crate::cube) fn forward(inputs: Inputs<'_>, output: &CubeTensor, lse: &CubeTensor) {
    let Inputs { q, k, v, starts, ends, .. } = inputs;
    launch(Pass::Forward, inputs, &[q, k, v, starts, ends], &[output, lse]);
}

/// What the backward pass has besides the inputs: the gradient of the output, the logarithms of the lse, and the
/// inner products of output and gradient.
pub(in crate::cube) struct Pulled<'a> {
    pub(in crate::cube) gradient: &'a CubeTensor,
    pub(in crate::cube) lse: &'a CubeTensor,
    pub(in crate::cube) delta: &'a CubeTensor,
}

/// Writes the gradients of queries, keys and values.
pub(in crate::cube) fn backward(inputs: Inputs<'_>, pulled: &Pulled<'_>, [dq, dk, dv]: [&CubeTensor; 3]) {
    let Inputs { q, k, v, starts, ends, .. } = inputs;
    let Pulled { gradient, lse, delta } = *pulled;
    let read = [gradient, q, k, v, starts, ends, lse, delta];
    launch(Pass::BackwardQueries, inputs, &read, &[dq]);
    launch(Pass::BackwardKeys, inputs, &read, &[dk, dv]);
}

fn launch(pass: Pass, inputs: Inputs<'_>, read: &[&CubeTensor], written: &[&CubeTensor]) {
    let Inputs { queries, keys, layout, .. } = inputs;
    // What blocks are made of, and who has a row of blocks.
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
