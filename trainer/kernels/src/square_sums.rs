//! Sums of the squares of gradients, and the norm that they have as one vector.
//!
//! Responsible for: the parts of all sums in one vector on the device, so that one reading tells them.

use burn::backend::flex::FlexTensor;
use burn::tensor::{Tensor, TensorData};

use crate::cpu::reduce;
use crate::flex::{constant, contiguous, floats};
use crate::op::{Autodiff, Backend, CheckpointStrategy, Dispatch, Flex, FloatTensor, backend_extension};

/// Sums of squares: on the CPU one f64 a tensor, elsewhere some f32 that are its parts.
#[backend_extension(Flex, Autodiff, Cube: cfg(feature = "cube"))]
pub(crate) trait SquareSumOps: Backend {
    /// Zeros for the sums of so many tensors, on the device of `like`.
    fn no_square_sums(like: FloatTensor<Self>, tensors: usize) -> FloatTensor<Self>;
    /// `sums` with Σ x² as that of tensor `place`.
    fn put_square_sum(sums: FloatTensor<Self>, x: FloatTensor<Self>, place: usize) -> FloatTensor<Self>;
}

impl SquareSumOps for Flex {
    fn no_square_sums(_: FloatTensor<Self>, tensors: usize) -> FloatTensor<Self> {
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
    fn no_square_sums(like: FloatTensor<Self>, tensors: usize) -> FloatTensor<Self> {
        constant::<B, C>(B::no_square_sums(like.into_primitive(), tensors))
    }

    fn put_square_sum(sums: FloatTensor<Self>, x: FloatTensor<Self>, place: usize) -> FloatTensor<Self> {
        constant::<B, C>(B::put_square_sum(sums.into_primitive(), x.into_primitive(), place))
    }
}

/// The square sums of tensors, in parts: a vector, f64 on the CPU and f32 elsewhere; `None` without a tensor. Nothing waits for
/// the device.
#[must_use]
pub fn square_sums<const D: usize>(tensors: &[&Tensor<D>]) -> Option<Tensor<1>> {
    let inner = |tensor: &Tensor<D>| tensor.clone().inner().into_dispatch();
    let none = <Dispatch as SquareSumOps>::no_square_sums(inner(tensors.first()?), tensors.len());
    let put = |sums, (place, tensor): (usize, &&Tensor<D>)| {
        <Dispatch as SquareSumOps>::put_square_sum(sums, inner(tensor), place)
    };
    Some(Tensor::from_dispatch(tensors.iter().enumerate().fold(none, put)))
}

/// The Euclidean norm of all tensors as one vector, from the parts of their square sums, added in f64.
#[must_use]
pub fn norm(square_sums: &TensorData) -> f64 {
    square_sums.iter::<f64>().sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{random, values};

    #[test]
    fn the_norm_is_that_of_one_long_vector() {
        let gradients = [random::<2>([3, 5], 1), random::<2>([100, 700], 2), random::<2>([1, 1], 3)];
        let squares = gradients.iter().flat_map(values).map(|g| f64::from(g).powi(2));
        let want = squares.sum::<f64>().sqrt();
        let sums = square_sums(&gradients.each_ref()).expect("gradients").into_data();
        assert!((norm(&sums) - want).abs() < 1e-9 * want);
        assert!(square_sums::<2>(&[]).is_none());
    }
}
