//! Sums of tensors over the processes that train together.
//!
//! Responsible for: who belongs together, and sums between devices that have a way of their own to each other (CUDA cards,
//! by NCCL). Devices that have none send their numbers through the host; that is the caller's.
//! Must not depend on: how processes find each other.

use burn::tensor::Tensor;

/// What the processes of one group have in common and others have not.
pub type GroupId = [u8; 128];

/// A process's place among those whose devices add up tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Communicator {
    pub id: GroupId,
    /// From 0.
    pub rank: usize,
    /// Number of processes.
    pub size: usize,
}

impl Communicator {
    /// Whether CUDA cards can add up tensors here: whether this program and this machine have what it takes.
    #[must_use]
    pub fn available() -> bool {
        #[cfg(feature = "cuda")]
        return crate::cube::nccl_available();
        #[cfg(not(feature = "cuda"))]
        false
    }

    /// The name of a new group, which one of its processes makes and tells the others.
    ///
    /// # Errors
    /// NCCL's words.
    pub fn new_id() -> Result<GroupId, String> {
        #[cfg(feature = "cuda")]
        return crate::cube::nccl_id();
        #[cfg(not(feature = "cuda"))]
        Err("this program was built without CUDA".to_owned())
    }
}

/// Each tensor's sum over all processes of the group, in f32; all of them call this with tensors of the same shapes. Nobody
/// waits for it here: what goes wrong shows when a sum is read. A process that is gone makes the others wait for ever, so
/// they ask each other first whether they are there.
///
/// # Panics
/// Where the tensors are on a device without NCCL, or belong to an autodiff graph.
#[must_use]
pub fn all_reduce<const D: usize>(tensors: Vec<Tensor<D>>, communicator: Communicator) -> Vec<Tensor<D>> {
    #[cfg(feature = "cuda")]
    return crate::cube::all_reduce(tensors, communicator);
    #[cfg(not(feature = "cuda"))]
    panic!("{} tensors for {communicator:?}, without CUDA", tensors.len())
}
