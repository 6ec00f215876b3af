//! Activations that the backward pass recomputes instead of saving: outputs of RMSNorm and of SwiGLU or GeGLU.
//!
//! Responsible for: recomputing such an activation once per backward pass, however many adapters read it. The tape saves its
//! two inputs, which are saved anyway. A decoder block saves a third less, for the time of two norms and one activation
//! ([ADR 12](../../../docs/adr/0012-saved-activations.md)). Recomputed values are bit-identical.
//! Must not depend on: the operations that read the activation.

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::Tensor;

use crate::glu::{Activation, GluOps, glu};
use crate::op::{Autodiff, Backend, CheckpointStrategy, Dispatch, ExtensionType, FloatTensor, NodeGuard};
use crate::rms_norm::{RmsNormOps, rms_norm};

/// The operation that computes an activation from its two inputs.
#[derive(Clone, Copy, Debug)]
enum Operation {
    /// Of `x` and `gamma`.
    RmsNorm { epsilon: f64 },
    /// Of `gate` and `up`.
    Glu { activation: Activation },
}

/// How to recompute an activation, with the recomputed value while backward steps still need it.
#[derive(Clone, Debug)]
pub(crate) struct Recomputation {
    operation: Operation,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Backward steps that have not read the value yet.
    readers: usize,
    value: Option<Box<dyn Any + Send>>,
}

/// An activation `[T, n]`. If it is to be recomputed, with the inputs it is recomputed from.
#[derive(Clone, Debug)]
pub struct Rematerialized {
    value: Tensor<2>,
    origin: Option<(Recomputation, [FloatTensor<Dispatch>; 2])>,
}

impl Rematerialized {
    /// [`rms_norm`](crate::rms_norm()), recomputed in the backward pass.
    #[must_use]
    pub fn rms_norm(x: Tensor<2>, gamma: Tensor<1>, epsilon: f64) -> Self {
        let inputs = [x.clone().into_dispatch(), gamma.clone().into_dispatch()];
        Self::new(rms_norm(x, gamma, epsilon), Operation::RmsNorm { epsilon }, inputs)
    }

    /// [`glu`](crate::glu()), recomputed in the backward pass.
    #[must_use]
    pub fn glu(gate: Tensor<2>, up: Tensor<2>, activation: Activation) -> Self {
        let inputs = [gate.clone().into_dispatch(), up.clone().into_dispatch()];
        Self::new(glu(gate, up, activation), Operation::Glu { activation }, inputs)
    }

    fn new(value: Tensor<2>, operation: Operation, inputs: [FloatTensor<Dispatch>; 2]) -> Self {
        Self { value, origin: Some((Recomputation { operation, shared: Arc::default() }, inputs)) }
    }

    /// The value alone, for operations that save it or need nothing for their backward pass.
    #[must_use]
    pub fn value(self) -> Tensor<2> {
        self.value
    }

    pub(crate) fn tokens(&self) -> usize {
        self.value.dims()[0]
    }

    pub(crate) fn operand(self) -> Operand<Dispatch> {
        let value = self.value.into_dispatch();
        match self.origin {
            Some((recomputation, [first, second])) => Operand::Rematerialized { value, first, second, recomputation },
            None => Operand::Plain { value },
        }
    }
}

impl From<Tensor<2>> for Rematerialized {
    /// An activation that the backward pass saves.
    fn from(value: Tensor<2>) -> Self {
        Self { value, origin: None }
    }
}

/// The argument of an operation of a backend.
#[derive(Clone, Debug, ExtensionType)]
pub(crate) enum Operand<B: Backend> {
    Plain {
        value: FloatTensor<B>,
    },
    /// A value that can be recomputed from two others.
    Rematerialized {
        value: FloatTensor<B>,
        first: FloatTensor<B>,
        second: FloatTensor<B>,
        recomputation: Recomputation,
    },
}

impl<B: Backend> Operand<B> {
    pub(crate) fn value(self) -> FloatTensor<B> {
        match self {
            Self::Plain { value } | Self::Rematerialized { value, .. } => value,
        }
    }
}

/// An operand as the tape saves it: the value, or the inputs to recompute it from.
#[derive(Clone, Debug)]
pub(crate) enum SavedOperand<B: Backend> {
    Value(FloatTensor<B>),
    Recompute { recomputation: Recomputation, inputs: [FloatTensor<B>; 2] },
}

impl<B: RmsNormOps + GluOps> SavedOperand<B> {
    /// Saves an operand for one backward step.
    pub(crate) fn new(operand: Operand<B>) -> Self {
        match operand {
            Operand::Plain { value } => Self::Value(value),
            Operand::Rematerialized { first, second, recomputation, .. } => {
                recomputation.shared.lock().unwrap_or_else(PoisonError::into_inner).readers += 1;
                Self::Recompute { recomputation, inputs: [first, second] }
            }
        }
    }

    /// The value. The first reader recomputes it; the last reader frees it.
    pub(crate) fn take(self) -> FloatTensor<B> {
        let (Recomputation { operation, shared }, [first, second]) = match self {
            Self::Value(value) => return value,
            Self::Recompute { recomputation, inputs } => (recomputation, inputs),
        };
        let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.readers = shared.readers.saturating_sub(1);
        let recomputed = shared.value.take().and_then(|value| value.downcast::<FloatTensor<B>>().ok());
        let value = recomputed.map_or_else(|| operation.compute::<B>(first, second), |value| *value);
        if shared.readers > 0 {
            shared.value = Some(Box::new(value.clone()));
        }
        value
    }
}

/// The operand below autodiff, and its node on the tape.
pub(crate) fn untracked<B: Backend, C: CheckpointStrategy>(
    operand: Operand<Autodiff<B, C>>,
) -> (Operand<B>, NodeGuard) {
    match operand {
        Operand::Plain { value } => {
            let (value, node) = value.into_parts();
            (Operand::Plain { value }, node)
        }
        Operand::Rematerialized { value, first, second, recomputation } => {
            let (value, node) = value.into_parts();
            let [first, second] = [first, second].map(|tensor| tensor.into_primitive());
            (Operand::Rematerialized { value, first, second, recomputation }, node)
        }
    }
}

impl Operation {
    fn compute<B: RmsNormOps + GluOps>(self, first: FloatTensor<B>, second: FloatTensor<B>) -> FloatTensor<B> {
        match self {
            Self::RmsNorm { epsilon } => B::rms_norm(first, second, epsilon),
            Self::Glu { activation } => B::glu(first, second, activation),
        }
    }
}

#[cfg(test)]
mod tests {
    use tonfall_blocks::Format;

    use super::*;
    use crate::testing::{SHAPES, random, stored, values};
    use crate::{Adapter, lora_linear};

    /// Gradients of all leaves of two adapted layers that read one activation.
    fn gradients(
        activation: impl Fn(&[Tensor<2>; 2], Tensor<1>) -> Rematerialized,
        shape: (usize, usize),
        rank: usize,
    ) -> Vec<Vec<f32>> {
        let (tokens, columns) = shape;
        let leaves = [1, 2].map(|seed| random::<2>([tokens, columns], seed).require_grad());
        let gamma = random::<1>([columns], 3).require_grad();
        let activation = activation(&leaves, gamma.clone());
        let mut wanted: Vec<Tensor<2>> = leaves.to_vec();
        let mut sum = None;
        for (outputs, seed) in [(5, 10), (7, 20)] {
            let (weight, _) = stored(Format::Nf4, outputs, columns, seed);
            let a = random::<2>([rank, columns], seed + 1).require_grad();
            let b = random::<2>([outputs, rank], seed + 2).require_grad();
            let adapter = Adapter { a: a.clone(), b: b.clone(), scale: 0.5, dropout: None };
            let dy = random([tokens, outputs], seed + 3);
            let y = (lora_linear(activation.clone(), &weight, None, adapter) * dy).sum();
            sum = Some(sum.map_or_else(|| y.clone(), |sum: Tensor<1>| sum + y.clone()));
            wanted.extend([a, b]);
        }
        let gradients = sum.expect("two layers").backward();
        let of = |leaf: &Tensor<2>| leaf.grad(&gradients).map_or_else(Vec::new, |gradient| values(&gradient));
        let gamma = gamma.grad(&gradients).map_or_else(Vec::new, |gradient| values(&gradient));
        wanted.iter().map(of).chain([gamma]).collect()
    }

    #[test]
    fn recomputed_activations_give_bit_identical_gradients() {
        for shape in SHAPES {
            for activation in [Activation::Silu, Activation::GeluTanh] {
                let saved = gradients(|[gate, up], _| glu(gate.clone(), up.clone(), activation).into(), shape, 4);
                let recomputed =
                    gradients(|[gate, up], _| Rematerialized::glu(gate.clone(), up.clone(), activation), shape, 4);
                assert!(saved == recomputed && !saved[0].is_empty(), "{activation:?} {shape:?}");
            }
            let saved = gradients(|[x, _], gamma| rms_norm(x.clone(), gamma, 1e-5).into(), shape, 4);
            let recomputed = gradients(|[x, _], gamma| Rematerialized::rms_norm(x.clone(), gamma, 1e-5), shape, 4);
            assert!(saved == recomputed && !saved[0].is_empty(), "norm {shape:?}");
        }
    }

    #[test]
    fn the_last_reader_frees_the_recomputed_value() {
        use crate::op::Flex;

        let primitive = || crate::flex::matrix(crate::buffer::Buffer::zeroed(6), 1, 6);
        let operation = Operation::Glu { activation: Activation::Silu };
        let recomputation = Recomputation { operation, shared: Arc::default() };
        let operand = || {
            SavedOperand::<Flex>::new(Operand::Rematerialized {
                value: primitive(),
                first: primitive(),
                second: primitive(),
                recomputation: recomputation.clone(),
            })
        };
        let (first, second) = (operand(), operand());
        let _ = first.take();
        assert!(recomputation.shared.lock().expect("nobody panicked").value.is_some());
        let _ = second.take();
        assert!(recomputation.shared.lock().expect("nobody panicked").value.is_none());
    }
}
