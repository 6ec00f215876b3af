//! Attention against a naive implementation, against finite differences, and against itself with other segments.

use super::*;
use crate::testing::{assert_close, numbers, random, values};

fn layout(heads: usize, kv_heads: usize, head_dim: usize, segments: Vec<Segment>) -> AttentionLayout {
    let scale = 1.0 / (head_dim as f32).sqrt();
    AttentionLayout { heads, kv_heads, head_dim, scale, soft_cap: None, window: None, segments }
}

/// Packed sequences of these lengths.
fn documents(lengths: &[usize]) -> Vec<Segment> {
    let mut start = 0;
    let segment = |len: &usize| {
        start += len;
        Segment { q_start: start - len, q_len: *len, k_start: start - len, k_len: *len }
    };
    lengths.iter().map(segment).collect()
}

/// The definition in f64, one query and head at a time.
fn naive(q: &[f64], k: &[f64], v: &[f64], layout: &AttentionLayout) -> Vec<f64> {
    let n = layout.head_dim;
    let mut output = vec![0.0; q.len()];
    for segment in &layout.segments {
        for (i, h) in (0..segment.q_len).flat_map(|i| (0..layout.heads).map(move |h| (i, h))) {
            let q_at = (segment.q_start + i) * layout.heads * n + h * n;
            let k_at =
                |j: usize| (segment.k_start + j) * layout.kv_heads * n + h / (layout.heads / layout.kv_heads) * n;
            let position = segment.k_len - segment.q_len + i;
            let sees = |j: &usize| *j <= position && layout.window.is_none_or(|window| *j + window > position);
            let keys: Vec<usize> = (0..segment.k_len).filter(sees).collect();
            let scaled = |j: usize| (0..n).map(|c| q[q_at + c] * k[k_at(j) + c]).sum::<f64>() * f64::from(layout.scale);
            let cap = |score: f64| layout.soft_cap.map(f64::from).map_or(score, |cap| cap * (score / cap).tanh());
            let score = |j: usize| cap(scaled(j));
            let scores: Vec<f64> = keys.iter().map(|j| score(*j)).collect();
            let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|s| (s - highest).exp()).collect();
            let sum: f64 = weights.iter().sum();
            for c in 0..n {
                output[q_at + c] = keys.iter().zip(&weights).map(|(j, w)| w / sum * v[k_at(*j) + c]).sum();
            }
        }
    }
    output
}

/// Attention in Burn's own tensor operations, for one sequence.
fn plain(q: Tensor<2>, k: Tensor<2>, v: Tensor<2>, layout: &AttentionLayout) -> Tensor<2> {
    let ([queries, _], [keys, _]) = (q.dims(), k.dims());
    let (heads, kv_heads, n) = (layout.heads, layout.kv_heads, layout.head_dim);
    let by_head = |x: Tensor<2>, rows: usize, heads: usize| x.reshape([rows, heads, n]).swap_dims(0, 1);
    let repeat = |x: Tensor<3>| {
        let groups = (0..heads).map(|h| x.clone().narrow(0, h / (heads / kv_heads), 1)).collect();
        Tensor::cat(groups, 0)
    };
    let (q, k, v) =
        (by_head(q, queries, heads), repeat(by_head(k, keys, kv_heads)), repeat(by_head(v, keys, kv_heads)));
    let mut mask = vec![0.0; queries * keys];
    for (i, j) in (0..queries).flat_map(|i| (0..keys).map(move |j| (i, j))) {
        let position = keys - queries + i;
        if j > position || layout.window.is_some_and(|window| j + window <= position) {
            mask[i * keys + j] = -1e30;
        }
    }
    let mask = crate::testing::tensor(mask, [1, queries, keys]);
    let scores = q.matmul(k.swap_dims(1, 2)).mul_scalar(layout.scale);
    let scores = match layout.soft_cap {
        Some(cap) => scores.div_scalar(cap).tanh().mul_scalar(cap),
        None => scores,
    };
    let output = burn::tensor::activation::softmax(scores + mask, 2).matmul(v);
    output.swap_dims(0, 1).reshape([queries, heads * n])
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|value| f64::from(*value)).collect()
}

fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|value| *value as f32).collect()
}

#[test]
fn forward_and_gradients_equal_plain_operations() {
    for (queries, keys) in
        [(1, 1), (2, 2), (17, 17), (63, 63), (64, 64), (65, 65), (150, 150), (5, 40), (70, 200), (1, 99)]
    {
        for (heads, kv_heads, n) in [(1, 1, 8), (3, 1, 16), (4, 2, 33), (9, 3, 64), (2, 2, 128)] {
            for (window, soft_cap) in [
                (None, None),
                (Some(1), None),
                (Some(20), None),
                (Some(1000), None),
                (None, Some(2.0)),
                (Some(20), Some(0.5)),
            ] {
                let segments = vec![Segment { q_start: 0, q_len: queries, k_start: 0, k_len: keys }];
                let layout = AttentionLayout { window, soft_cap, ..layout(heads, kv_heads, n, segments) };
                let q = random([queries, heads * n], 1).mul_scalar(3.0).require_grad();
                let k = random([keys, kv_heads * n], 2).mul_scalar(3.0).require_grad();
                let v = random([keys, kv_heads * n], 3).require_grad();
                let gradient = random::<2>([queries, heads * n], 4);
                let got = attention(q.clone(), k.clone(), v.clone(), &layout);
                let want = plain(q.clone(), k.clone(), v.clone(), &layout);
                let what = format!("{queries}x{keys} {heads}/{kv_heads}x{n} {window:?} {soft_cap:?}");
                assert_close(&values(&got), &values(&want), 1e-5, &what);
                let (got, want) = ((got * gradient.clone()).sum().backward(), (want * gradient).sum().backward());
                for (name, leaf) in [("q", &q), ("k", &k), ("v", &v)] {
                    let (got, want) =
                        (values(&leaf.grad(&got).expect("leaf")), values(&leaf.grad(&want).expect("leaf")));
                    // A query with one visible key has a gradient of zero, so the tolerance is relative to the largest gradient.
                    let size = want.iter().fold(0.1f32, |size, value| size.max(value.abs()));
                    for (got, want) in got.iter().zip(&want) {
                        assert!((got - want).abs() < 3e-5 * size, "d{name} {what}: {got} for {want}");
                    }
                }
            }
        }
    }
}

#[test]
fn gradients_equal_finite_differences() {
    [None, Some(0.7)].into_iter().for_each(finite_differences);
}

fn finite_differences(soft_cap: Option<f32>) {
    let segments = vec![
        Segment { q_start: 0, q_len: 3, k_start: 2, k_len: 5 },
        Segment { q_start: 3, q_len: 2, k_start: 0, k_len: 2 },
    ];
    let layout = AttentionLayout { window: Some(3), soft_cap, ..layout(2, 1, 3, segments) };
    let (queries, keys) = (6, 7);
    let inputs = [numbers(queries * 6, 1), numbers(keys * 3, 2), numbers(keys * 3, 3)];
    let gradient = numbers(queries * 6, 4);
    let loss = |inputs: &[Vec<f64>; 3]| -> f64 {
        let output = naive(&inputs[0], &inputs[1], &inputs[2], &layout);
        output.iter().zip(&gradient).map(|(o, g)| o * f64::from(*g)).sum()
    };
    let (output, lse) = forward::attention(&inputs[0], &inputs[1], &inputs[2], queries, &layout);
    let saved = backward::Saved { q: &inputs[0], k: &inputs[1], v: &inputs[2], output: &output, lse: &lse };
    let got = backward::gradients(&gradient, &saved, keys, &layout);
    for (which, got) in got.iter().enumerate() {
        for (i, got) in got.iter().enumerate() {
            let at = |step: f64| {
                let mut inputs = [wide(&inputs[0]), wide(&inputs[1]), wide(&inputs[2])];
                inputs[which][i] += step;
                loss(&inputs)
            };
            let want = (at(1e-5) - at(-1e-5)) / 2e-5;
            assert!((f64::from(*got) - want).abs() < 1e-6, "input {which} element {i}: {got} for {want}");
        }
    }
}

#[test]
fn packed_sequences_equal_separate_ones() {
    let lengths = [70, 1, 130, 64, 9];
    let total: usize = lengths.iter().sum();
    let (heads, kv_heads, n) = (4, 2, 16);
    let (q, k) = (random([total, heads * n], 1), random([total, kv_heads * n], 2));
    let (v, gradient) = (random([total, kv_heads * n], 3), random::<2>([total, heads * n], 4));
    for window in [None, Some(33)] {
        let run = |start: usize, len: usize, segments: Vec<Segment>| {
            let part = |x: &Tensor<2>| x.clone().narrow(0, start, len).detach().require_grad();
            let (q, k, v) = (part(&q), part(&k), part(&v));
            let layout = AttentionLayout { window, ..layout(heads, kv_heads, n, segments) };
            let output = attention(q.clone(), k.clone(), v.clone(), &layout);
            let gradients = (output.clone() * gradient.clone().narrow(0, start, len)).sum().backward();
            [&q, &k, &v]
                .map(|x| values(&x.grad(&gradients).expect("leaf")))
                .into_iter()
                .chain([values(&output)])
                .collect::<Vec<_>>()
        };
        let packed = run(0, total, documents(&lengths));
        let mut separate = vec![Vec::new(); 4];
        for document in documents(&lengths) {
            let parts = run(document.q_start, document.q_len, documents(&[document.q_len]));
            separate.iter_mut().zip(parts).for_each(|(whole, part)| whole.extend(part));
        }
        for (packed, separate) in packed.iter().zip(&separate) {
            assert_close(packed, separate, 1e-5, "packed");
        }
    }
}

#[test]
fn decoding_with_a_cache_equals_one_forward_pass() {
    let (heads, kv_heads, n, total) = (6, 2, 32, 90);
    let (q, k, v) = (random([total, heads * n], 1), random([total, kv_heads * n], 2), random([total, kv_heads * n], 3));
    for window in [None, Some(7)] {
        let whole = AttentionLayout { window, ..layout(heads, kv_heads, n, documents(&[total])) };
        let whole = values(&attention(q.clone().inner(), k.clone().inner(), v.clone().inner(), &whole));
        let mut done = 0;
        for new in [50, 1, 1, 30, 8] {
            let end = done + new;
            let segments = vec![Segment { q_start: 0, q_len: new, k_start: 0, k_len: end }];
            let layout = AttentionLayout { window, ..layout(heads, kv_heads, n, segments) };
            let rows = |x: &Tensor<2>, start: usize, len: usize| x.clone().inner().narrow(0, start, len);
            let part = attention(rows(&q, done, new), rows(&k, 0, end), rows(&v, 0, end), &layout);
            assert_close(&values(&part), &whole[done * heads * n..end * heads * n], 1e-5, "continued");
            done = end;
        }
    }
}

#[test]
fn rows_outside_every_segment_are_zero() {
    let segments = vec![Segment { q_start: 2, q_len: 3, k_start: 1, k_len: 4 }];
    let layout = layout(1, 1, 4, segments);
    let (q, k, v) = (random([7, 4], 1), random([6, 4], 2), random([6, 4], 3));
    let output = values(&attention(q.clone(), k.clone(), v.clone(), &layout));
    let want = naive(&wide(&values(&q)), &wide(&values(&k)), &wide(&values(&v)), &layout);
    assert_close(&output, &narrow(&want), 1e-5, "inside");
    assert!(output[..8].iter().chain(&output[20..]).all(|value| *value == 0.0));
}

#[test]
fn a_nan_in_a_query_reaches_its_output_row_only() {
    let mut q = numbers(20 * 4, 1);
    q[19 * 4] = f32::NAN;
    let layout = layout(1, 1, 4, documents(&[20]));
    let (output, _) = forward::attention(&q, &numbers(80, 2), &numbers(80, 3), 20, &layout);
    assert!(output[19 * 4..].iter().all(|value| value.is_nan()));
    assert!(output[..19 * 4].iter().all(|value| value.is_finite()));
}

#[test]
#[should_panic(expected = "shares queries")]
fn overlapping_segments_are_refused() {
    let segment = Segment { q_start: 0, q_len: 2, k_start: 0, k_len: 2 };
    let segments = vec![segment, Segment { q_start: 1, ..segment }];
    let _ = attention(random([4, 4], 1), random([4, 4], 2), random([4, 4], 3), &layout(1, 1, 4, segments));
}
