//! Attention over keys and values in preallocated memory.

use super::rows::Rows;
use crate::attention::{AttentionLayout, Segment, forward};
use crate::cpu::level::Level;
use crate::cpu::memory::{Shared, with_scratch};
use crate::cpu::single_query::{HeadRows, scores, weighted_sum};
use crate::cpu::threads;
use crate::soft_cap;

/// The keys of a row's query: rows `k_start .. k_start + k_len` of the cache. The query has the position of the last one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    pub k_start: usize,
    pub k_len: usize,
}

/// Attention of one query per row. `q` and `y` are `[steps, heads · head_dim]`; `k` and `v` `[positions, kv_heads · head_dim]`
/// without gaps. The segments of `layout` are not used. A row's result doesn't depend on the other rows.
///
/// # Panics
/// When shapes and layout don't fit.
pub fn attend_steps(steps: &[Step], q: &Rows, k: &[f32], v: &[f32], layout: &AttentionLayout, y: &mut Rows) {
    let (head_dim, kv_heads, columns) = (layout.head_dim, layout.kv_heads, layout.kv_heads * layout.head_dim);
    let group = layout.heads / kv_heads;
    assert!(q.columns() == layout.heads * head_dim && y.columns() == q.columns(), "elements of a query row");
    assert!(steps.len() <= q.count() && steps.len() <= y.count(), "rows of the queries");
    let (level, stride) = (Level::best(), y.stride());
    let out = Shared::new(y.values_mut());
    threads::each(steps.len() * kv_heads, |task| {
        let (row, head) = (task / kv_heads, task % kv_heads);
        let Step { k_start, k_len } = steps[row];
        let seen = layout.visible(&Segment { q_start: row, q_len: 1, k_start, k_len }, 0);
        let start = (k_start + seen.start) * columns + head * head_dim;
        let of_head = |values| HeadRows { values, stride: columns, count: seen.len() };
        let (k, v) = (of_head(&k[start..]), of_head(&v[start..]));
        with_scratch(seen.len(), |weights| {
            for query in head * group..(head + 1) * group {
                scores(level, &q.row(row)[query * head_dim..][..head_dim], k, layout.scale, weights);
                if let Some(cap) = layout.soft_cap {
                    soft_cap::cap(level, weights, cap);
                }
                forward::softmax(level, weights, 0, weights.len());
                #[expect(unsafe_code, reason = "tasks write disjoint parts of one buffer")]
                // SAFETY: no other task has this row and head.
                weighted_sum(level, weights, v, unsafe { out.part(row * stride + query * head_dim, head_dim) });
            }
        });
    });
}

/// Attention of consecutive queries of one sequence, the rows of `q`; `step` has the keys of the last one. See
/// [`attend_steps`] for the shapes.
///
/// # Panics
/// When shapes and layout don't fit.
pub fn attend_chunk(rows: usize, step: Step, q: &Rows, k: &[f32], v: &[f32], layout: &AttentionLayout, y: &mut Rows) {
    assert!(q.columns() == layout.heads * layout.head_dim && y.columns() == q.columns(), "elements of a query row");
    let segments = vec![Segment { q_start: 0, q_len: rows, k_start: step.k_start, k_len: step.k_len }];
    let layout = AttentionLayout { segments, ..layout.clone() };
    let packed: Vec<f32> = (0..rows).flat_map(|row| q.row(row)).copied().collect();
    let (attended, _) = forward::attention(&packed, k, v, rows, &layout);
    for (row, values) in attended.chunks_exact(q.columns()).enumerate() {
        y.row_mut(row).copy_from_slice(values);
    }
}
