//! Fused output head and cross-entropy: the logits of all tokens never exist at once.
//!
//! Responsible for: token losses (natural logarithm), their sum, and the gradients. Tokens are processed in chunks; a chunk's
//! gradients are computed in the forward pass, while its logits exist. Tokens without a target are skipped.
//! Must not depend on: how targets are shifted or losses averaged.

use std::sync::Arc;

use burn::tensor::{DType, FloatDType, Shape, Tensor};

use crate::buffer::Buffer;
use crate::cpu::elementary::exp;
use crate::cpu::gemm::{self, Term};
use crate::cpu::level::{Level, multiversion};
use crate::cpu::memory::{Shared, with_scratch};
use crate::cpu::pack::{Left, Right};
use crate::cpu::threads;
use crate::flex::{bytes, constant, contiguous, dims, floats, matrix, nothing, vector};
use crate::frozen::{FrozenMatrix, MatrixLayout};
use crate::linear::linear;
use crate::op::{
    Autodiff, Backend, Backward, CheckpointStrategy, Checkpointer, Dispatch, Flex, FloatTensor, Gradients, IntTensor,
    Ops, OpsKind, backend_extension, unary,
};
use crate::soft_cap;
use crate::trainable_linear::trainable_linear;

/// Target of a token without loss, as in PyTorch.
pub const IGNORED: i32 = -100;

/// Most logits of a chunk on the CPU: 64 MiB of f32. A chunk has at least one token.
const HELD_LOGITS: usize = 16 << 20;
/// Most logits of a chunk on a GPU: 256 MiB of f32. That is enough to use all of the GPU. More would grow the pages of its
/// memory pool, which are as large as the largest buffer.
const HELD_LOGITS_ON_GPU: usize = 64 << 20;

/// Tokens per chunk, of `tokens` tokens with a target: those whose logits exist at the same time.
#[must_use]
pub fn held_tokens(tokens: usize, vocab: usize, on_gpu: bool) -> usize {
    let logits = if on_gpu { HELD_LOGITS_ON_GPU } else { HELD_LOGITS };
    (logits / vocab.max(1)).max(1).min(tokens)
}

/// An output head (`lm_head`).
#[derive(Clone, Debug)]
pub struct Head {
    pub weight: HeadWeight,
    /// The value at which logits are [soft-capped](soft_cap()).
    pub soft_cap: Option<f32>,
}

/// The weight of a head, `[vocab, hidden]`.
#[derive(Clone, Debug)]
pub enum HeadWeight {
    Frozen(FrozenMatrix),
    Trainable(Tensor<2>),
}

/// Head and cross-entropy as operations of a backend: `(sum[1], losses[T], gradients…)`. A gradient that was not requested is
/// empty.
#[backend_extension(Flex, Autodiff, Cube: cfg(feature = "cube"))]
pub(crate) trait CrossEntropyOps: Backend {
    /// With a stored head. The gradient is that of `x[T, hidden]`.
    fn frozen_cross_entropy(
        x: FloatTensor<Self>,
        head: IntTensor<Self>,
        layout: MatrixLayout,
        soft_cap: Option<f32>,
        targets: Arc<[i32]>,
        gradient: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// With a dense head `[vocab, hidden]`. The gradients are those of `x` and of the head.
    fn dense_cross_entropy(
        x: FloatTensor<Self>,
        head: FloatTensor<Self>,
        soft_cap: Option<f32>,
        targets: Arc<[i32]>,
        gradient: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

multiversion! {
    /// The loss of one row of logits. With `gradient`, the row is replaced by the gradient of the loss.
    fn row_loss(row: &mut [f32], target: usize, gradient: bool) -> f64 {
        const LANES: usize = 16;
        /// This many values are summed in f32; the partial sums are added in f64.
        const PIECE: usize = 1024;
        let target_logit = row[target];
        let mut highest = [f32::NEG_INFINITY; LANES];
        let (wide, rest) = row.as_chunks::<LANES>();
        for values in wide {
            for (highest, value) in highest.iter_mut().zip(values) {
                *highest = if *value > *highest { *value } else { *highest };
            }
        }
        let highest = rest.iter().chain(&highest).copied().fold(f32::NEG_INFINITY, f32::max);
        let mut sum = 0.0f64;
        for piece in row.chunks_mut(PIECE) {
            let mut sums = [0.0f32; LANES];
            let (wide, rest) = piece.as_chunks_mut::<LANES>();
            for values in wide {
                for (sum, value) in sums.iter_mut().zip(values) {
                    *value = exp::<FMA>(*value - highest);
                    *sum += *value;
                }
            }
            sum += f64::from(sums.iter().sum::<f32>());
            for value in rest {
                *value = exp::<FMA>(*value - highest);
                sum += f64::from(*value);
            }
        }
        if gradient {
            let inverse = (1.0 / sum) as f32;
            row.iter_mut().for_each(|value| *value *= inverse);
            row[target] -= 1.0;
        }
        f64::from(highest) + sum.ln() - f64::from(target_logit)
    }
}

/// The head's weight in both orientations, and its soft cap.
#[derive(Clone, Copy)]
struct Weight<'a> {
    /// `B = Wᵀ`.
    down: Right<'a>,
    /// `B = W`.
    up: Right<'a>,
    vocab: usize,
    soft_cap: Option<f32>,
}

/// [`row_loss`] after the soft cap, if there is one.
fn capped_row_loss(level: Level, row: &mut [f32], target: usize, soft_cap: Option<f32>, gradient: bool) -> f64 {
    match soft_cap {
        None => row_loss(level, row, target, gradient),
        Some(cap) if !gradient => {
            soft_cap::cap(level, row, cap);
            row_loss(level, row, target, false)
        }
        Some(cap) => with_scratch(row.len(), |slopes| {
            soft_cap::cap_with_slopes(level, row, slopes, cap);
            let loss = row_loss(level, row, target, true);
            soft_cap::apply_slopes(level, row, slopes);
            loss
        }),
    }
}

/// Token losses `[T]`, zero for tokens without a target. Adds to `dw`, and writes the rows of `dx` that have a target.
fn cross_entropy(
    x: &[f32],
    hidden: usize,
    weight: Weight<'_>,
    targets: &[i32],
    mut dx: Option<&mut [f32]>,
    mut dw: Option<&mut [f32]>,
) -> Vec<f32> {
    let Weight { vocab, soft_cap, .. } = weight;
    let level = Level::best();
    assert_eq!(x.len(), targets.len() * hidden, "one target per token");
    let rows: Vec<usize> = (0..targets.len()).filter(|row| targets[*row] != IGNORED).collect();
    let gradient = dx.is_some() || dw.is_some();
    let mut losses = vec![0.0; targets.len()];
    let held = held_tokens(rows.len(), vocab, false);
    let (mut logits, mut inputs) = (Buffer::dirty(held * vocab), Vec::with_capacity(held * hidden));
    let mut gradients = Buffer::dirty(if dx.is_some() { held * hidden } else { 0 });
    for rows in rows.chunks(held.max(1)) {
        inputs.clear();
        rows.iter().for_each(|row| inputs.extend_from_slice(&x[row * hidden..][..hidden]));
        let logits = &mut logits[..rows.len() * vocab];
        let term = Term { left: Left::rows(&inputs, hidden), right: weight.down, depth: hidden, alpha: 1.0 };
        gemm::parallel(level, &[term], rows.len(), vocab, logits, false);

        let (logits_out, losses_out) = (Shared::new(logits), Shared::new(&mut losses));
        threads::each(rows.len(), |i| {
            let row = rows[i];
            let target = usize::try_from(targets[row]).ok().filter(|target| *target < vocab);
            let target = target.unwrap_or_else(|| panic!("target {} in a vocabulary of {vocab}", targets[row]));
            #[expect(unsafe_code, reason = "tasks write disjoint parts of one buffer")]
            // SAFETY: each row and its loss belong to one task.
            let (logits, loss) = unsafe { (logits_out.part(i * vocab, vocab), losses_out.part(row, 1)) };
            loss[0] = capped_row_loss(level, logits, target, soft_cap, gradient) as f32;
        });

        if let Some(dx) = dx.as_deref_mut() {
            let gradients = &mut gradients[..rows.len() * hidden];
            let term = Term { left: Left::rows(logits, vocab), right: weight.up, depth: vocab, alpha: 1.0 };
            gemm::parallel(level, &[term], rows.len(), hidden, gradients, false);
            for (row, gradient) in rows.iter().zip(gradients.chunks_exact(hidden.max(1))) {
                dx[row * hidden..][..hidden].copy_from_slice(gradient);
            }
        }
        if let Some(dw) = dw.as_deref_mut() {
            let right = Right::Rows { values: &inputs, stride: hidden };
            let term = Term { left: Left::columns(logits, vocab), right, depth: rows.len(), alpha: 1.0 };
            gemm::parallel(level, &[term], vocab, hidden, dw, true);
        }
    }
    losses
}

fn sum(losses: &[f32]) -> f32 {
    losses.iter().map(|loss| f64::from(*loss)).sum::<f64>() as f32
}

impl CrossEntropyOps for Flex {
    fn frozen_cross_entropy(
        x: FloatTensor<Self>,
        head: IntTensor<Self>,
        layout: MatrixLayout,
        soft_cap: Option<f32>,
        targets: Arc<[i32]>,
        gradient: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let x = contiguous(x);
        let (tokens, hidden) = dims(&x);
        assert_eq!(hidden, layout.cols, "input features of the head");
        let stored = layout.view(bytes(&head));
        let (down, up) = (Right::stored_transposed(stored), Right::stored(stored));
        let weight = Weight { down, up, vocab: layout.rows, soft_cap };
        let mut dx = Buffer::zeroed(if gradient { tokens * hidden } else { 0 });
        let losses = cross_entropy(floats(&x), hidden, weight, &targets, gradient.then_some(&mut *dx), None);
        let dx = if gradient { matrix(dx, tokens, hidden) } else { nothing() };
        (vector(vec![sum(&losses)]), vector(losses), dx)
    }

    fn dense_cross_entropy(
        x: FloatTensor<Self>,
        head: FloatTensor<Self>,
        soft_cap: Option<f32>,
        targets: Arc<[i32]>,
        gradient: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let (x, head) = (contiguous(x), contiguous(head));
        let ((tokens, hidden), (vocab, columns)) = (dims(&x), dims(&head));
        assert_eq!(hidden, columns, "input features of the head");
        let values = floats(&head);
        let weight = Weight {
            down: Right::Columns { values, stride: hidden },
            up: Right::Rows { values, stride: hidden },
            vocab,
            soft_cap,
        };
        if !gradient {
            let losses = cross_entropy(floats(&x), hidden, weight, &targets, None, None);
            return (vector(vec![sum(&losses)]), vector(losses), nothing(), nothing());
        }
        let (mut dx, mut dw) = (Buffer::zeroed(tokens * hidden), Buffer::zeroed(vocab * hidden));
        let losses = cross_entropy(floats(&x), hidden, weight, &targets, Some(&mut dx), Some(&mut dw));
        (vector(vec![sum(&losses)]), vector(losses), matrix(dx, tokens, hidden), matrix(dw, vocab, hidden))
    }
}

/// Multiplies a gradient of the sum by the cotangent of the sum. The factor stays f32, so a bf16 result is rounded once.
fn scaled<B: Backend>(gradient: FloatTensor<B>, upstream: FloatTensor<B>) -> FloatTensor<B> {
    use burn::backend::TensorMetadata;
    let upstream = B::float_reshape(upstream, Shape::from([1, 1]));
    match gradient.dtype() {
        DType::F32 => B::float_mul(gradient, upstream),
        narrow => {
            let wide = B::float_mul(B::float_cast(gradient, FloatDType::F32), upstream);
            B::float_cast(wide, narrow.into())
        }
    }
}

impl<B: CrossEntropyOps, C: CheckpointStrategy> CrossEntropyOps for Autodiff<B, C> {
    fn frozen_cross_entropy(
        x: FloatTensor<Self>,
        head: IntTensor<Self>,
        layout: MatrixLayout,
        soft_cap: Option<f32>,
        targets: Arc<[i32]>,
        _: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        #[derive(Debug)]
        struct Step;
        impl<B: CrossEntropyOps> Backward<B, 1> for Step {
            type State = FloatTensor<B>;
            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                unary::<B, _>(ops.parents, ops.node, grads, |upstream| scaled::<B>(ops.state, upstream));
            }
        }
        let tracked = x.is_tracked();
        let (x, node) = x.into_parts();
        let (sum, losses, dx) = B::frozen_cross_entropy(x, head, layout, soft_cap, targets, tracked);
        let sum = match Step.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(dx.clone(), sum),
            OpsKind::UnTracked(prep) => prep.finish(sum),
        };
        (sum, constant::<B, C>(losses), constant::<B, C>(dx))
    }

    fn dense_cross_entropy(
        x: FloatTensor<Self>,
        head: FloatTensor<Self>,
        soft_cap: Option<f32>,
        targets: Arc<[i32]>,
        _: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        #[derive(Debug)]
        struct Step;
        impl<B: CrossEntropyOps> Backward<B, 2> for Step {
            type State = [FloatTensor<B>; 2];
            fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
                let upstream = grads.consume::<B>(&ops.node);
                for (parent, gradient) in ops.parents.into_iter().zip(ops.state) {
                    if let Some(parent) = parent {
                        grads.register::<B>(parent.id, scaled::<B>(gradient, upstream.clone()));
                    }
                }
            }
        }
        let tracked = x.is_tracked() || head.is_tracked();
        let ((x, x_node), (head, head_node)) = (x.into_parts(), head.into_parts());
        let (sum, losses, dx, dw) = B::dense_cross_entropy(x, head, soft_cap, targets, tracked);
        let sum = match Step.prepare::<C>([x_node, head_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish([dx.clone(), dw.clone()], sum),
            OpsKind::UnTracked(prep) => prep.finish(sum),
        };
        (sum, constant::<B, C>(losses), constant::<B, C>(dx), constant::<B, C>(dw))
    }
}

/// The sum of the losses, and the losses.
fn losses(x: Tensor<2>, head: Head, targets: &[i32]) -> (Tensor<1>, Tensor<1>) {
    let (x, targets, cap) = (x.into_dispatch(), Arc::from(targets), head.soft_cap);
    let (sum, losses) = match head.weight {
        HeadWeight::Frozen(head) => {
            let data = head.data().clone().into_dispatch();
            let layout = head.layout();
            let (sum, losses, _) =
                <Dispatch as CrossEntropyOps>::frozen_cross_entropy(x, data, layout, cap, targets, false);
            (sum, losses)
        }
        HeadWeight::Trainable(head) => {
            let head = head.into_dispatch();
            let (sum, losses, _, _) = <Dispatch as CrossEntropyOps>::dense_cross_entropy(x, head, cap, targets, false);
            (sum, losses)
        }
    };
    (Tensor::from_dispatch(sum), Tensor::from_dispatch(losses))
}

/// Sum of the token losses of `softmax(cap(x·Wᵀ))`, `[1]`. `x` is `[T, hidden]`; a target is a row of the head, or
/// [`IGNORED`]. Differentiable in `x` and in a trainable head. The gradients are computed in this call if one of them is
/// tracked.
///
/// # Panics
/// When the shapes don't fit, or a target is neither in the vocabulary nor [`IGNORED`].
#[must_use]
pub fn linear_cross_entropy(x: Tensor<2>, head: Head, targets: &[i32]) -> Tensor<1> {
    losses(x, head, targets).0
}

/// The loss of every token, zero for ignored ones. Not differentiable.
///
/// # Panics
/// As [`linear_cross_entropy`].
#[must_use]
pub fn token_losses(x: Tensor<2>, head: Head, targets: &[i32]) -> Vec<f32> {
    let weight = match head.weight {
        HeadWeight::Trainable(weight) => HeadWeight::Trainable(weight.inner()),
        frozen @ HeadWeight::Frozen(_) => frozen,
    };
    let head = Head { weight, ..head };
    let (_, losses) = losses(x.inner(), head, targets);
    losses.into_data().try_to_vec().unwrap_or_else(|error| unreachable!("losses are f32: {error:?}"))
}

/// `x[T, hidden]` → logits `[T, vocab]`.
///
/// # Panics
/// When the shapes don't fit.
#[must_use]
pub fn logits(x: Tensor<2>, head: &Head) -> Tensor<2> {
    let logits = match &head.weight {
        HeadWeight::Frozen(weight) => linear(x, weight, None),
        HeadWeight::Trainable(weight) => trainable_linear(x, weight.clone(), None),
    };
    match head.soft_cap {
        Some(cap) => soft_cap::soft_cap(logits, cap),
        None => logits,
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::activation::log_softmax;
    use burn::tensor::{Int, TensorData};
    use tonfall_blocks::Format;

    use super::*;
    use crate::testing::{assert_close, device, random, stored, values};

    /// Targets in a vocabulary; every fifth one is ignored.
    fn targets(tokens: usize, vocab: usize) -> Vec<i32> {
        (0..tokens).map(|t| if t % 5 == 3 { IGNORED } else { (t * 31 % vocab) as i32 }).collect()
    }

    fn frozen(matrix: FrozenMatrix) -> Head {
        Head { weight: HeadWeight::Frozen(matrix), soft_cap: None }
    }

    fn trained(weight: &Tensor<2>) -> Head {
        Head { weight: HeadWeight::Trainable(weight.clone()), soft_cap: None }
    }

    fn plain(x: Tensor<2>, w: Tensor<2>, soft_cap: Option<f32>, targets: &[i32]) -> Tensor<1> {
        let tokens = targets.len();
        let mask: Vec<f32> = targets.iter().map(|t| if *t == IGNORED { 0.0 } else { 1.0 }).collect();
        let indices: Vec<i32> = targets.iter().map(|t| (*t).max(0)).collect();
        let indices = Tensor::<2, Int>::from_data(TensorData::new(indices, [tokens, 1]), &device());
        let logits = x.matmul(w.transpose());
        let logits = match soft_cap {
            Some(cap) => logits.div_scalar(cap).tanh().mul_scalar(cap),
            None => logits,
        };
        let losses = log_softmax(logits, 1).gather(1, indices).neg();
        (losses * crate::testing::tensor(mask, [tokens, 1])).sum()
    }

    #[test]
    fn loss_and_gradients_equal_plain_operations() {
        for (tokens, hidden) in [(1, 5), (6, 16), (40, 33), (130, 64)] {
            for (vocab, soft_cap) in
                [1, 2, 17, 100, 1040].into_iter().flat_map(|v| [None, Some(1.5)].map(|cap| (v, cap)))
            {
                let targets = targets(tokens, vocab);
                let x = random([tokens, hidden], 1).require_grad();
                let w = random([vocab, hidden], 2).require_grad();
                let what = format!("{tokens}x{hidden}x{vocab} {soft_cap:?}");
                let got = linear_cross_entropy(x.clone(), Head { soft_cap, ..trained(&w) }, &targets);
                let want = plain(x.clone(), w.clone(), soft_cap, &targets);
                assert_close(&values(&got), &values(&want), 1e-5, &what);
                let (got, want) = (got.mul_scalar(0.3).backward(), want.mul_scalar(0.3).backward());
                for leaf in [&x, &w] {
                    let (got, want) = (leaf.grad(&got).expect("leaf"), leaf.grad(&want).expect("leaf"));
                    assert_close(&values(&got), &values(&want), 2e-5, &what);
                }
            }
        }
    }

    #[test]
    fn heads_stored_in_every_format_equal_dense_heads() {
        for format in Format::ALL {
            let (head, dense) = stored(format, 300, 256, 1);
            let targets = targets(23, 300);
            let x = random([23, 256], 2).mul_scalar(0.1).require_grad();
            let got = linear_cross_entropy(x.clone(), frozen(head.clone()), &targets);
            let want = plain(x.clone(), dense.clone(), None, &targets);
            assert_close(&values(&got), &values(&want), 1e-5, format.name());
            let (got, want) = (got.backward(), want.backward());
            let (got, want) = (x.grad(&got).expect("x"), x.grad(&want).expect("x"));
            assert_close(&values(&got), &values(&want), 3e-5, format.name());
            let same = values(&x.clone().matmul(dense.transpose()));
            assert_close(&values(&logits(x, &frozen(head))), &same, 1e-5, format.name());
        }
    }

    #[test]
    fn token_losses_add_up_to_the_sum_with_and_without_gradients() {
        let (head, _) = stored(Format::Nf4, 500, 64, 1);
        let targets = targets(77, 500);
        let x = random([77, 64], 2).require_grad();
        let losses = token_losses(x.clone(), frozen(head.clone()), &targets);
        assert!(losses.iter().zip(&targets).all(|(loss, target)| (*loss == 0.0) == (*target == IGNORED)));
        let total: f64 = losses.iter().map(|loss| f64::from(*loss)).sum();
        let tracked = values(&linear_cross_entropy(x.clone(), frozen(head.clone()), &targets))[0];
        let untracked = linear_cross_entropy(x.inner(), frozen(head), &targets);
        assert!(!untracked.is_tracked());
        assert_eq!(values(&untracked)[0], tracked);
        assert!((f64::from(tracked) - total).abs() < 1e-3);
    }

    #[test]
    fn logits_and_losses_use_the_same_soft_cap() {
        let (weight, _) = stored(Format::Nf4, 50, 64, 1);
        let head = Head { soft_cap: Some(1.25), ..frozen(weight) };
        let x = random::<2>([9, 64], 2).inner().mul_scalar(3.0);
        let shown = logits(x.clone(), &head);
        assert!(values(&shown).iter().all(|logit| logit.abs() <= 1.25));
        let targets = targets(9, 50);
        let want: Vec<f32> = values(&log_softmax(shown, 1))
            .chunks(50)
            .zip(&targets)
            .map(|(row, target)| usize::try_from(*target).map_or(0.0, |target| -row[target]))
            .collect();
        assert_close(&token_losses(x, head, &targets), &want, 1e-5, "losses");
    }

    #[test]
    fn chunks_do_not_change_the_losses() {
        // More logits than one chunk has.
        let (tokens, hidden, vocab) = (70, 4, HELD_LOGITS / 32);
        let x = random::<2>([tokens, hidden], 1).inner();
        let w = random::<2>([vocab, hidden], 2).inner();
        let targets: Vec<i32> = (0..tokens).map(|t| (t * 7919 % vocab) as i32).collect();
        let together = token_losses(x.clone(), trained(&w), &targets);
        for t in [0, 31, 32, 69] {
            let alone = token_losses(x.clone().narrow(0, t, 1), trained(&w), &targets[t..=t]);
            assert!((alone[0] - together[t]).abs() < 1e-4);
        }
    }

    #[test]
    fn the_gradient_equals_finite_differences() {
        [None, Some(0.8)].into_iter().for_each(finite_differences);
    }

    fn finite_differences(soft_cap: Option<f32>) {
        let (tokens, hidden, vocab) = (3, 4, 9);
        let (x, w) = (crate::testing::numbers(tokens * hidden, 3), crate::testing::numbers(vocab * hidden, 4));
        let targets = [8, IGNORED, 0];
        let loss = |x: &[f64]| -> f64 {
            let token = |t: usize| {
                let product =
                    |v: usize| (0..hidden).map(|c| x[t * hidden + c] * f64::from(w[v * hidden + c])).sum::<f64>();
                let cap = |logit: f64| soft_cap.map(f64::from).map_or(logit, |cap| cap * (logit / cap).tanh());
                let logit = |v: usize| cap(product(v));
                (0..vocab).map(|v| logit(v).exp()).sum::<f64>().ln() - logit(targets[t] as usize)
            };
            (0..tokens).filter(|t| targets[*t] != IGNORED).map(token).sum()
        };
        let weight = Weight {
            down: Right::Columns { values: &w, stride: hidden },
            up: Right::Rows { values: &w, stride: hidden },
            vocab,
            soft_cap,
        };
        let mut dx = vec![0.0; tokens * hidden];
        let losses = cross_entropy(&x, hidden, weight, &targets, Some(&mut dx), None);
        let wide: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
        assert!((f64::from(sum(&losses)) - loss(&wide)).abs() < 1e-5);
        for i in 0..dx.len() {
            let at = |step: f64| {
                let mut x = wide.clone();
                x[i] += step;
                loss(&x)
            };
            let want = (at(1e-5) - at(-1e-5)) / 2e-5;
            assert!((f64::from(dx[i]) - want).abs() < 1e-6, "element {i}: {} for {want}", dx[i]);
        }
    }

    #[test]
    fn without_targets_the_loss_is_zero() {
        let x = random([4, 8], 1).require_grad();
        let (head, _) = stored(Format::F32, 10, 8, 1);
        let loss = linear_cross_entropy(x.clone(), frozen(head), &[IGNORED; 4]);
        assert_eq!(values(&loss), [0.0]);
        assert_eq!(values(&x.grad(&loss.backward()).expect("x")), [0.0; 32]);
    }

    #[test]
    #[should_panic(expected = "target 10 in a vocabulary of 10")]
    fn a_target_outside_the_vocabulary_is_refused() {
        let (head, _) = stored(Format::F32, 10, 8, 1);
        let _ = linear_cross_entropy(random([1, 8], 1), frozen(head), &[10]);
    }
}
