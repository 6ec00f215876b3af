//! Offloads a stack of tensors from a CUDA GPU to host memory.

use std::collections::VecDeque;

use burn::tensor::{DType, Tensor};
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;

use super::cuda::{copy_stream, on_cuda};
use super::tensors::{contiguous, dims, empty};

/// Offloads that may be unfinished when the next one starts.
const IN_FLIGHT: usize = 1;

/// The offloaded tensors of a stack.
#[derive(Debug, Default)]
pub(crate) struct Offloaded {
    /// Number of tensors in the stack.
    depth: usize,
    /// The topmost tensors, whose GPU memory has not been freed yet.
    offloading: VecDeque<CubeTensor>,
    /// The topmost tensor in host memory, if it is being copied back.
    prefetched: Option<CubeTensor>,
    /// Rows, columns and dtype, which all tensors share.
    shape: Option<([usize; 2], DType)>,
}

impl Offloaded {
    /// Starts to offload a tensor. Returns it if it is not on a CUDA GPU.
    pub(crate) fn push(&mut self, tensor: Tensor<2>) -> Option<Tensor<2>> {
        let Some(on_gpu) = on_cuda(tensor.clone()).map(contiguous) else { return Some(tensor) };
        drop(tensor);
        let (rows, columns) = dims(&on_gpu);
        let shape = ([rows, columns], on_gpu.dtype);
        assert_eq!(*self.shape.get_or_insert(shape), shape, "shape and dtype of the tensors of a stack");
        assert!(self.prefetched.is_none(), "a push onto a stack that is being popped");
        copy_stream::start_offload(&on_gpu, self.depth);
        self.offloading.push_back(on_gpu);
        self.depth += 1;
        if self.offloading.len() > IN_FLIGHT + 1
            && let Some(gone) = self.offloading.pop_front()
        {
            copy_stream::finish_offload(gone, self.depth - self.offloading.len() - 1);
        }
        None
    }

    /// Removes the tensor on top and returns it; `None` if there is none.
    pub(crate) fn pop(&mut self) -> Option<Tensor<2>> {
        self.depth = self.depth.checked_sub(1)?;
        let tensor = match (self.offloading.pop_back(), self.prefetched.take()) {
            (Some(tensor), _) => tensor,
            (None, Some(tensor)) => {
                copy_stream::wait(&tensor, self.depth);
                tensor
            }
            (None, None) => unreachable!("a pop prefetches the next tensor"),
        };
        if self.offloading.is_empty() && self.depth > 0 {
            let (shape, dtype) = self.shape.unwrap_or_else(|| unreachable!("something was pushed"));
            let next = empty(&tensor, shape, dtype);
            copy_stream::start_prefetch(&next, self.depth - 1);
            self.prefetched = Some(next);
        }
        Some(Tensor::from_primitive::<CubeBackend>(tensor))
    }
}

impl Drop for Offloaded {
    /// Memory that a copy reads or writes must not be reused before the copy has finished.
    fn drop(&mut self) {
        let first = self.depth - self.offloading.len();
        for (tensor, slot) in self.offloading.drain(..).zip(first..) {
            copy_stream::finish_offload(tensor, slot);
        }
        if let Some(prefetched) = self.prefetched.take() {
            copy_stream::wait(&prefetched, self.depth - 1);
        }
    }
}
