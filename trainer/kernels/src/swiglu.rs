//! `y = silu(gate) · up` (Shazeer 2020), the middle of a gated MLP.

use burn::tensor::Tensor;

use crate::buffer::Buffer;
use crate::cpu::elementary::sigmoid;
use crate::cpu::level::{Level, fma, multiversion};
use crate::cpu::memory::Shared;
use crate::cpu::threads;
use crate::flex::{constant, contiguous, dims, floats, matrix};
use crate::op::{
    Autodiff, Backend, Backward, CheckpointStrategy, Checkpointer, Dispatch, Flex, FloatTensor, Gradients, Ops,
    OpsKind, backend_extension,
};

/// The gated activation.
#[backend_extension(Flex, Autodiff, Cube: cfg(feature = "cube"))]
pub(crate) trait SwigluOps: Backend {
    /// `gate[T, n]`, `up[T, n]` → `[T, n]`.
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self>;
    /// The gradients of `gate` and `up`. Have no gradients of their own.
    fn swiglu_backward(
        dy: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

multiversion! {
    fn forward(gate: &[f32], up: &[f32], y: &mut [f32]) {
        for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
            *y = gate * sigmoid::<FMA>(*gate) * up;
        }
    }
}

multiversion! {
    fn backward(dy: &[f32], gate: &[f32], up: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
        for ((((dy, gate), up), dgate), dup) in dy.iter().zip(gate).zip(up).zip(dgate).zip(dup) {
            let s = sigmoid::<FMA>(*gate);
            *dup = dy * (gate * s);
            *dgate = dy * up * s * fma::<FMA>(*gate, 1.0 - s, 1.0);
        }
    }
}

/// Elements in a task: enough to be worth one, few enough to stay in the cache.
const PIECE: usize = 32 * 1024;

impl SwigluOps for Flex {
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        let (gate, up) = (contiguous(gate), contiguous(up));
        let ((tokens, columns), gate, up) = (dims(&gate), floats(&gate), floats(&up));
        let level = Level::best();
        let mut y = Buffer::dirty(gate.len());
        let out = Shared::new(&mut y);
        threads::each(gate.len().div_ceil(PIECE), |piece| {
            let range = piece * PIECE..gate.len().min((piece + 1) * PIECE);
            #[expect(unsafe_code, reason = "tasks write disjoint parts of one buffer")]
            // SAFETY: each piece is its own range.
            let y = unsafe { out.part(range.start, range.len()) };
            forward(level, &gate[range.clone()], &up[range], y);
        });
        matrix(y, tokens, columns)
    }

    fn swiglu_backward(
        dy: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (dy, gate, up) = (contiguous(dy), contiguous(gate), contiguous(up));
        let ((tokens, columns), dy, gate, up) = (dims(&gate), floats(&dy), floats(&gate), floats(&up));
        let level = Level::best();
        let (mut dgate, mut dup) = (Buffer::dirty(gate.len()), Buffer::dirty(gate.len()));
        let (dgate_out, dup_out) = (Shared::new(&mut dgate), Shared::new(&mut dup));
        threads::each(gate.len().div_ceil(PIECE), |piece| {
            let range = piece * PIECE..gate.len().min((piece + 1) * PIECE);
            #[expect(unsafe_code, reason = "tasks write disjoint parts of one buffer")]
            // SAFETY: each piece is its own range.
            let (dgate, dup) =
                unsafe { (dgate_out.part(range.start, range.len()), dup_out.part(range.start, range.len())) };
            backward(level, &dy[range.clone()], &gate[range.clone()], &up[range], dgate, dup);
        });
        (matrix(dgate, tokens, columns), matrix(dup, tokens, columns))
    }
}

impl<B: SwigluOps, C: CheckpointStrategy> SwigluOps for Autodiff<B, C> {
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step;
        impl<B: SwigluOps> Backward<B, 2> for Step {
            type State = (FloatTensor<B>, FloatTensor<B>);
            fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
                let (gate, up) = ops.state;
                let dy = grads.consume::<B>(&ops.node);
                let (dgate, dup) = B::swiglu_backward(dy, gate, up);
                for (parent, gradient) in ops.parents.into_iter().zip([dgate, dup]) {
                    if let Some(parent) = parent {
                        grads.register::<B>(parent.id, gradient);
                    }
                }
            }
        }
        let ((gate, gate_node), (up, up_node)) = (gate.into_parts(), up.into_parts());
        let y = B::swiglu(gate.clone(), up.clone());
        match Step.prepare::<C>([gate_node, up_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((gate, up), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn swiglu_backward(
        dy: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (dgate, dup) = B::swiglu_backward(dy.into_primitive(), gate.into_primitive(), up.into_primitive());
        (constant::<B, C>(dgate), constant::<B, C>(dup))
    }
}

/// `gate[T, n]`, `up[T, n]` → `silu(gate) · up`, `[T, n]`. Gradients for both.
///
/// # Panics
/// When the shapes differ.
#[must_use]
pub fn swiglu(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    assert_eq!(gate.dims(), up.dims(), "gate and up have one shape");
    Tensor::from_dispatch(<Dispatch as SwigluOps>::swiglu(gate.into_dispatch(), up.into_dispatch()))
}

#[cfg(test)]
mod tests {
    use burn::tensor::activation::silu;

    use super::*;
    use crate::testing::{assert_close, random, values};

    #[test]
    fn forward_and_gradients_equal_plain_operations() {
        for tokens in [1, 3, 64, 129] {
            for columns in [1, 15, 16, 64, 1536] {
                let gate = random([tokens, columns], 1).mul_scalar(9.0).require_grad();
                let up = random([tokens, columns], 2).require_grad();
                let dy = random::<2>([tokens, columns], 3);
                let got = swiglu(gate.clone(), up.clone());
                let want = silu(gate.clone()) * up.clone();
                assert_close(&values(&got), &values(&want), 1e-6, "forward");
                let (got, want) = ((got * dy.clone()).sum().backward(), (want * dy).sum().backward());
                for leaf in [&gate, &up] {
                    let (got, want) = (leaf.grad(&got).expect("leaf"), leaf.grad(&want).expect("leaf"));
                    assert_close(&values(&got), &values(&want), 2e-6, "gradient");
                }
            }
        }
    }

    #[test]
    fn extreme_gates_are_finite_and_every_level_agrees() {
        let gate = [-1e30, -100.0, -88.0, -1.0, 0.0, 1.0, 88.0, 100.0, 1e30];
        for level in Level::available() {
            let mut y = [0.0; 9];
            forward(level, &gate, &[1.0; 9], &mut y);
            assert!(y.iter().all(|y| y.is_finite()), "{level:?} {y:?}");
            assert_eq!(y[8], 1e30);
            assert!((y[5] - 0.731_058_6).abs() < 1e-6 && y[0].abs() < 1e-30);
        }
    }
}
