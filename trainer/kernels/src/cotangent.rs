//! Starts a backward pass from a known cotangent.
//!
//! Responsible for: feeding a gradient that was computed elsewhere into the autodiff graph of a tensor.

use burn::tensor::Tensor;

use crate::flex::vector;
use crate::op::{
    Autodiff, Backend, Backward, CheckpointStrategy, Checkpointer, Dispatch, Flex, FloatTensor, Gradients, Ops,
    OpsKind, backend_extension, unary,
};

/// The operation of a backend.
#[backend_extension(Flex, Autodiff, Cube: cfg(feature = "cube"))]
pub(crate) trait CotangentOps: Backend {
    /// A zero `[1]` whose gradient with respect to `y` is `gradient`, shaped like `y`.
    fn with_cotangent(y: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl CotangentOps for Flex {
    fn with_cotangent(_: FloatTensor<Self>, _: FloatTensor<Self>) -> FloatTensor<Self> {
        vector(vec![0.0])
    }
}

impl<B: CotangentOps, C: CheckpointStrategy> CotangentOps for Autodiff<B, C> {
    fn with_cotangent(y: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step;
        impl<B: CotangentOps> Backward<B, 1> for Step {
            type State = FloatTensor<B>;
            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                unary::<B, _>(ops.parents, ops.node, grads, |_| ops.state);
            }
        }
        let (y, node) = y.into_parts();
        let gradient = gradient.into_primitive();
        let zero = B::with_cotangent(y, gradient.clone());
        match Step.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(gradient, zero),
            OpsKind::UnTracked(prep) => prep.finish(zero),
        }
    }
}

/// A zero `[1]`. Its `backward()` starts with `gradient` as the cotangent of `y`; both have the same shape.
///
/// # Panics
/// When the shapes differ.
#[must_use]
pub fn with_cotangent(y: Tensor<2>, gradient: Tensor<2>) -> Tensor<1> {
    assert_eq!(y.dims(), gradient.dims(), "a cotangent has the shape of its tensor");
    Tensor::from_dispatch(<Dispatch as CotangentOps>::with_cotangent(y.into_dispatch(), gradient.into_dispatch()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{SHAPES, random, values};

    #[test]
    fn the_cotangent_is_passed_on_unchanged() {
        for shape in SHAPES.map(|(rows, columns)| [rows, columns]) {
            let (x, gradient) = (random::<2>(shape, 1).require_grad(), random::<2>(shape, 2).inner());
            let zero = with_cotangent(x.clone() * 2.0, gradient.clone());
            assert_eq!(values(&zero), [0.0]);
            let want: Vec<f32> = values(&gradient).iter().map(|value| value * 2.0).collect();
            assert_eq!(values(&x.grad(&zero.backward()).expect("x")), want);
        }
    }

    #[test]
    #[should_panic(expected = "the shape of its tensor")]
    fn a_cotangent_of_another_shape_is_refused() {
        let _ = with_cotangent(random([2, 3], 1), random([3, 2], 1));
    }
}
