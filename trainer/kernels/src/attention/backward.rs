//! The backward pass on the CPU: one task per segment and head. Probabilities are recomputed from the scores and the saved
//! log-sum-exp. Query heads that share a key head write separate gradients, which are then summed in a fixed order.

use super::AttentionLayout;
use super::forward::{BLOCK, Block};
use crate::buffer::Buffer;
use crate::cpu::elementary::exp;
use crate::cpu::gemm::{Output, Term, serial};
use crate::cpu::level::{Level, multiversion};
use crate::cpu::memory::{Shared, with_scratch};
use crate::cpu::pack::{Left, Right};
use crate::cpu::reduce::dot;
use crate::cpu::threads;
use crate::soft_cap;

/// Inputs and outputs of the forward pass.
pub(super) struct Saved<'a> {
    pub(super) q: &'a [f32],
    pub(super) k: &'a [f32],
    pub(super) v: &'a [f32],
    pub(super) output: &'a [f32],
    pub(super) lse: &'a [f32],
}

multiversion! {
    /// Scores to probabilities, given their log-sum-exp.
    fn probabilities(row: &mut [f32], start: usize, end: usize, log: f32) {
        row[..start].fill(0.0);
        row[end..].fill(0.0);
        for value in &mut row[start..end] {
            *value = exp::<FMA>(*value - log);
        }
    }
}

multiversion! {
    /// Gradients of probabilities to gradients of unscaled scores: `p · (dp - delta) · scale`.
    fn score_gradients(dp: &mut [f32], p: &[f32], delta: f32, scale: f32) {
        for (dp, p) in dp.iter_mut().zip(p) {
            *dp = p * (*dp - delta) * scale;
        }
    }
}

fn term<'a>(left: Left<'a>, right: Right<'a>, depth: usize) -> Term<'a> {
    Term { left, right, depth, alpha: 1.0 }
}

/// `[dq, dk, dv]`, shaped like `q`, `k` and `v`; `keys` is the number of key rows.
pub(super) fn gradients(gradient: &[f32], saved: &Saved<'_>, keys: usize, layout: &AttentionLayout) -> [Buffer; 3] {
    let mut dq = Buffer::zeroed(saved.q.len());
    // One gradient of keys and values per query head, before they are summed.
    let columns = layout.q_columns();
    let (mut dk, mut dv) = (Buffer::zeroed(keys * columns), Buffer::zeroed(keys * columns));
    let outputs = [&mut dq, &mut dk, &mut dv].map(|values| Shared::new(values));
    threads::each(layout.segments.len() * layout.heads, |task| {
        let (segment, head) = (layout.segments[task / layout.heads], task % layout.heads);
        for first in (0..segment.q_len).step_by(BLOCK) {
            one_block(gradient, saved, &Block::new(layout, segment, head, first), layout, outputs);
        }
    });
    if layout.group() == 1 {
        return [dq, dk, dv];
    }
    [dq, sum_groups(&dk, keys, layout), sum_groups(&dv, keys, layout)]
}

fn one_block(
    gradient: &[f32],
    saved: &Saved<'_>,
    block: &Block,
    layout: &AttentionLayout,
    [dq, dk, dv]: [Shared<'_, f32>; 3],
) {
    let level = Level::best();
    let (q_columns, kv_columns, width) = (layout.q_columns(), layout.kv_columns(), layout.head_dim);
    let (q_at, k_at, stride) = (block.q_at(layout), block.k_at(layout), block.stride());
    let (gradient, output) = (&gradient[q_at..], &saved.output[q_at..]);
    let keys = Right::Rows { values: &saved.k[k_at..], stride: kv_columns };
    // Index of this head's first key gradient.
    let own = (block.segment.k_start + block.first_key) * q_columns + block.head * width;
    let scores = block.queries * stride;
    let capped = if layout.soft_cap.is_some() { scores } else { 0 };
    with_scratch(2 * scores + capped, |scratch| {
        let (p, rest) = scratch.split_at_mut(scores);
        let (dp, slopes) = rest.split_at_mut(scores);
        block.scores(level, saved.q, saved.k, layout, p);
        for (i, row) in p.chunks_exact_mut(stride).enumerate() {
            let visible = block.visible(layout, i);
            if let Some(cap) = layout.soft_cap {
                let slopes = &mut slopes[i * stride..][visible.clone()];
                soft_cap::cap_with_slopes(level, &mut row[visible.clone()], slopes, cap);
            }
            let at = (block.segment.q_start + block.first + i) * layout.heads + block.head;
            probabilities(level, row, visible.start, visible.end, saved.lse[at]);
        }

        // dv += pᵀ·do
        let upstream = Right::Rows { values: gradient, stride: q_columns };
        let product = term(Left::columns(p, stride), upstream, block.queries);
        let place = Output { values: dv, start: own, stride: q_columns };
        serial(level, &[product], block.keys, width, place, true);

        // dp = do·vᵀ, then in place ds = p · (dp - do·o) · scale, times the derivative of the soft cap
        let values = Right::Columns { values: &saved.v[k_at..], stride: kv_columns };
        let product = term(Left::rows(gradient, q_columns), values, width);
        serial(level, &[product], block.queries, block.keys, Output::new(dp, stride), false);
        for (i, (dp, p)) in dp.chunks_exact_mut(stride).zip(p.chunks_exact(stride)).enumerate() {
            let delta = dot(level, &gradient[i * q_columns..][..width], &output[i * q_columns..][..width]);
            let visible = block.visible(layout, i);
            dp[..visible.start].fill(0.0);
            dp[visible.end..].fill(0.0);
            score_gradients(level, &mut dp[visible.clone()], &p[visible.clone()], delta, layout.scale);
            if layout.soft_cap.is_some() {
                soft_cap::apply_slopes(level, &mut dp[visible.clone()], &slopes[i * stride..][visible]);
            }
        }

        // dq = ds·k
        let product = term(Left::rows(dp, stride), keys, block.keys);
        let place = Output { values: dq, start: q_at, stride: q_columns };
        serial(level, &[product], block.queries, width, place, false);

        // dk += dsᵀ·q
        let queries = Right::Rows { values: &saved.q[q_at..], stride: q_columns };
        let product = term(Left::columns(dp, stride), queries, block.queries);
        let place = Output { values: dk, start: own, stride: q_columns };
        serial(level, &[product], block.keys, width, place, true);
    });
}

/// Sums the gradients of the query heads that share a key head: `[keys, heads · n]` → `[keys, kv_heads · n]`.
fn sum_groups(by_head: &[f32], keys: usize, layout: &AttentionLayout) -> Buffer {
    let (from_columns, to_columns, width) = (layout.q_columns(), layout.kv_columns(), layout.head_dim);
    let mut sums = Buffer::zeroed(keys * to_columns);
    let out = Shared::new(&mut sums);
    let piece = threads::rows_per_piece(keys, from_columns);
    threads::each(keys.div_ceil(piece), |task| {
        for key in task * piece..keys.min((task + 1) * piece) {
            #[expect(unsafe_code, reason = "tasks write disjoint parts of one buffer")]
            // SAFETY: no two tasks have the same row.
            let row = unsafe { out.part(key * to_columns, to_columns) };
            for (head, from) in by_head[key * from_columns..][..from_columns].chunks_exact(width).enumerate() {
                let to = &mut row[head / layout.group() * width..][..width];
                to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
            }
        }
    });
    sums
}
