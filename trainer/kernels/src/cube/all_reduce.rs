//! All-reduce over processes with NCCL.

use burn::tensor::{DType, Tensor};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::cast;

use super::cuda::{nccl, on_cuda};
use super::tensors::owned;
use crate::all_reduce::Communicator;

pub(crate) fn all_reduce<const D: usize>(tensors: Vec<Tensor<D>>, communicator: Communicator) -> Vec<Tensor<D>> {
    let summand = |tensor: Tensor<D>| {
        let tensor = on_cuda(tensor);
        let tensor = tensor.unwrap_or_else(|| panic!("NCCL sums tensors on CUDA devices and outside autodiff graphs"));
        owned(cast(tensor, DType::F32))
    };
    let tensors: Vec<_> = tensors.into_iter().map(summand).collect();
    if !tensors.is_empty() {
        nccl::sum(communicator, &tensors);
    }
    tensors.into_iter().map(Tensor::from_primitive::<CubeBackend>).collect()
}
