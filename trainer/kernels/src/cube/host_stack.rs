//! A stack of a CUDA card's tensors in the host's memory.

use std::collections::VecDeque;

use burn::tensor::{DType, Tensor};
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;

use super::cuda::{copy_stream, on_card};
use super::tensors::{contiguous, dims, empty};

/// Tensors that may still be on their way out while the next one goes.
const LEAVING: usize = 1;

/// The tensors that are away or about to be.
#[derive(Debug, Default)]
pub(crate) struct Offloaded {
    /// Number of all.
    depth: usize,
    /// The last of them, whose memory on the card is still held.
    leaving: VecDeque<CubeTensor>,
    /// The last of those that are away, on its way back.
    coming: Option<CubeTensor>,
    /// Rows, columns and type of all of them.
    shape: Option<([usize; 2], DType)>,
}

impl Offloaded {
    /// Sends a tensor out; gives back what is on no card.
    pub(crate) fn push(&mut self, tensor: Tensor<2>) -> Option<Tensor<2>> {
        let Some(tensor_on_card) = on_card(tensor.clone()).map(contiguous) else { return Some(tensor) };
        drop(tensor);
        let (rows, columns) = dims(&tensor_on_card);
        let shape = ([rows, columns], tensor_on_card.dtype);
        assert_eq!(*self.shape.get_or_insert(shape), shape, "shape and type of the tensors of a stack");
        assert!(self.coming.is_none(), "a stack that is being emptied");
        copy_stream::send(&tensor_on_card, self.depth);
        self.leaving.push_back(tensor_on_card);
        self.depth += 1;
        if self.leaving.len() > LEAVING + 1
            && let Some(gone) = self.leaving.pop_front()
        {
            copy_stream::sent(gone, self.depth - self.leaving.len() - 1);
        }
        None
    }

    /// The last tensor; `None` when there is none.
    pub(crate) fn pop(&mut self) -> Option<Tensor<2>> {
        self.depth = self.depth.checked_sub(1)?;
        let tensor = match (self.leaving.pop_back(), self.coming.take()) {
            (Some(tensor), _) => tensor,
            (None, Some(tensor)) => {
                copy_stream::arrived(&tensor, self.depth);
                tensor
            }
            (None, None) => unreachable!("the tensor below one that was taken is on its way"),
        };
        if self.leaving.is_empty() && self.depth > 0 {
            let (shape, dtype) = self.shape.unwrap_or_else(|| unreachable!("something was pushed"));
            let next = empty(&tensor, shape, dtype);
            copy_stream::fetch(&next, self.depth - 1);
            self.coming = Some(next);
        }
        Some(Tensor::from_primitive::<CubeBackend>(tensor))
    }
}

impl Drop for Offloaded {
    /// Memory that a copy still reads or writes is nobody else's before it is done.
    fn drop(&mut self) {
        let first = self.depth - self.leaving.len();
        for (tensor, place) in self.leaving.drain(..).zip(first..) {
            copy_stream::sent(tensor, place);
        }
        if let Some(coming) = self.coming.take() {
            copy_stream::arrived(&coming, self.depth - 1);
        }
    }
}
