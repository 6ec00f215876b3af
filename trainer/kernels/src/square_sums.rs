//! Sums of squares of gradients, and their global norm.
//!
//! Responsible for: keeping the partial sums of all gradients in one vector on the device, so that the host reads once.

use burn::backend::flex::FlexTensor;
use burn::tensor::{Tensor, TensorData};

use crate::cpu::reduce;
use crate::flex::{constant, contiguous, floats};
use crate::op::{Autodiff, Backend, CheckpointStrategy, Dispatch, Flex, FloatTensor, backend_extension};

/// The operations of a backend. A vector of sums holds one f64 per tensor on the CPU, several f32 partial sums elsewhere.
#[backend_extension(Flex, Autodiff, Cube: cfg(feature = "cube"))]
pub(crate) trait SquareSumOps: Backend {
    /// Zeros for the sums of this many tensors, on the device of `like`.
    fn zero_square_sums(like: FloatTensor<Self>, tensors: usize) -> FloatTensor<Self>;
    /// `sums` with Σ x² as the sum of tensor number `place`.
    fn put_square_sum(sums: FloatTensor<Self>, x: FloatTensor<Self>, place: usize) -> FloatTensor<Self>;
}

impl SquareSumOps for Flex {
    fn zero_square_sums(_: FloatTensor<Self>, tensors: usize) -> FloatTensor<Self> {
        FlexTensor::from_data(TensorData::new(vec![0.0_f64; tensors], [tensors]))
    }

    fn put_square_sum(sums: FloatTensor<Self>, x: FloatTensor<Self>, place: usize) -> FloatTensor<Self> {
        let x = contiguous(x);
        let mut values = sums.as_slice::<f64>().unwrap_or_else(|| unreachable!("made above")).to_vec();
        values[place] = reduce::square_sum(floats(&x));
        let len = values.len();
        FlexTensor::from_data(TensorData::new(values, [len]))
    }
}

impl<B: SquareSumOps, C: CheckpointStrategy> SquareSumOps for Autodiff<B, C> {
    fn zero_square_sums(like: FloatTensor<Self>, tensors: usize) -> FloatTensor<Self> {
        constant::<B, C>(B::zero_square_sums(like.into_primitive(), tensors))
    }

    fn put_square_sum(sums: FloatTensor<Self>, x: FloatTensor<Self>, place: usize) -> FloatTensor<Self> {
        constant::<B, C>(B::put_square_sum(sums.into_primitive(), x.into_primitive(), place))
    }
}

/// The partial sums of the squares of all tensors: a vector, f64 on the CPU and f32 elsewhere. `None` without a tensor. It
/// doesn't wait for the device.
#[must_use]
pub fn square_sums<const D: usize>(tensors: &[&Tensor<D>]) -> Option<Tensor<1>> {
    let inner = |tensor: &Tensor<D>| tensor.clone().inner().into_dispatch();
    let none = <Dispatch as SquareSumOps>::zero_square_sums(inner(tensors.first()?), tensors.len());
    let put = |sums, (place, tensor): (usize, &&Tensor<D>)| {
        <Dispatch as SquareSumOps>::put_square_sum(sums, inner(tensor), place)
    };
    Some(Tensor::from_dispatch(tensors.iter().enumerate().fold(none, put)))
}

/// The global (Euclidean) norm of the tensors, from their partial sums, added in f64.
#[must_use]
pub fn norm(square_sums: &TensorData) -> f64 {
    square_sums.iter::<f64>().sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{SHAPES, random, values};

    #[test]
    fn the_norm_equals_that_of_the_concatenated_tensors() {
        let gradients = SHAPES.map(|(rows, columns)| random::<2>([rows, columns], 1));
        let want = |gradients: &[Tensor<2>]| {
            gradients.iter().flat_map(values).map(|g| f64::from(g).powi(2)).sum::<f64>().sqrt()
        };
        for some in gradients.chunks(1).chain([&gradients[3..10], &gradients[..]]) {
            let sums = square_sums(&some.iter().collect::<Vec<_>>()).expect("gradients").into_data();
            assert!((norm(&sums) - want(some)).abs() < 1e-9 * want(some));
        }
        assert!(square_sums::<2>(&[]).is_none());
    }
}
