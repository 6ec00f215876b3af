//! A stack of tensors in host memory: activations offloaded from a GPU.
//!
//! Responsible for: freeing GPU memory of activations that the backward pass needs late. Copies overlap with kernels: a tensor
//! is copied to the host while the next layer is computed, and prefetched when the tensor above it is popped. Only CUDA
//! devices offload; on other devices the tensors stay where they are.
//! Must not depend on: what the tensors mean.

use burn::tensor::Tensor;

/// A stack of contiguous tensors of one shape, in host memory or on their device.
#[derive(Debug)]
pub struct HostStack {
    /// Tensors that stay on the device.
    on_device: Vec<Tensor<2>>,
    #[cfg(feature = "cuda")]
    offloaded: Option<crate::cube::Offloaded>,
}

impl HostStack {
    /// An empty stack. With `offload`, tensors on a CUDA device are moved to host memory; a device can have one such stack at a
    /// time.
    #[must_use]
    pub fn new(offload: bool) -> Self {
        #[cfg(not(feature = "cuda"))]
        let _ = offload;
        Self {
            on_device: Vec::new(),
            #[cfg(feature = "cuda")]
            offloaded: offload.then(crate::cube::Offloaded::default),
        }
    }

    /// Puts a contiguous tensor on top; it is offloaded if the stack offloads.
    pub fn push(&mut self, tensor: Tensor<2>) {
        #[cfg(feature = "cuda")]
        if let Some(offloaded) = &mut self.offloaded {
            self.on_device.extend(offloaded.push(tensor));
            return;
        }
        self.on_device.push(tensor);
    }

    /// Removes the tensor on top and returns it, bit-identical; `None` if the stack is empty.
    pub fn pop(&mut self) -> Option<Tensor<2>> {
        #[cfg(feature = "cuda")]
        if let Some(tensor) = self.offloaded.as_mut().and_then(crate::cube::Offloaded::pop) {
            return Some(tensor);
        }
        self.on_device.pop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{SHAPES, random, values};

    #[test]
    fn tensors_are_popped_in_reverse_order() {
        for ((rows, columns), offload) in
            SHAPES.into_iter().flat_map(|shape| [false, true].map(|offload| (shape, offload)))
        {
            let mut stack = HostStack::new(offload);
            let tensors: Vec<Tensor<2>> = (0..5).map(|seed| random([rows, columns], seed).inner()).collect();
            tensors.iter().for_each(|tensor| stack.push(tensor.clone()));
            for tensor in tensors.iter().rev() {
                assert_eq!(values(&stack.pop().expect("a tensor")), values(tensor));
            }
            assert!(stack.pop().is_none());
        }
    }
}
