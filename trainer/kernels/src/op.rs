//! The parts of Burn that an operation with a backward pass of its own is made of.
//!
//! An operation is a method of a trait with `#[backend_extension(Flex, Autodiff)]`: an implementation for [`Flex`]
//! computes, the one for [`Autodiff`] records. Another backend is one more implementation and one more name in that
//! attribute; callers don't change.

pub(crate) use burn::backend::autodiff::NodeId;
pub(crate) use burn::backend::autodiff::checkpoint::base::Checkpointer;
pub(crate) use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
pub(crate) use burn::backend::autodiff::grads::Gradients;
pub(crate) use burn::backend::autodiff::ops::{Backward, NodeGuard, Ops, OpsKind, binary, unary};
pub(crate) use burn::backend::tensor::{FloatTensor, IntTensor};
pub(crate) use burn::backend::{Autodiff, Backend, Dispatch, ExtensionType, Flex, backend_extension};
