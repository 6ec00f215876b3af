//! A linear layer with a frozen weight: `y = x·Wᵀ + b`.
//!
//! Responsible for: forward and backward matrix products with a stored matrix. Must not depend on: adapters.

use burn::tensor::Tensor;

use crate::bias::add_bias;
use crate::buffer::Buffer;
use crate::cpu::gemm::Term;
use crate::cpu::level::Level;
use crate::cpu::pack::{Left, Right};
use crate::cpu::{gemm, gemv};
use crate::flex::{bytes, constant, contiguous, dims, floats, matrix};
use crate::frozen::{FrozenMatrix, MatrixLayout};
use crate::op::{
    Autodiff, Backend, Backward, CheckpointStrategy, Checkpointer, Dispatch, Flex, FloatTensor, Gradients, IntTensor,
    Ops, OpsKind, backend_extension, unary,
};

/// The operations of a backend.
#[backend_extension(Flex, Autodiff, Cube: cfg(feature = "cube"))]
pub(crate) trait LinearOps: Backend {
    /// `x[T, cols]` → `x·Wᵀ`, `[T, rows]`.
    fn frozen_linear(x: FloatTensor<Self>, weight: IntTensor<Self>, layout: MatrixLayout) -> FloatTensor<Self>;
    /// `dy[T, rows]` → `dy·W`, `[T, cols]`. Not differentiable itself.
    fn frozen_linear_backward(
        dy: FloatTensor<Self>,
        weight: IntTensor<Self>,
        layout: MatrixLayout,
    ) -> FloatTensor<Self>;
}

impl LinearOps for Flex {
    fn frozen_linear(x: FloatTensor<Self>, weight: IntTensor<Self>, layout: MatrixLayout) -> FloatTensor<Self> {
        let x = contiguous(x);
        let (tokens, features) = dims(&x);
        assert_eq!(features, layout.cols, "input features of the weight");
        let mut y = Buffer::dirty(tokens * layout.rows);
        let (level, stored) = (Level::best(), layout.view(bytes(&weight)));
        if tokens <= gemv::MAX_ROWS {
            gemv::product(level, floats(&x), tokens, stored, &mut y);
        } else {
            let right = Right::stored_transposed(stored);
            let term = Term { left: Left::rows(floats(&x), features), right, depth: features, alpha: 1.0 };
            gemm::parallel(level, &[term], tokens, layout.rows, &mut y, false);
        }
        matrix(y, tokens, layout.rows)
    }

    fn frozen_linear_backward(
        dy: FloatTensor<Self>,
        weight: IntTensor<Self>,
        layout: MatrixLayout,
    ) -> FloatTensor<Self> {
        let dy = contiguous(dy);
        let (tokens, features) = dims(&dy);
        assert_eq!(features, layout.rows, "output features of the weight");
        let mut dx = Buffer::dirty(tokens * layout.cols);
        let right = Right::stored(layout.view(bytes(&weight)));
        let term = Term { left: Left::rows(floats(&dy), features), right, depth: features, alpha: 1.0 };
        gemm::parallel(Level::best(), &[term], tokens, layout.cols, &mut dx, false);
        matrix(dx, tokens, layout.cols)
    }
}

impl<B: LinearOps, C: CheckpointStrategy> LinearOps for Autodiff<B, C> {
    fn frozen_linear(x: FloatTensor<Self>, weight: IntTensor<Self>, layout: MatrixLayout) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step;
        impl<B: LinearOps> Backward<B, 1> for Step {
            type State = (IntTensor<B>, MatrixLayout);
            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let (weight, layout) = ops.state;
                unary::<B, _>(ops.parents, ops.node, grads, |dy| B::frozen_linear_backward(dy, weight, layout));
            }
        }
        let (x, node) = x.into_parts();
        let y = B::frozen_linear(x, weight.clone(), layout);
        match Step.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((weight, layout), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn frozen_linear_backward(
        dy: FloatTensor<Self>,
        weight: IntTensor<Self>,
        layout: MatrixLayout,
    ) -> FloatTensor<Self> {
        constant::<B, C>(B::frozen_linear_backward(dy.into_primitive(), weight, layout))
    }
}

/// `x[T, in]` → `x·Wᵀ (+ bias)`, `[T, out]`. Differentiable in `x` and `bias`. On the CPU no dense copy of the weight is made.
///
/// # Panics
/// When the shapes don't fit.
#[must_use]
pub fn linear(x: Tensor<2>, weight: &FrozenMatrix, bias: Option<Tensor<1>>) -> Tensor<2> {
    let data = weight.data().clone().into_dispatch();
    let y = Tensor::from_dispatch(<Dispatch as LinearOps>::frozen_linear(x.into_dispatch(), data, weight.layout()));
    match bias {
        Some(bias) => add_bias(y, bias),
        None => y,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, random, stored, values};
    use tonfall_blocks::Format;

    #[test]
    fn forward_and_backward_equal_dense_products_in_every_format() {
        for format in Format::ALL {
            let cols = [64, 100, 256, 33, 512, 7, 192, 768, 1024]
                .into_iter()
                .filter(|c| c % format.block_len() == 0 || format.is_dense() || format == Format::Nf4);
            for cols in cols {
                for (tokens, rows) in [(1, 9), (4, 33), (5, 64), (37, 70), (130, 17)] {
                    let (weight, dense) = stored(format, rows, cols, 1);
                    let x = random([tokens, cols], 2).require_grad();
                    let bias = random::<1>([rows], 3).require_grad();
                    let dy = random::<2>([tokens, rows], 4);
                    let loss = |y: Tensor<2>| (y * dy.clone()).sum().backward();
                    let y = linear(x.clone(), &weight, Some(bias.clone()));
                    let want = x.clone().matmul(dense.transpose()) + bias.clone().unsqueeze();
                    let what = format!("{format} {tokens}x{rows}x{cols}");
                    assert_close(&values(&y), &values(&want), 1e-5, &what);
                    let (got, want) = (loss(y), loss(want));
                    for (got, want) in [
                        (values(&x.grad(&got).expect("x")), values(&x.grad(&want).expect("x"))),
                        (values(&bias.grad(&got).expect("bias")), values(&bias.grad(&want).expect("bias"))),
                    ] {
                        assert_close(&got, &want, 1e-5, &what);
                    }
                    let plain = linear(x.inner(), &weight, None);
                    assert!(!plain.is_tracked());
                }
            }
        }
    }

    #[test]
    fn a_strided_view_as_input_is_read_correctly() {
        let (weight, dense) = stored(Format::F32, 20, 30, 5);
        let x = random::<2>([12, 40], 6).inner();
        let view = x.clone().narrow(1, 5, 30).narrow(0, 3, 6);
        let want = x.narrow(1, 5, 30).narrow(0, 3, 6).matmul(dense.inner().transpose());
        assert_close(&values(&linear(view, &weight, None)), &values(&want), 1e-5, "view");
    }
}
