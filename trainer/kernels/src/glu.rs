//! SwiGLU and GeGLU (Shazeer 2020): `y = act(gate) · up`, the activation of a gated MLP.

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

/// An activation of the form `act(x) = x · σ(z(x))`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `z(x) = x` (Elfwing et al. 2017).
    Silu,
    /// The tanh approximation of GELU (Hendrycks & Gimpel 2016), PyTorch's `gelu(approximate="tanh")`:
    /// `z(x) = x · (LINEAR + CUBIC · x²)`, since `(1 + tanh(z / 2)) / 2 = σ(z)`.
    GeluTanh,
}

/// `2 · √(2 / π)`
pub(crate) const LINEAR: f32 = 1.595_769_2;
/// `0.044715 · LINEAR`
pub(crate) const CUBIC: f32 = 0.071_354_814;
/// For larger `|x|` the sigmoid of GELU is 0 or 1 in f32, so the derivative of `z`, which may overflow, doesn't matter.
pub(crate) const SATURATED: f32 = 12.0;

/// The operation of a backend.
#[backend_extension(Flex, Autodiff, Cube: cfg(feature = "cube"))]
pub(crate) trait GluOps: Backend {
    /// `gate[T, n]`, `up[T, n]` → `[T, n]`.
    fn glu(gate: FloatTensor<Self>, up: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self>;
    /// The gradients of `gate` and `up`. Not differentiable itself.
    fn glu_backward(
        dy: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        activation: Activation,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

/// `z` and its derivative. A type per activation, so that loops have no branch.
trait GatedActivation {
    fn z<const FMA: bool>(x: f32) -> f32;
    fn slope<const FMA: bool>(x: f32) -> f32;
}

struct Silu;
struct GeluTanh;

impl GatedActivation for Silu {
    #[inline(always)]
    fn z<const FMA: bool>(x: f32) -> f32 {
        x
    }
    #[inline(always)]
    fn slope<const FMA: bool>(_: f32) -> f32 {
        1.0
    }
}

impl GatedActivation for GeluTanh {
    #[inline(always)]
    fn z<const FMA: bool>(x: f32) -> f32 {
        x * fma::<FMA>(x * x, CUBIC, LINEAR)
    }
    #[inline(always)]
    fn slope<const FMA: bool>(x: f32) -> f32 {
        let x = x.clamp(-SATURATED, SATURATED);
        fma::<FMA>(x * x, 3.0 * CUBIC, LINEAR)
    }
}

#[inline(always)]
fn rows<A: GatedActivation, const FMA: bool>(gate: &[f32], up: &[f32], y: &mut [f32]) {
    for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
        *y = gate * sigmoid::<FMA>(A::z::<FMA>(*gate)) * up;
    }
}

#[inline(always)]
fn gradients<A: GatedActivation, const FMA: bool>(
    dy: &[f32],
    gate: &[f32],
    up: &[f32],
    dgate: &mut [f32],
    dup: &mut [f32],
) {
    for ((((dy, gate), up), dgate), dup) in dy.iter().zip(gate).zip(up).zip(dgate).zip(dup) {
        let s = sigmoid::<FMA>(A::z::<FMA>(*gate));
        *dup = dy * (gate * s);
        *dgate = dy * up * s * fma::<FMA>(gate * A::slope::<FMA>(*gate), 1.0 - s, 1.0);
    }
}

multiversion! {
    pub(crate) fn forward(activation: Activation, gate: &[f32], up: &[f32], y: &mut [f32]) {
        match activation {
            Activation::Silu => rows::<Silu, FMA>(gate, up, y),
            Activation::GeluTanh => rows::<GeluTanh, FMA>(gate, up, y),
        }
    }
}

multiversion! {
    fn backward(activation: Activation, dy: &[f32], gate: &[f32], up: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
        match activation {
            Activation::Silu => gradients::<Silu, FMA>(dy, gate, up, dgate, dup),
            Activation::GeluTanh => gradients::<GeluTanh, FMA>(dy, gate, up, dgate, dup),
        }
    }
}

/// Elements per task: enough to pay for its dispatch, few enough to stay in the cache.
const PIECE: usize = 32 * 1024;

impl GluOps for Flex {
    fn glu(gate: FloatTensor<Self>, up: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
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
            forward(level, activation, &gate[range.clone()], &up[range], y);
        });
        matrix(y, tokens, columns)
    }

    fn glu_backward(
        dy: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        activation: Activation,
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
            backward(level, activation, &dy[range.clone()], &gate[range.clone()], &up[range], dgate, dup);
        });
        (matrix(dgate, tokens, columns), matrix(dup, tokens, columns))
    }
}

impl<B: GluOps, C: CheckpointStrategy> GluOps for Autodiff<B, C> {
    fn glu(gate: FloatTensor<Self>, up: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step;
        impl<B: GluOps> Backward<B, 2> for Step {
            type State = (FloatTensor<B>, FloatTensor<B>, Activation);
            fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
                let (gate, up, activation) = ops.state;
                let dy = grads.consume::<B>(&ops.node);
                let (dgate, dup) = B::glu_backward(dy, gate, up, activation);
                for (parent, gradient) in ops.parents.into_iter().zip([dgate, dup]) {
                    if let Some(parent) = parent {
                        grads.register::<B>(parent.id, gradient);
                    }
                }
            }
        }
        let ((gate, gate_node), (up, up_node)) = (gate.into_parts(), up.into_parts());
        let y = B::glu(gate.clone(), up.clone(), activation);
        match Step.prepare::<C>([gate_node, up_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((gate, up, activation), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn glu_backward(
        dy: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        activation: Activation,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let [dy, gate, up] = [dy, gate, up].map(|tensor| tensor.into_primitive());
        let (dgate, dup) = B::glu_backward(dy, gate, up, activation);
        (constant::<B, C>(dgate), constant::<B, C>(dup))
    }
}

/// `gate[T, n]`, `up[T, n]` → `act(gate) · up`, `[T, n]`. Differentiable in both.
///
/// # Panics
/// When the shapes differ.
#[must_use]
pub fn glu(gate: Tensor<2>, up: Tensor<2>, activation: Activation) -> Tensor<2> {
    assert_eq!(gate.dims(), up.dims(), "gate and up have the same shape");
    Tensor::from_dispatch(<Dispatch as GluOps>::glu(gate.into_dispatch(), up.into_dispatch(), activation))
}

#[cfg(test)]
mod tests {
    use burn::tensor::activation::{gelu_approximate, silu};

    use super::*;
    use crate::testing::{assert_close, random, values};

    const BOTH: [Activation; 2] = [Activation::Silu, Activation::GeluTanh];

    /// The definition in f64.
    fn exact(activation: Activation, x: f64) -> f64 {
        match activation {
            Activation::Silu => x / (1.0 + (-x).exp()),
            Activation::GeluTanh => {
                x / 2.0 * (1.0 + (std::f64::consts::FRAC_2_PI.sqrt() * (x + 0.044715 * x.powi(3))).tanh())
            }
        }
    }

    #[test]
    fn forward_and_gradients_equal_plain_operations() {
        for activation in BOTH {
            for (tokens, columns) in [1, 3, 64, 129].into_iter().flat_map(|t| [1, 15, 16, 64, 1536].map(|n| (t, n))) {
                let gate = random([tokens, columns], 1).mul_scalar(9.0).require_grad();
                let up = random([tokens, columns], 2).require_grad();
                let dy = random::<2>([tokens, columns], 3);
                let got = glu(gate.clone(), up.clone(), activation);
                let plain = match activation {
                    Activation::Silu => silu(gate.clone()),
                    Activation::GeluTanh => gelu_approximate(gate.clone()),
                };
                let want = plain * up.clone();
                assert_close(&values(&got), &values(&want), 2e-6, "forward");
                let (got, want) = ((got * dy.clone()).sum().backward(), (want * dy).sum().backward());
                for leaf in [&gate, &up] {
                    let (got, want) = (leaf.grad(&got).expect("leaf"), leaf.grad(&want).expect("leaf"));
                    assert_close(&values(&got), &values(&want), 3e-6, "gradient");
                }
            }
        }
    }

    #[test]
    fn values_and_slopes_equal_the_definition_in_f64() {
        let gates: Vec<f32> = (-2000..=2000).map(|i| i as f32 * 0.01).collect();
        let ones = vec![1.0; gates.len()];
        let (mut y, mut dgate, mut dup) = (ones.clone(), ones.clone(), ones.clone());
        for (activation, level) in BOTH.into_iter().flat_map(|a| Level::available().into_iter().map(move |l| (a, l))) {
            forward(level, activation, &gates, &ones, &mut y);
            backward(level, activation, &ones, &gates, &ones, &mut dgate, &mut dup);
            for (i, gate) in gates.iter().map(|gate| f64::from(*gate)).enumerate() {
                let want = exact(activation, gate);
                let slope = (exact(activation, gate + 1e-5) - exact(activation, gate - 1e-5)) / 2e-5;
                let close = |got: f32, want: f64, what| {
                    let error = (f64::from(got) - want).abs();
                    assert!(
                        error < 2e-6 * want.abs().max(1.0),
                        "{activation:?} {level:?} {what}({gate}): {got} {want}"
                    );
                };
                close(y[i], want, "y");
                close(dup[i], want, "dup");
                close(dgate[i], slope, "slope");
            }
        }
    }

    #[test]
    fn extreme_gates_give_finite_values_and_nan_stays_nan() {
        let gates = [-1e30, -100.0, -88.0, 88.0, 100.0, 1e30, f32::NAN];
        for (activation, level) in BOTH.into_iter().flat_map(|a| Level::available().into_iter().map(move |l| (a, l))) {
            let ([mut y, mut dgate, mut dup], ones) = ([[0.0; 7]; 3], [1.0; 7]);
            forward(level, activation, &gates, &ones, &mut y);
            backward(level, activation, &ones, &gates, &ones, &mut dgate, &mut dup);
            for values in [&y, &dup] {
                assert!(values[..3].iter().all(|value| value.abs() < 1e-30), "{activation:?} {level:?} {values:?}");
                assert_eq!(values[3..6], gates[3..6], "{activation:?} {level:?}");
            }
            assert!(dgate[..3].iter().all(|slope| slope.abs() < 1e-30), "{activation:?} {level:?} {dgate:?}");
            assert_eq!(dgate[3..6], [1.0; 3], "{activation:?} {level:?}");
            assert!(y[6].is_nan() && dgate[6].is_nan());
        }
    }
}
