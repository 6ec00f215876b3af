//! The parts of Burn's API that an operation with its own backward pass needs.
//!
//! An operation is a method of a trait with `#[backend_extension(Flex, Autodiff)]`. The implementation for [`Flex`]
//! computes; the one for [`Autodiff`] records the backward step. A new backend adds an implementation and a name in that
//! attribute; callers don't change.

pub(crate) use burn::backend::autodiff::NodeId;
pub(crate) use burn::backend::autodiff::checkpoint::base::Checkpointer;
pub(crate) use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
pub(crate) use burn::backend::autodiff::grads::Gradients;
pub(crate) use burn::backend::autodiff::ops::{Backward, NodeGuard, Ops, OpsKind, binary, unary};
pub(crate) use burn::backend::tensor::{FloatTensor, IntTensor};
pub(crate) use burn::backend::{Autodiff, Backend, Dispatch, ExtensionType, Flex, backend_extension};
