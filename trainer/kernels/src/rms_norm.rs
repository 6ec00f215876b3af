//! RMSNorm over rows or over the heads of a row (Zhang & Sennrich 2019): `y = x / √(mean(x²) + ε) · γ`, as in transformers.
//!
//! The backward pass recomputes the inverse norm, since it reads the row anyway.

use burn::tensor::Tensor;

use crate::buffer::Buffer;
use crate::cpu::level::{Level, fma, multiversion};
use crate::cpu::memory::Shared;
use crate::cpu::reduce::{column_sums_with, sum_of};
use crate::cpu::threads;
use crate::flex::{constant, contiguous, dims, floats, matrix, vector};
use crate::op::{
    Autodiff, Backend, Backward, CheckpointStrategy, Checkpointer, Dispatch, Flex, FloatTensor, Gradients, Ops,
    OpsKind, backend_extension, binary,
};

/// The operations of a backend, over groups of `gamma.len()` elements.
#[backend_extension(Flex, Autodiff, Cube: cfg(feature = "cube"))]
pub(crate) trait RmsNormOps: Backend {
    /// `x[T, groups · n]`, `gamma[n]` → `[T, groups · n]`.
    fn rms_norm(x: FloatTensor<Self>, gamma: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self>;
    /// The gradient of `x`. Not differentiable itself.
    fn rms_norm_input_gradient(
        dy: FloatTensor<Self>,
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self>;
    /// The gradient of `gamma`, `[n]`. Not differentiable itself.
    fn rms_norm_weight_gradient(
        dy: FloatTensor<Self>,
        x: FloatTensor<Self>,
        n: usize,
        epsilon: f64,
    ) -> FloatTensor<Self>;
}

#[inline(always)]
fn inverse_norm<const FMA: bool>(x: &[f32], epsilon: f64) -> f32 {
    let mean = sum_of(x.len(), |i| x[i] * x[i]) / x.len() as f32;
    1.0 / (mean + epsilon as f32).sqrt()
}

multiversion! {
    pub(crate) fn forward(x: &[f32], gamma: &[f32], epsilon: f64, y: &mut [f32]) {
        let n = gamma.len();
        for (x, y) in x.chunks_exact(n).zip(y.chunks_exact_mut(n)) {
            let inverse = inverse_norm::<FMA>(x, epsilon);
            for ((y, x), gamma) in y.iter_mut().zip(x).zip(gamma) {
                *y = gamma * (x * inverse);
            }
        }
    }
}

multiversion! {
    fn input_gradient(dy: &[f32], x: &[f32], gamma: &[f32], epsilon: f64, dx: &mut [f32]) {
        let n = gamma.len();
        for ((dy, x), dx) in dy.chunks_exact(n).zip(x.chunks_exact(n)).zip(dx.chunks_exact_mut(n)) {
            let inverse = inverse_norm::<FMA>(x, epsilon);
            let along = sum_of(n, |i| dy[i] * gamma[i] * x[i]) * inverse * inverse / n as f32;
            for (((dx, dy), x), gamma) in dx.iter_mut().zip(dy).zip(x).zip(gamma) {
                *dx = inverse * fma::<FMA>(-along, *x, dy * gamma);
            }
        }
    }
}

multiversion! {
    fn weight_gradient(dy: &[f32], x: &[f32], epsilon: f64, sums: &mut [f32]) {
        let inverse = inverse_norm::<FMA>(x, epsilon);
        for ((sum, dy), x) in sums.iter_mut().zip(dy).zip(x) {
            *sum = fma::<FMA>(*dy, x * inverse, *sum);
        }
    }
}

/// Splits an output of `len` elements into pieces of whole groups. Calls `compute(first element, piece)` on all threads.
fn by_groups(len: usize, n: usize, compute: impl Fn(usize, &mut [f32]) + Sync + Send) -> Buffer {
    let mut out = Buffer::dirty(len);
    let groups = len / n;
    let shared = Shared::new(&mut out);
    let piece = threads::rows_per_piece(groups, n);
    threads::each(groups.div_ceil(piece), |task| {
        let start = task * piece * n;
        #[expect(unsafe_code, reason = "tasks write disjoint parts of one buffer")]
        // SAFETY: each piece is its own range.
        compute(start, unsafe { shared.part(start, (piece * n).min(len - start)) });
    });
    out
}

impl RmsNormOps for Flex {
    fn rms_norm(x: FloatTensor<Self>, gamma: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self> {
        let (x, gamma) = (contiguous(x), contiguous(gamma));
        let ((tokens, columns), x, gamma) = (dims(&x), floats(&x), floats(&gamma));
        let level = Level::best();
        let y = by_groups(x.len(), gamma.len(), |start, y| forward(level, &x[start..][..y.len()], gamma, epsilon, y));
        matrix(y, tokens, columns)
    }

    fn rms_norm_input_gradient(
        dy: FloatTensor<Self>,
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        let (dy, x, gamma) = (contiguous(dy), contiguous(x), contiguous(gamma));
        let ((tokens, columns), dy, x, gamma) = (dims(&x), floats(&dy), floats(&x), floats(&gamma));
        let level = Level::best();
        let dx = by_groups(x.len(), gamma.len(), |start, dx| {
            input_gradient(level, &dy[start..][..dx.len()], &x[start..][..dx.len()], gamma, epsilon, dx);
        });
        matrix(dx, tokens, columns)
    }

    fn rms_norm_weight_gradient(
        dy: FloatTensor<Self>,
        x: FloatTensor<Self>,
        n: usize,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        let (dy, x) = (contiguous(dy), contiguous(x));
        let (dy, x) = (floats(&dy), floats(&x));
        let level = Level::best();
        vector(column_sums_with(x.len() / n, n, |group, sums| {
            weight_gradient(level, &dy[group * n..][..n], &x[group * n..][..n], epsilon, sums);
        }))
    }
}

impl<B: RmsNormOps, C: CheckpointStrategy> RmsNormOps for Autodiff<B, C> {
    fn rms_norm(x: FloatTensor<Self>, gamma: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step;
        impl<B: RmsNormOps> Backward<B, 2> for Step {
            type State = (FloatTensor<B>, FloatTensor<B>, f64);
            fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
                use burn::backend::TensorMetadata;
                let (x, gamma, epsilon) = ops.state;
                let n = gamma.shape()[0];
                let kept = x.clone();
                binary::<B, _, _>(
                    ops.parents,
                    ops.node,
                    grads,
                    |dy| B::rms_norm_input_gradient(dy, x, gamma, epsilon),
                    |dy| B::rms_norm_weight_gradient(dy, kept, n, epsilon),
                );
            }
        }
        let ((x, x_node), (gamma, gamma_node)) = (x.into_parts(), gamma.into_parts());
        let y = B::rms_norm(x.clone(), gamma.clone(), epsilon);
        match Step.prepare::<C>([x_node, gamma_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((x, gamma, epsilon), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn rms_norm_input_gradient(
        dy: FloatTensor<Self>,
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        let [dy, x, gamma] = [dy, x, gamma].map(|tensor| tensor.into_primitive());
        constant::<B, C>(B::rms_norm_input_gradient(dy, x, gamma, epsilon))
    }

    fn rms_norm_weight_gradient(
        dy: FloatTensor<Self>,
        x: FloatTensor<Self>,
        n: usize,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        constant::<B, C>(B::rms_norm_weight_gradient(dy.into_primitive(), x.into_primitive(), n, epsilon))
    }
}

/// RMSNorm of each row of `x[T, n]` with weight `gamma[n]`. Differentiable in both.
///
/// # Panics
/// When `gamma` and a row differ in length.
#[must_use]
pub fn rms_norm(x: Tensor<2>, gamma: Tensor<1>, epsilon: f64) -> Tensor<2> {
    assert_eq!(x.dims()[1], gamma.dims()[0], "elements of the norm's weight");
    rms_norm_heads(x, gamma, epsilon)
}

/// RMSNorm of each head of `x[T, heads · head_dim]`; all heads share the weight `gamma[head_dim]`. Differentiable in both.
///
/// # Panics
/// When a row is not a whole number of heads.
#[must_use]
pub fn rms_norm_heads(x: Tensor<2>, gamma: Tensor<1>, epsilon: f64) -> Tensor<2> {
    let ([_, columns], [n]) = (x.dims(), gamma.dims());
    assert!(n > 0 && columns.is_multiple_of(n), "rows of {columns} elements are not whole heads of {n}");
    Tensor::from_dispatch(<Dispatch as RmsNormOps>::rms_norm(x.into_dispatch(), gamma.into_dispatch(), epsilon))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, numbers, random, values};

    fn plain(x: Tensor<2>, gamma: Tensor<1>, epsilon: f64) -> Tensor<2> {
        let ([tokens, columns], [n]) = (x.dims(), gamma.dims());
        let x = x.reshape([tokens * columns / n, n]);
        let norm = (x.clone().square().mean_dim(1) + epsilon).sqrt();
        (x / norm * gamma.unsqueeze()).reshape([tokens, columns])
    }

    #[test]
    fn forward_and_gradients_equal_plain_operations() {
        for tokens in [1, 7, 65, 200] {
            for (heads, n) in [(1, 1), (1, 17), (3, 64), (9, 16), (1, 576), (2, 33)] {
                let x = random([tokens, heads * n], 1).require_grad();
                let gamma = random([n], 2).require_grad();
                let dy = random::<2>([tokens, heads * n], 3);
                let got = rms_norm_heads(x.clone(), gamma.clone(), 1e-5);
                let want = plain(x.clone(), gamma.clone(), 1e-5);
                let what = format!("{tokens}x{heads}x{n}");
                assert_close(&values(&got), &values(&want), 1e-5, &what);
                let (got, want) = ((got * dy.clone()).sum().backward(), (want * dy).sum().backward());
                assert_close(&values(&x.grad(&got).expect("x")), &values(&x.grad(&want).expect("x")), 3e-5, &what);
                let (got, want) = (gamma.grad(&got).expect("gamma"), gamma.grad(&want).expect("gamma"));
                assert_close(&values(&got), &values(&want), 3e-5, &what);
            }
        }
    }

    #[test]
    fn the_input_gradient_equals_finite_differences() {
        let n = 24;
        let (x, gamma, dy) = (numbers(n, 4), numbers(n, 5), numbers(n, 6));
        let loss = |x: &[f64]| -> f64 {
            let inverse = 1.0 / (x.iter().map(|x| x * x).sum::<f64>() / n as f64 + 1e-6).sqrt();
            (0..n).map(|i| x[i] * inverse * f64::from(gamma[i]) * f64::from(dy[i])).sum()
        };
        for level in Level::available() {
            let mut dx = vec![0.0; n];
            input_gradient(level, &dy, &x, &gamma, 1e-6, &mut dx);
            for i in 0..n {
                let at = |step: f64| {
                    let mut x: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
                    x[i] += step;
                    loss(&x)
                };
                let want = (at(1e-5) - at(-1e-5)) / 2e-5;
                assert!((f64::from(dx[i]) - want).abs() < 1e-5, "{level:?} {i}: {} for {want}", dx[i]);
            }
        }
    }

    #[test]
    #[should_panic(expected = "not whole heads")]
    fn rows_with_a_partial_head_are_refused() {
        let _ = rms_norm_heads(random([2, 10], 1), random([4], 1), 1e-5);
    }
}
