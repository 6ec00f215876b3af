//! The forward pass on the CPU: one task per segment, head and block of queries.

use super::{AttentionLayout, Segment};
use crate::buffer::Buffer;
use crate::cpu::elementary::exp;
use crate::cpu::gemm::{Output, Term, serial};
use crate::cpu::level::{Level, multiversion};
use crate::cpu::memory::{Shared, with_scratch};
use crate::cpu::pack::{Left, Right};
use crate::cpu::threads;
use crate::soft_cap;

/// Queries per block.
pub(super) const BLOCK: usize = 64;

/// A block of queries of one head, and the keys that any of them attends to.
#[derive(Clone, Copy)]
pub(super) struct Block {
    pub(super) segment: Segment,
    pub(super) head: usize,
    /// First query, counted within the segment, and number of queries.
    pub(super) first: usize,
    pub(super) queries: usize,
    /// First visible key, counted within the segment, and number of keys.
    pub(super) first_key: usize,
    pub(super) keys: usize,
}

impl Block {
    pub(super) fn new(layout: &AttentionLayout, segment: Segment, head: usize, first: usize) -> Self {
        let queries = BLOCK.min(segment.q_len - first);
        let first_key = layout.visible(&segment, first).start;
        let keys = layout.visible(&segment, first + queries - 1).end - first_key;
        Self { segment, head, first, queries, first_key, keys }
    }

    /// Index of the block's first element in a matrix shaped like the queries.
    pub(super) fn q_at(&self, layout: &AttentionLayout) -> usize {
        (self.segment.q_start + self.first) * layout.q_columns() + self.head * layout.head_dim
    }

    /// Index of the first visible key's first element in a matrix shaped like the keys.
    pub(super) fn k_at(&self, layout: &AttentionLayout) -> usize {
        (self.segment.k_start + self.first_key) * layout.kv_columns() + self.head / layout.group() * layout.head_dim
    }

    /// Keys that query `i` of the block attends to, counted from the block's first key.
    pub(super) fn visible(&self, layout: &AttentionLayout, i: usize) -> std::ops::Range<usize> {
        let keys = layout.visible(&self.segment, self.first + i);
        keys.start - self.first_key..keys.end - self.first_key
    }

    /// Row stride of a buffer of scores. It is not a multiple of 64 floats, so that a column doesn't map to few cache sets.
    pub(super) fn stride(&self) -> usize {
        let stride = self.keys.next_multiple_of(16);
        if stride.is_multiple_of(64) { stride + 16 } else { stride }
    }

    /// `scores[i, j] = scale · q_i·k_j`, before the soft cap.
    pub(super) fn scores(&self, level: Level, q: &[f32], k: &[f32], layout: &AttentionLayout, scores: &mut [f32]) {
        let term = Term {
            left: Left::rows(&q[self.q_at(layout)..], layout.q_columns()),
            right: Right::Columns { values: &k[self.k_at(layout)..], stride: layout.kv_columns() },
            depth: layout.head_dim,
            alpha: layout.scale,
        };
        serial(level, &[term], self.queries, self.keys, Output::new(scores, self.stride()), false);
    }
}

multiversion! {
    /// Replaces the scores of a row by probabilities, and masked ones by zeros. Returns the log-sum-exp.
    pub(crate) fn softmax(row: &mut [f32], start: usize, end: usize) -> f32 {
        const LANES: usize = 16;
        row[..start].fill(0.0);
        row[end..].fill(0.0);
        let row = &mut row[start..end];
        let mut highest = [f32::NEG_INFINITY; LANES];
        let (wide, rest) = row.as_chunks::<LANES>();
        for values in wide {
            for (highest, value) in highest.iter_mut().zip(values) {
                // This comparison keeps a NaN in the first place. A NaN elsewhere reaches the sum below.
                *highest = if *value > *highest { *value } else { *highest };
            }
        }
        let highest = rest.iter().chain(&highest).copied().fold(f32::NEG_INFINITY, f32::max);
        let mut sums = [0.0; LANES];
        let (wide, rest) = row.as_chunks_mut::<LANES>();
        for values in wide {
            for (sum, value) in sums.iter_mut().zip(values) {
                *value = exp::<FMA>(*value - highest);
                *sum += *value;
            }
        }
        let mut sum: f32 = sums.iter().sum();
        for value in rest {
            *value = exp::<FMA>(*value - highest);
            sum += *value;
        }
        let inverse = 1.0 / sum;
        row.iter_mut().for_each(|value| *value *= inverse);
        highest + sum.ln()
    }
}

/// The output, shaped like `q`, and the log-sum-exp of the scores, `[queries, heads]`.
pub(crate) fn attention(q: &[f32], k: &[f32], v: &[f32], queries: usize, layout: &AttentionLayout) -> (Buffer, Buffer) {
    let level = Level::best();
    let mut output = Buffer::zeroed(q.len());
    let mut lse = Buffer::zeroed(queries * layout.heads);
    let (out, logs) = (Shared::new(&mut output), Shared::new(&mut lse));
    let mut blocks = Vec::new();
    for segment in &layout.segments {
        for first in (0..segment.q_len).step_by(BLOCK).rev() {
            blocks.extend((0..layout.heads).map(|head| Block::new(layout, *segment, head, first)));
        }
    }
    threads::each(blocks.len(), |task| {
        let block = &blocks[task];
        let stride = block.stride();
        with_scratch(block.queries * stride, |scores| {
            block.scores(level, q, k, layout, scores);
            for (i, row) in scores.chunks_exact_mut(stride).enumerate() {
                let visible = block.visible(layout, i);
                if let Some(cap) = layout.soft_cap {
                    soft_cap::cap(level, &mut row[visible.clone()], cap);
                }
                let log = softmax(level, row, visible.start, visible.end);
                let at = (block.segment.q_start + block.first + i) * layout.heads + block.head;
                #[expect(unsafe_code, reason = "tasks write disjoint parts of one buffer")]
                // SAFETY: no other task has this query and head.
                let slot = unsafe { logs.part(at, 1) };
                slot[0] = log;
            }
            let term = Term {
                left: Left::rows(scores, stride),
                right: Right::Rows { values: &v[block.k_at(layout)..], stride: layout.kv_columns() },
                depth: block.keys,
                alpha: 1.0,
            };
            let output = Output { values: out, start: block.q_at(layout), stride: layout.q_columns() };
            serial(level, &[term], block.queries, layout.head_dim, output, false);
        });
    });
    (output, lse)
}
