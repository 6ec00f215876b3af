//! The engine on the CPU: no autodiff, no tensors, no allocations per token.
//!
//! Responsible for: a forward pass over slices. Prompts use GEMM, single tokens the product with few rows, which reads each
//! weight once for all slots.
//! Must not depend on: scheduling, sampling.

use tonfall_adapters::ModelDescription;
use tonfall_kernels::AttentionLayout;
use tonfall_kernels::decode::{
    Kernel, Lora, Projection, Rows, Step, add, attend_chunk, attend_steps, embed, glu, project, rms_norm,
    rms_norm_heads, rotate, soft_cap,
};

use super::memory::Lengths;
use super::scheduler::{CHUNK, Engine, Next};
use crate::error::TrainError;
use crate::model::{HostDecoder, HostLayer, HostLinear, HostNorm};

/// Keys and values of one layer, each `[slots · capacity, kv_heads · head_dim]`.
struct LayerCache {
    k: Vec<f32>,
    v: Vec<f32>,
}

/// The activations of a pass, by use.
struct Activations {
    x: Rows,
    normed: Rows,
    q: Rows,
    k: Rows,
    v: Rows,
    /// Scratch memory of head norms.
    heads: Rows,
    kv_heads: Rows,
    attended: Rows,
    /// The output of a half of a block.
    y: Rows,
    gate: Rows,
    up: Rows,
    gated: Rows,
    /// `x·Aᵀ` of up to three adapters with one input.
    u: [Rows; 3],
    positions: Vec<u32>,
}

impl Activations {
    fn new(rows: usize, model: &ModelDescription, rank: usize) -> Self {
        let new = |columns| Rows::new(rows, columns);
        let (q, kv) = (model.num_attention_heads * model.head_dim, model.num_key_value_heads * model.head_dim);
        let (hidden, intermediate) = (model.hidden_size, model.intermediate_size);
        Self {
            x: new(hidden),
            normed: new(hidden),
            q: new(q),
            k: new(kv),
            v: new(kv),
            heads: new(if model.qk_norm { q } else { 0 }),
            kv_heads: new(if model.qk_norm { kv } else { 0 }),
            attended: new(q),
            y: new(hidden),
            gate: new(intermediate),
            up: new(intermediate),
            gated: new(intermediate),
            u: [new(rank), new(rank), new(rank)],
            positions: Vec::with_capacity(rows),
        }
    }
}

/// A decoder's weights with the sequences of its slots.
pub(super) struct HostEngine {
    model: HostDecoder,
    caches: Vec<LayerCache>,
    capacity: usize,
    /// For single tokens of all slots.
    few: Activations,
    /// For chunks of prompts.
    many: Activations,
    steps: Vec<Step>,
    logits: Rows,
}

impl HostEngine {
    /// An engine with `slots` slots, at most [`super::MAX_SLOTS`], for sequences of these lengths.
    pub(super) fn new(model: HostDecoder, description: &ModelDescription, slots: usize, lengths: Lengths) -> Self {
        let Lengths { longest, capacity, .. } = lengths;
        let kv_columns = description.num_key_value_heads * description.head_dim;
        // Fresh zeros occupy no memory before they are written.
        let zeros = || vec![0.0; slots * capacity * kv_columns];
        let rank = model.rank();
        Self {
            caches: (0..model.layers.len()).map(|_| LayerCache { k: zeros(), v: zeros() }).collect(),
            capacity,
            few: Activations::new(slots, description, rank),
            many: Activations::new(longest.min(CHUNK), description, rank),
            steps: Vec::with_capacity(slots),
            logits: Rows::new(slots, description.vocab_size),
            model,
        }
    }

    /// Norm and head for the first `rows` rows of `few.x`.
    fn predict(&mut self, rows: usize) {
        let Self { model, few, logits, .. } = self;
        norm(rows, &few.x, &model.norm, &mut few.normed);
        let head = Projection { weight: &model.head, bias: None, lora: None, output: logits };
        project(Kernel::FewRows, rows, &few.normed, [head]);
        if let Some(cap) = model.soft_cap {
            soft_cap(rows, logits, cap);
        }
    }
}

impl HostDecoder {
    /// The rank of the adapters; 0 without.
    fn rank(&self) -> usize {
        let linears = self.layers.iter().flat_map(HostLayer::linears);
        linears.filter_map(|linear| Some(linear.lora.as_ref()?.a.rows())).max().unwrap_or(0)
    }
}

impl HostLayer {
    fn linears(&self) -> [&HostLinear; 7] {
        [&self.q, &self.k, &self.v, &self.o, &self.gate, &self.up, &self.down]
    }

    fn layout(&self) -> AttentionLayout {
        AttentionLayout {
            heads: self.shape.heads,
            kv_heads: self.shape.kv_heads,
            head_dim: self.shape.head_dim,
            scale: self.shape.scale,
            soft_cap: self.shape.soft_cap,
            window: self.shape.window,
            segments: Vec::new(),
        }
    }
}

impl Engine for HostEngine {
    fn prefill(&mut self, slot: usize, start: usize, tokens: &[u32], last: bool) -> Result<(), TrainError> {
        let Self { model, caches, capacity, many, .. } = self;
        let rows = tokens.len();
        many.positions.clear();
        many.positions.extend((start..start + rows).map(|position| position as u32));
        let first = slot * *capacity;
        embed(tokens.iter().copied(), &model.embedding, model.embedding_scale, &mut many.x);
        for (layer, cache) in model.layers.iter().zip(caches) {
            let step = Step { k_start: first, k_len: start + rows };
            block(
                Kernel::Gemm,
                rows,
                layer,
                cache,
                many,
                |row| first + start + row,
                |q, cache, layout, y| {
                    attend_chunk(rows, step, q, &cache.k, &cache.v, layout, y);
                },
            );
        }
        if last {
            self.few.x.row_mut(0).copy_from_slice(self.many.x.row(rows - 1));
            self.predict(1);
        }
        Ok(())
    }

    fn decode(&mut self, next: &[Next]) -> Result<(), TrainError> {
        let Self { model, caches, capacity, few, steps, .. } = self;
        steps.clear();
        steps.extend(next.iter().map(|next| Step { k_start: next.slot * *capacity, k_len: next.position + 1 }));
        few.positions.clear();
        few.positions.extend(next.iter().map(|next| next.position as u32));
        embed(next.iter().map(|next| next.token), &model.embedding, model.embedding_scale, &mut few.x);
        for (layer, cache) in model.layers.iter().zip(caches) {
            let row_of = |row: usize| steps[row].k_start + steps[row].k_len - 1;
            block(Kernel::FewRows, next.len(), layer, cache, few, row_of, |q, cache, layout, y| {
                attend_steps(steps, q, &cache.k, &cache.v, layout, y);
            });
        }
        self.predict(next.len());
        Ok(())
    }

    fn logits(&self, row: usize) -> &[f32] {
        self.logits.row(row)
    }
}

fn norm(rows: usize, x: &Rows, norm: &HostNorm, y: &mut Rows) {
    rms_norm(rows, x, &norm.gamma, norm.epsilon, y);
}

/// One decoder block on the first `rows` rows of `a.x`. Row `t` of keys and values goes to row `row_of(t)` of the cache.
fn block(
    kernel: Kernel,
    rows: usize,
    layer: &HostLayer,
    cache: &mut LayerCache,
    a: &mut Activations,
    row_of: impl Fn(usize) -> usize,
    attend: impl Fn(&Rows, &LayerCache, &AttentionLayout, &mut Rows),
) {
    norm(rows, &a.x, &layer.input_norm, &mut a.normed);
    let (q, k, v) = (&mut a.q, &mut a.k, &mut a.v);
    linears(kernel, rows, &a.normed, [&layer.q, &layer.k, &layer.v], [q, k, v], &mut a.u);
    if let Some((q_norm, k_norm)) = &layer.qk_norm {
        rms_norm_heads(rows, &mut a.q, &q_norm.gamma, q_norm.epsilon, &mut a.heads);
        rms_norm_heads(rows, &mut a.k, &k_norm.gamma, k_norm.epsilon, &mut a.kv_heads);
    }
    rotate(&mut a.q, &layer.rope, &a.positions);
    rotate(&mut a.k, &layer.rope, &a.positions);
    let columns = a.k.columns();
    for row in 0..rows {
        let at = row_of(row) * columns;
        cache.k[at..][..columns].copy_from_slice(a.k.row(row));
        cache.v[at..][..columns].copy_from_slice(a.v.row(row));
    }
    attend(&a.q, cache, &layer.layout(), &mut a.attended);
    linears(kernel, rows, &a.attended, [&layer.o], [&mut a.y], &mut a.u);
    residual(rows, layer.output_norms.as_ref().map(|(norm, _)| norm), a);

    norm(rows, &a.x, &layer.mlp_norm, &mut a.normed);
    linears(kernel, rows, &a.normed, [&layer.gate, &layer.up], [&mut a.gate, &mut a.up], &mut a.u);
    glu(rows, &a.gate, &a.up, layer.activation, &mut a.gated);
    linears(kernel, rows, &a.gated, [&layer.down], [&mut a.y], &mut a.u);
    residual(rows, layer.output_norms.as_ref().map(|(_, norm)| norm), a);
}

/// `x += norm(y)`, or `x += y`.
fn residual(rows: usize, output_norm: Option<&HostNorm>, a: &mut Activations) {
    match output_norm {
        Some(weights) => {
            norm(rows, &a.y, weights, &mut a.normed);
            add(rows, &mut a.x, &a.normed);
        }
        None => add(rows, &mut a.x, &a.y),
    }
}

/// Linear layers with one input.
fn linears<const N: usize>(
    kernel: Kernel,
    rows: usize,
    x: &Rows,
    layers: [&HostLinear; N],
    outputs: [&mut Rows; N],
    u: &mut [Rows; 3],
) {
    // All adapters of a model have one rank.
    let down = layers.iter().zip(u.iter_mut()).filter_map(|(layer, u)| {
        let lora = layer.lora.as_ref()?;
        Some(Projection { weight: &lora.a, bias: None, lora: None, output: u })
    });
    project(kernel, rows, x, down);
    let pairs = layers.into_iter().zip(outputs).zip(u.iter());
    let up = pairs.map(|((layer, output), u)| Projection {
        weight: &layer.weight,
        bias: layer.bias.as_deref(),
        lora: layer.lora.as_ref().map(|lora| Lora { b: &lora.b, u, scale: lora.scale }),
        output,
    });
    project(kernel, rows, x, up);
}
