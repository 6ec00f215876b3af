//! Conversions between slices and tensors of burn-flex, Burn's CPU backend.
//!
//! Responsible for: reading and creating such tensors, and constants in autodiff graphs.

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::flex::{FlexTensor, Layout};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, AutodiffBackend, Backend};
use burn::tensor::{DType, Shape, TensorData};

use crate::buffer::Buffer;

/// The tensor with contiguous elements.
pub(crate) fn contiguous(tensor: FlexTensor) -> FlexTensor {
    assert_eq!(tensor.dtype(), DType::F32, "the kernels compute in f32");
    if tensor.as_slice::<f32>().is_some() { tensor } else { tensor.to_contiguous() }
}

/// The elements of a contiguous tensor.
pub(crate) fn floats(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice::<f32>().unwrap_or_else(|| unreachable!("the caller made it contiguous"))
}

/// The bytes of a stored matrix.
pub(crate) fn bytes(tensor: &FlexTensor) -> &[u8] {
    tensor.as_slice::<u8>().unwrap_or_else(|| panic!("a stored matrix is contiguous u8, not {:?}", tensor.dtype()))
}

/// Rows and columns.
pub(crate) fn dims(tensor: &FlexTensor) -> (usize, usize) {
    match tensor.layout().shape()[..] {
        [rows, columns] => (rows, columns),
        ref shape => panic!("expected a matrix, not shape {shape:?}"),
    }
}

/// A new matrix.
pub(crate) fn matrix(values: Buffer, rows: usize, columns: usize) -> FlexTensor {
    FlexTensor::new(values.into_bytes(), Layout::contiguous(Shape::from([rows, columns])), DType::F32)
}

/// A new vector.
pub(crate) fn vector(values: Vec<f32>) -> FlexTensor {
    let len = values.len();
    FlexTensor::from_data(TensorData::new(values, [len]))
}

/// An empty tensor, in place of a gradient that was not requested.
pub(crate) fn nothing() -> FlexTensor {
    matrix(Buffer::default(), 0, 0)
}

/// The tensor as the only owner of contiguous memory, copied if it is not. `storage_mut` then changes it in place.
pub(crate) fn owned(tensor: FlexTensor) -> FlexTensor {
    let tensor = contiguous(tensor);
    if tensor.is_unique() && tensor.storage::<f32>().len() == floats(&tensor).len() {
        return tensor;
    }
    let mut values = Buffer::dirty(floats(&tensor).len());
    values.copy_from_slice(floats(&tensor));
    FlexTensor::new(values.into_bytes(), Layout::contiguous(tensor.layout().shape().clone()), DType::F32)
}

/// A tensor that autodiff treats as a constant.
pub(crate) fn constant<B: Backend, C: CheckpointStrategy>(tensor: FloatTensor<B>) -> FloatTensor<Autodiff<B, C>> {
    <Autodiff<B, C> as AutodiffBackend>::from_inner(tensor)
}

/// As [`owned`], for a tensor of u32 words.
pub(crate) fn owned_words(tensor: FlexTensor) -> FlexTensor {
    let words =
        tensor.as_slice::<u32>().unwrap_or_else(|| panic!("words are contiguous u32, not {:?}", tensor.dtype()));
    if tensor.is_unique() && tensor.storage::<u32>().len() == words.len() {
        return tensor;
    }
    FlexTensor::from_data(TensorData::new(words.to_vec(), [words.len()]))
}
