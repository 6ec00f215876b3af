//! Tensors that wait in the host's memory, the last one first to come back.
//!
//! Responsible for: making room on a CUDA card for what a long backward pass needs only at its end. Copies run beside the
//! card's work: a tensor leaves while what comes after it is computed, and is on its way back when the one behind it is taken.
//! Devices without such a way keep the tensors themselves.
//! Must not depend on: what the tensors mean.

use burn::tensor::Tensor;

/// A stack of contiguous tensors of one shape, in the host's memory or on their device.
#[derive(Debug)]
pub struct HostStack {
    /// Those that are on the device.
    here: Vec<Tensor<2>>,
    #[cfg(feature = "cuda")]
    away: Option<crate::cube::Away>,
}

impl HostStack {
    /// An empty stack; what is pushed waits in the host's memory where `away` is wanted and the tensors are on a CUDA card.
    /// Only one stack of a device may do so at a time.
    #[must_use]
    pub fn new(away: bool) -> Self {
        #[cfg(not(feature = "cuda"))]
        let _ = away;
        Self {
            here: Vec::new(),
            #[cfg(feature = "cuda")]
            away: away.then(crate::cube::Away::default),
        }
    }

    pub fn push(&mut self, tensor: Tensor<2>) {
        #[cfg(feature = "cuda")]
        if let Some(away) = &mut self.away {
            self.here.extend(away.push(tensor));
            return;
        }
        self.here.push(tensor);
    }

    /// The last tensor that was pushed and not taken yet, the same to the bit.
    pub fn pop(&mut self) -> Option<Tensor<2>> {
        #[cfg(feature = "cuda")]
        if let Some(tensor) = self.away.as_mut().and_then(crate::cube::Away::pop) {
            return Some(tensor);
        }
        self.here.pop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{SHAPES, random, values};

    #[test]
    fn the_last_one_comes_first() {
        for ((rows, columns), away) in SHAPES.into_iter().flat_map(|shape| [false, true].map(|away| (shape, away))) {
            let mut stack = HostStack::new(away);
            let tensors: Vec<Tensor<2>> = (0..5).map(|seed| random([rows, columns], seed).inner()).collect();
            tensors.iter().for_each(|tensor| stack.push(tensor.clone()));
            for tensor in tensors.iter().rev() {
                assert_eq!(values(&stack.pop().expect("a tensor")), values(tensor));
            }
            assert!(stack.pop().is_none());
        }
    }
}
