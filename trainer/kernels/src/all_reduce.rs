//! All-reduce: sums of tensors over the processes of a training run.
//!
//! Responsible for: communicators, and sums between CUDA GPUs through NCCL. Other devices exchange gradients through the
//! host, which is the caller's responsibility.
//! Must not depend on: how processes find each other.

use burn::tensor::Tensor;

/// Identifies a group of processes: NCCL's `ncclUniqueId`.
pub type GroupId = [u8; 128];

/// A process's rank in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Communicator {
    pub id: GroupId,
    /// Counted from 0.
    pub rank: usize,
    /// Number of processes.
    pub size: usize,
}

impl Communicator {
    /// Whether NCCL is available: the program was built with CUDA, and the library can be opened.
    #[must_use]
    pub fn available() -> bool {
        #[cfg(feature = "cuda")]
        return crate::cube::nccl_available();
        #[cfg(not(feature = "cuda"))]
        false
    }

    /// The id of a new group. One process creates it and sends it to the others.
    ///
    /// # Errors
    /// NCCL's error text.
    pub fn new_id() -> Result<GroupId, String> {
        #[cfg(feature = "cuda")]
        return crate::cube::nccl_id();
        #[cfg(not(feature = "cuda"))]
        Err("this program was built without CUDA".to_owned())
    }
}

/// The sum of each tensor over all processes of the group, f32. All processes call this with tensors of the same shapes.
/// It returns before the sums are computed; errors surface when a sum is read. If a process has ended, the others block
/// forever, so callers check first that all are running.
///
/// # Panics
/// When the tensors are on a device without NCCL, or belong to an autodiff graph.
#[must_use]
pub fn all_reduce<const D: usize>(tensors: Vec<Tensor<D>>, communicator: Communicator) -> Vec<Tensor<D>> {
    #[cfg(feature = "cuda")]
    return crate::cube::all_reduce(tensors, communicator);
    #[cfg(not(feature = "cuda"))]
    panic!("an all-reduce of {} tensors in {communicator:?}, but this program was built without CUDA", tensors.len())
}
