//! An optimizer step on CUDA.

use burn::tensor::{DType, Tensor};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::cast;
use burn_cubecl::tensor::CubeTensor;

use super::cuda::{multi_tensor, on_cuda};
use super::tensors::{contiguous, owned};
use crate::adamw::{AdamW, Coefficients};
use crate::update::{Moments, Update};

/// Runs the step if all parameters are on CUDA, with f32 moments and bf16 copies. Otherwise it returns the updates unchanged.
pub(crate) fn update<'a, const D: usize>(
    updates: Vec<Update<'a, D>>,
    settings: &AdamW,
    step: u64,
    max_norm: f64,
) -> Result<Tensor<1>, Vec<Update<'a, D>>> {
    let served = |update: &Update<'a, D>| {
        let narrow = update.copy.as_ref().is_none_or(|copy| copy.dtype() == DType::BF16);
        narrow && matches!(update.moments, Moments::Full(_)) && on_cuda(update.parameter.clone()).is_some()
    };
    if updates.is_empty() || !updates.iter().all(served) {
        return Err(updates);
    }
    // Moved out of their places, so that each tensor is the only owner of its memory.
    let nothing = Tensor::empty([0; D], &updates[0].parameter.device());
    let take = |place: &mut Tensor<D>| owned(primitive(std::mem::replace(place, nothing.clone())));
    let (mut places, mut changed) = (Vec::new(), Vec::new());
    for Update { parameter, mut copy, moments, gradient, decays } in updates {
        let Moments::Full([first, second]) = moments else { unreachable!("checked above") };
        changed.push(multi_tensor::Update {
            gradient: contiguous(cast(primitive(gradient), DType::F32)),
            parameter: take(parameter),
            first: take(first),
            second: take(second),
            copy: copy.as_deref_mut().map(take),
            decays,
        });
        places.push((parameter, first, second, copy));
    }
    let sums = multi_tensor::update(&changed, &Coefficients::new(settings, step, 1.0), max_norm);
    for ((parameter, first, second, copy), update) in places.into_iter().zip(changed) {
        let changed = [(parameter, update.parameter), (first, update.first), (second, update.second)];
        let changed = changed.into_iter().chain(copy.zip(update.copy));
        changed.for_each(|(place, tensor)| *place = Tensor::from_primitive::<CubeBackend>(tensor));
    }
    Ok(Tensor::from_primitive::<CubeBackend>(sums))
}

fn primitive<const D: usize>(tensor: Tensor<D>) -> CubeTensor {
    on_cuda(tensor).unwrap_or_else(|| panic!("all tensors of an update are on one device"))
}
