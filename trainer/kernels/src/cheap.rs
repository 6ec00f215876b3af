//! Activations that are cheap to make and dear to keep: outputs of norms and of the gated activation.
//!
//! Responsible for: having the backward pass make them again, once for all who need them, so that the tape holds what they are
//! made of, which is held anyway. In a decoder block that is a third less memory for the cost of two norms and an activation
//! ([ADR 12](../../../docs/adr/0012-what-a-block-keeps.md)). The values are the same to the bit.
//! Must not depend on: what takes them.

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::Tensor;

use crate::glu::{Activation, GluOps, glu};
use crate::op::{Autodiff, Backend, CheckpointStrategy, Dispatch, ExtensionType, FloatTensor, NodeGuard};
use crate::rms_norm::{RmsNormOps, rms_norm};

/// How an activation is made from two tensors.
#[derive(Clone, Copy, Debug)]
enum Recipe {
    /// Of `x` and `gamma`.
    Norm { epsilon: f64 },
    /// Of `gate` and `up`.
    Glu { activation: Activation },
}

/// How, and what was made again for those who still have to take it.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    recipe: Recipe,
    again: Arc<Mutex<Again>>,
}

#[derive(Debug, Default)]
struct Again {
    takers: usize,
    made: Option<Box<dyn Any + Send>>,
}

/// An activation `[T, n]`, with what it was made of where it is to be made again.
#[derive(Clone, Debug)]
pub struct Cheap {
    value: Tensor<2>,
    origin: Option<(Source, [FloatTensor<Dispatch>; 2])>,
}

impl Cheap {
    /// [`rms_norm`](crate::rms_norm()).
    #[must_use]
    pub fn rms_norm(x: Tensor<2>, gamma: Tensor<1>, epsilon: f64) -> Self {
        let of = [x.clone().into_dispatch(), gamma.clone().into_dispatch()];
        Self::new(rms_norm(x, gamma, epsilon), Recipe::Norm { epsilon }, of)
    }

    /// [`glu`](crate::glu()).
    #[must_use]
    pub fn glu(gate: Tensor<2>, up: Tensor<2>, activation: Activation) -> Self {
        let of = [gate.clone().into_dispatch(), up.clone().into_dispatch()];
        Self::new(glu(gate, up, activation), Recipe::Glu { activation }, of)
    }

    fn new(value: Tensor<2>, recipe: Recipe, of: [FloatTensor<Dispatch>; 2]) -> Self {
        Self { value, origin: Some((Source { recipe, again: Arc::default() }, of)) }
    }

    /// The value alone, for those who keep it or have no need to.
    #[must_use]
    pub fn value(self) -> Tensor<2> {
        self.value
    }

    pub(crate) fn tokens(&self) -> usize {
        self.value.dims()[0]
    }

    pub(crate) fn given(self) -> Given<Dispatch> {
        let value = self.value.into_dispatch();
        match self.origin {
            Some((source, [first, second])) => Given::Cheap { value, first, second, source },
            None => Given::Kept { value },
        }
    }
}

impl From<Tensor<2>> for Cheap {
    fn from(value: Tensor<2>) -> Self {
        Self { value, origin: None }
    }
}

/// An input as an operation gets it.
#[derive(Clone, Debug, ExtensionType)]
pub(crate) enum Given<B: Backend> {
    Kept {
        value: FloatTensor<B>,
    },
    /// Made of two others.
    Cheap {
        value: FloatTensor<B>,
        first: FloatTensor<B>,
        second: FloatTensor<B>,
        source: Source,
    },
}

impl<B: Backend> Given<B> {
    pub(crate) fn value(self) -> FloatTensor<B> {
        match self {
            Self::Kept { value } | Self::Cheap { value, .. } => value,
        }
    }
}

/// An input on a tape: the value, or what it is made of.
#[derive(Clone, Debug)]
pub(crate) enum Input<B: Backend> {
    Kept(FloatTensor<B>),
    Again { source: Source, of: [FloatTensor<B>; 2] },
}

impl<B: RmsNormOps + GluOps> Input<B> {
    /// For one more backward step.
    pub(crate) fn new(given: Given<B>) -> Self {
        match given {
            Given::Kept { value } => Self::Kept(value),
            Given::Cheap { first, second, source, .. } => {
                source.again.lock().unwrap_or_else(PoisonError::into_inner).takers += 1;
                Self::Again { source, of: [first, second] }
            }
        }
    }

    /// The value; the last one to ask takes it away.
    pub(crate) fn take(self) -> FloatTensor<B> {
        let (Source { recipe, again }, [first, second]) = match self {
            Self::Kept(value) => return value,
            Self::Again { source, of } => (source, of),
        };
        let mut again = again.lock().unwrap_or_else(PoisonError::into_inner);
        again.takers = again.takers.saturating_sub(1);
        let there = again.made.take().and_then(|made| made.downcast::<FloatTensor<B>>().ok());
        let value = there.map_or_else(|| recipe.make::<B>(first, second), |made| *made);
        if again.takers > 0 {
            again.made = Some(Box::new(value.clone()));
        }
        value
    }
}

/// The input without its gradient's node, and that node.
pub(crate) fn untracked<B: Backend, C: CheckpointStrategy>(given: Given<Autodiff<B, C>>) -> (Given<B>, NodeGuard) {
    match given {
        Given::Kept { value } => {
            let (value, node) = value.into_parts();
            (Given::Kept { value }, node)
        }
        Given::Cheap { value, first, second, source } => {
            let (value, node) = value.into_parts();
            let [first, second] = [first, second].map(|tensor| tensor.into_primitive());
            (Given::Cheap { value, first, second, source }, node)
        }
    }
}

impl Recipe {
    fn make<B: RmsNormOps + GluOps>(self, first: FloatTensor<B>, second: FloatTensor<B>) -> FloatTensor<B> {
        match self {
            Self::Norm { epsilon } => B::rms_norm(first, second, epsilon),
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

    /// Gradients of everything that two adapted layers on one input lead back to.
    fn gradients(
        input: impl Fn(&[Tensor<2>; 2], Tensor<1>) -> Cheap,
        shape: (usize, usize),
        rank: usize,
    ) -> Vec<Vec<f32>> {
        let (tokens, columns) = shape;
        let leaves = [1, 2].map(|seed| random::<2>([tokens, columns], seed).require_grad());
        let gamma = random::<1>([columns], 3).require_grad();
        let made = input(&leaves, gamma.clone());
        let mut wanted: Vec<Tensor<2>> = leaves.to_vec();
        let mut sum = None;
        for (outputs, seed) in [(5, 10), (7, 20)] {
            let (weight, _) = stored(Format::Nf4, outputs, columns, seed);
            let a = random::<2>([rank, columns], seed + 1).require_grad();
            let b = random::<2>([outputs, rank], seed + 2).require_grad();
            let adapter = Adapter { a: a.clone(), b: b.clone(), scale: 0.5, dropout: None };
            let y = (lora_linear(made.clone(), &weight, None, adapter) * random([tokens, outputs], seed + 3)).sum();
            sum = Some(sum.map_or_else(|| y.clone(), |sum: Tensor<1>| sum + y.clone()));
            wanted.extend([a, b]);
        }
        let gradients = sum.expect("two layers").backward();
        let of = |leaf: &Tensor<2>| leaf.grad(&gradients).map_or_else(Vec::new, |gradient| values(&gradient));
        let gamma = gamma.grad(&gradients).map_or_else(Vec::new, |gradient| values(&gradient));
        wanted.iter().map(of).chain([gamma]).collect()
    }

    #[test]
    fn what_is_made_again_gives_the_same_bits() {
        for shape in SHAPES {
            for activation in [Activation::Silu, Activation::GeluTanh] {
                let kept = gradients(|[gate, up], _| glu(gate.clone(), up.clone(), activation).into(), shape, 4);
                let again = gradients(|[gate, up], _| Cheap::glu(gate.clone(), up.clone(), activation), shape, 4);
                assert!(kept == again && !kept[0].is_empty(), "{activation:?} {shape:?}");
            }
            let kept = gradients(|[x, _], gamma| rms_norm(x.clone(), gamma, 1e-5).into(), shape, 4);
            let again = gradients(|[x, _], gamma| Cheap::rms_norm(x.clone(), gamma, 1e-5), shape, 4);
            assert!(kept == again && !kept[0].is_empty(), "norm {shape:?}");
        }
    }

    #[test]
    fn the_last_taker_leaves_nothing() {
        use crate::op::Flex;

        let primitive = || crate::flex::matrix(crate::buffer::Buffer::zeroed(6), 1, 6);
        let source = Source { recipe: Recipe::Glu { activation: Activation::Silu }, again: Arc::default() };
        let input = || {
            Input::<Flex>::new(Given::Cheap {
                value: primitive(),
                first: primitive(),
                second: primitive(),
                source: source.clone(),
            })
        };
        let (first, second) = (input(), input());
        let _ = first.take();
        assert!(source.again.lock().expect("nobody panicked").made.is_some());
        let _ = second.take();
        assert!(source.again.lock().expect("nobody panicked").made.is_none());
    }
}
