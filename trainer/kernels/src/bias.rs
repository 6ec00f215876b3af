//! Adds a bias to every row of a matrix.

use burn::tensor::Tensor;

use crate::cpu::memory::Shared;
use crate::cpu::{reduce, threads};
use crate::flex::{constant, contiguous, dims, floats, owned, vector};
use crate::op::{
    Autodiff, Backend, Backward, CheckpointStrategy, Checkpointer, Dispatch, Flex, FloatTensor, Gradients, Ops,
    OpsKind, backend_extension, binary,
};

/// The operation of a backend.
#[backend_extension(Flex, Autodiff, Cube: cfg(feature = "cube"))]
pub(crate) trait BiasOps: Backend {
    /// `x[T, n]`, `bias[n]` → `[T, n]`.
    fn row_bias(x: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self>;
    /// `dy[T, n]` → the sum of its rows, `[n]`. Not differentiable itself.
    fn row_bias_backward(dy: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl BiasOps for Flex {
    fn row_bias(x: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self> {
        let bias = contiguous(bias);
        let ((rows, columns), bias) = (dims(&x), floats(&bias));
        assert_eq!(columns, bias.len(), "elements of the bias");
        let mut y = owned(x);
        let out = Shared::new(y.storage_mut::<f32>());
        let piece = threads::rows_per_piece(rows, columns);
        threads::each(rows.div_ceil(piece), |task| {
            for row in task * piece..rows.min((task + 1) * piece) {
                #[expect(unsafe_code, reason = "tasks write disjoint parts of one buffer")]
                // SAFETY: each row belongs to one task.
                let row = unsafe { out.part(row * columns, columns) };
                row.iter_mut().zip(bias).for_each(|(value, bias)| *value += bias);
            }
        });
        y
    }

    fn row_bias_backward(dy: FloatTensor<Self>) -> FloatTensor<Self> {
        let dy = contiguous(dy);
        let (rows, columns) = dims(&dy);
        vector(reduce::column_sums(floats(&dy), rows, columns))
    }
}

impl<B: BiasOps, C: CheckpointStrategy> BiasOps for Autodiff<B, C> {
    fn row_bias(x: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step;
        impl<B: BiasOps> Backward<B, 2> for Step {
            type State = ();
            fn backward(self, ops: Ops<(), 2>, grads: &mut Gradients, _: &mut Checkpointer) {
                binary::<B, _, _>(ops.parents, ops.node, grads, |dy| dy, |dy| B::row_bias_backward(dy));
            }
        }
        let ((x, x_node), (bias, bias_node)) = (x.into_parts(), bias.into_parts());
        let y = B::row_bias(x, bias);
        match Step.prepare::<C>([x_node, bias_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn row_bias_backward(dy: FloatTensor<Self>) -> FloatTensor<Self> {
        constant::<B, C>(B::row_bias_backward(dy.into_primitive()))
    }
}

/// Adds `bias[n]` to every row of `x[T, n]`. Differentiable in both.
pub(crate) fn add_bias(x: Tensor<2>, bias: Tensor<1>) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as BiasOps>::row_bias(x.into_dispatch(), bias.into_dispatch()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{SHAPES, assert_close, random, values};

    #[test]
    fn forward_and_gradients_equal_plain_operations() {
        for (rows, columns) in SHAPES {
            let x = random::<2>([rows, columns], 1).require_grad();
            let bias = random::<1>([columns], 2).require_grad();
            let dy = random::<2>([rows, columns], 3);
            let (got, want) = (add_bias(x.clone(), bias.clone()), x.clone() + bias.clone().unsqueeze());
            assert_eq!(values(&got), values(&want));
            let (got, want) = ((got * dy.clone()).sum().backward(), (want * dy).sum().backward());
            assert_eq!(values(&x.grad(&got).expect("x")), values(&x.grad(&want).expect("x")));
            let (got, want) = (bias.grad(&got).expect("bias"), bias.grad(&want).expect("bias"));
            assert_close(&values(&got), &values(&want), 1e-6, &format!("{rows}x{columns}"));
        }
    }
}
