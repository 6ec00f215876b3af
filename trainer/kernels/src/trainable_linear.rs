//! A linear layer whose weight is trained: `y = x·Wᵀ + b`.

use burn::tensor::Tensor;

use crate::bias::add_bias;
use crate::buffer::Buffer;
use crate::cpu::gemm::{self, Term};
use crate::cpu::level::Level;
use crate::cpu::pack::{Left, Right};
use crate::flex::{constant, contiguous, dims, floats, matrix};
use crate::op::{
    Autodiff, Backend, Backward, CheckpointStrategy, Checkpointer, Dispatch, Flex, FloatTensor, Gradients, Ops,
    OpsKind, backend_extension, binary,
};

/// The operations of a backend.
#[backend_extension(Flex, Autodiff, Cube: cfg(feature = "cube"))]
pub(crate) trait TrainableLinearOps: Backend {
    /// `x[T, in]`, `w[out, in]` → `x·Wᵀ`, `[T, out]`.
    fn dense_linear(x: FloatTensor<Self>, w: FloatTensor<Self>) -> FloatTensor<Self>;
    /// `dy[T, out]`, `w[out, in]` → `dy·W`, `[T, in]`. Not differentiable itself.
    fn dense_linear_input_gradient(dy: FloatTensor<Self>, w: FloatTensor<Self>) -> FloatTensor<Self>;
    /// `dy[T, out]`, `x[T, in]` → `dyᵀ·x`, `[out, in]`. Not differentiable itself.
    fn dense_linear_weight_gradient(dy: FloatTensor<Self>, x: FloatTensor<Self>) -> FloatTensor<Self>;
}

fn product(left: Left<'_>, right: Right<'_>, (rows, columns, depth): (usize, usize, usize)) -> Buffer {
    let mut out = Buffer::dirty(rows * columns);
    let term = Term { left, right, depth, alpha: 1.0 };
    gemm::parallel(Level::best(), &[term], rows, columns, &mut out, false);
    out
}

impl TrainableLinearOps for Flex {
    fn dense_linear(x: FloatTensor<Self>, w: FloatTensor<Self>) -> FloatTensor<Self> {
        let (x, w) = (contiguous(x), contiguous(w));
        let ((tokens, input), (output, columns)) = (dims(&x), dims(&w));
        assert_eq!(input, columns, "input features of the weight");
        let right = Right::Columns { values: floats(&w), stride: input };
        matrix(product(Left::rows(floats(&x), input), right, (tokens, output, input)), tokens, output)
    }

    fn dense_linear_input_gradient(dy: FloatTensor<Self>, w: FloatTensor<Self>) -> FloatTensor<Self> {
        let (dy, w) = (contiguous(dy), contiguous(w));
        let ((tokens, output), (_, input)) = (dims(&dy), dims(&w));
        let right = Right::Rows { values: floats(&w), stride: input };
        matrix(product(Left::rows(floats(&dy), output), right, (tokens, input, output)), tokens, input)
    }

    fn dense_linear_weight_gradient(dy: FloatTensor<Self>, x: FloatTensor<Self>) -> FloatTensor<Self> {
        let (dy, x) = (contiguous(dy), contiguous(x));
        let ((tokens, output), (_, input)) = (dims(&dy), dims(&x));
        let right = Right::Rows { values: floats(&x), stride: input };
        matrix(product(Left::columns(floats(&dy), output), right, (output, input, tokens)), output, input)
    }
}

impl<B: TrainableLinearOps, C: CheckpointStrategy> TrainableLinearOps for Autodiff<B, C> {
    fn dense_linear(x: FloatTensor<Self>, w: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step;
        impl<B: TrainableLinearOps> Backward<B, 2> for Step {
            type State = (FloatTensor<B>, FloatTensor<B>);
            fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
                let (x, w) = ops.state;
                binary::<B, _, _>(
                    ops.parents,
                    ops.node,
                    grads,
                    |dy| B::dense_linear_input_gradient(dy, w),
                    |dy| B::dense_linear_weight_gradient(dy, x),
                );
            }
        }
        let ((x, x_node), (w, w_node)) = (x.into_parts(), w.into_parts());
        let y = B::dense_linear(x.clone(), w.clone());
        match Step.prepare::<C>([x_node, w_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((x, w), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn dense_linear_input_gradient(dy: FloatTensor<Self>, w: FloatTensor<Self>) -> FloatTensor<Self> {
        constant::<B, C>(B::dense_linear_input_gradient(dy.into_primitive(), w.into_primitive()))
    }

    fn dense_linear_weight_gradient(dy: FloatTensor<Self>, x: FloatTensor<Self>) -> FloatTensor<Self> {
        constant::<B, C>(B::dense_linear_weight_gradient(dy.into_primitive(), x.into_primitive()))
    }
}

/// `x[T, in]`, `w[out, in]` → `x·Wᵀ (+ bias)`, `[T, out]`. Differentiable in all three.
///
/// # Panics
/// When the shapes don't fit.
#[must_use]
pub fn trainable_linear(x: Tensor<2>, w: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
    let y = <Dispatch as TrainableLinearOps>::dense_linear(x.into_dispatch(), w.into_dispatch());
    let y = Tensor::from_dispatch(y);
    match bias {
        Some(bias) => add_bias(y, bias),
        None => y,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, random, values};

    #[test]
    fn forward_and_gradients_equal_plain_operations() {
        for tokens in [1, 3, 40, 129] {
            for (input, output) in [(1, 1), (16, 33), (65, 64), (100, 7), (48, 200), (130, 130)] {
                let x = random([tokens, input], 1).require_grad();
                let w = random([output, input], 2).require_grad();
                let bias = random::<1>([output], 3).require_grad();
                let dy = random::<2>([tokens, output], 4);
                let got = trainable_linear(x.clone(), w.clone(), Some(bias.clone()));
                let want = x.clone().matmul(w.clone().transpose()) + bias.clone().unsqueeze();
                let what = format!("{tokens}x{output}x{input}");
                assert_close(&values(&got), &values(&want), 1e-5, &what);
                let (got, want) = ((got * dy.clone()).sum().backward(), (want * dy).sum().backward());
                for leaf in [&x, &w] {
                    let (got, want) = (leaf.grad(&got).expect("leaf"), leaf.grad(&want).expect("leaf"));
                    assert_close(&values(&got), &values(&want), 1e-5, &what);
                }
                let (got, want) = (bias.grad(&got).expect("bias"), bias.grad(&want).expect("bias"));
                assert_close(&values(&got), &values(&want), 1e-5, &what);
            }
        }
    }
}
