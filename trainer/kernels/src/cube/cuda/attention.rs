//! Attention as one kernel a pass, written in CUDA C++ since it lives on tensor cores.

use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;

use super::program::{Argument, Launch, Program};
use super::serves;
use super::stream::enqueue;
use crate::attention::{AttentionLayout, FUSED_HEAD_DIMS};

const SOURCE: &str = include_str!("attention.cu");
/// As in the source.
const ROWS: usize = 128;
const KEYS: usize = 64;
const MET: usize = 32;
const THREADS: u32 = 256;

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

/// Writes the output and the logarithms of the normalisers.
pub(in crate::cube) fn forward(inputs: Inputs<'_>, output: &CubeTensor, normalisers: &CubeTensor) {
    let Inputs { q, k, v, starts, ends, .. } = inputs;
    // Two tiles each of keys and values.
    let kernel = Kernel { name: "attention_forward", rows: inputs.queries, heads: inputs.layout.heads, held: 4 * KEYS };
    kernel.launch(inputs, &[q, k, v, starts, ends], &[output, normalisers]);
}

/// What the backward pass has besides the inputs: the gradient of the output, the logarithms of the normalisers, and the
/// inner products of output and gradient.
pub(in crate::cube) struct Pulled<'a> {
    pub(in crate::cube) gradient: &'a CubeTensor,
    pub(in crate::cube) normalisers: &'a CubeTensor,
    pub(in crate::cube) delta: &'a CubeTensor,
}

/// Writes the gradients of queries, keys and values.
pub(in crate::cube) fn backward(inputs: Inputs<'_>, pulled: &Pulled<'_>, [dq, dk, dv]: [&CubeTensor; 3]) {
    let Inputs { q, k, v, starts, ends, queries, keys, layout } = inputs;
    let Pulled { gradient, normalisers, delta } = *pulled;
    let read = [gradient, q, k, v, starts, ends, normalisers, delta];
    // Two tiles each of keys and values.
    Kernel { name: "attention_backward_queries", rows: queries, heads: layout.heads, held: 4 * MET }.launch(
        inputs,
        &read,
        &[dq],
    );
    // The keys and values of the block, two tiles each of queries and gradients.
    Kernel { name: "attention_backward_keys", rows: keys, heads: layout.kv_heads, held: 2 * ROWS + 4 * MET }.launch(
        inputs,
        &read,
        &[dk, dv],
    );
}

struct Kernel {
    name: &'static str,
    /// Queries or keys, whichever the blocks are made of.
    rows: usize,
    /// Of these rows.
    heads: usize,
    /// Rows of one head in shared memory.
    held: usize,
}

impl Kernel {
    fn launch(self, inputs: Inputs<'_>, read: &[&CubeTensor], written: &[&CubeTensor]) {
        let Self { name, rows, heads, held } = self;
        let Inputs { queries, keys, layout, .. } = inputs;
        if rows == 0 {
            return;
        }
        let (head_dim, scale) = (layout.head_dim, layout.scale);
        let sizes = [queries, keys, layout.heads, layout.kv_heads].map(|size| Argument::Word(size as u32));
        enqueue(read, written, move |stream, addresses| {
            let program = Program { source: SOURCE, definitions: &[("HEAD_DIM", head_dim)] };
            let addresses = addresses.iter().copied().map(Argument::Address);
            let arguments: Vec<Argument> = addresses.chain(sizes).chain([Argument::Float(scale)]).collect();
            let grid = [rows.div_ceil(ROWS) as u32, heads as u32, 1];
            let launch = Launch { grid, threads: THREADS, shared: (held * head_dim * size_of::<u16>()) as u32 };
            program.launch(name, &launch, &arguments, stream)
        });
    }
}
