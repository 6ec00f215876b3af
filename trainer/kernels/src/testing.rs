//! Random tensors and comparisons for the tests of the operations.

use burn::tensor::{Device, Tensor, TensorData};
use tonfall_blocks::{Format, byte_len, quantize_nf4};

use crate::frozen::FrozenMatrix;
use crate::philox::Philox;

/// Rows and columns: 1, odd sizes, sizes that fill vectors, pieces and blocks exactly, and sizes that are off by one.
#[rustfmt::skip]
pub(crate) const SHAPES: [(usize, usize); 20] = [
    (1, 1), (1, 2), (1, 17), (1, 256), (2, 3), (2, 128), (3, 7), (3, 85), (4, 64), (5, 33),
    (7, 100), (16, 16), (16, 576), (17, 31), (33, 48), (64, 64), (65, 63), (70, 191), (129, 130), (200, 123),
];

pub(crate) fn device() -> Device {
    Device::flex().autodiff()
}

/// Numbers in [-1, 1).
pub(crate) fn numbers(len: usize, seed: u64) -> Vec<f32> {
    let mut generator = Philox::new(seed, 0);
    (0..len).map(|_| 2.0 * generator.uniform() - 1.0).collect()
}

pub(crate) fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), &device())
}

pub(crate) fn random<const D: usize>(shape: [usize; D], seed: u64) -> Tensor<D> {
    tensor(numbers(shape.iter().product(), seed), shape)
}

pub(crate) fn values<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    tensor.clone().into_data().try_to_vec().expect("f32")
}

/// The bytes of a random matrix in a format.
pub(crate) fn stored_bytes(format: Format, rows: usize, cols: usize, seed: u64) -> Vec<u8> {
    let numbers = numbers(rows * cols, seed);
    match format {
        Format::F32 => numbers.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Format::Nf4 => quantize_nf4(&numbers),
        // Any bytes are valid numbers in these formats. Cleared high bits keep the exponents small.
        _ => (0..byte_len(format, rows, cols)).map(|i| (i * 29 % 251) as u8 & 0x3b).collect(),
    }
}

/// A random matrix in a format, and its dequantized values.
pub(crate) fn stored(format: Format, rows: usize, cols: usize, seed: u64) -> (FrozenMatrix, Tensor<2>) {
    let bytes = stored_bytes(format, rows, cols, seed);
    let mut dense = vec![0.0; rows * cols];
    tonfall_blocks::dequantize(format, &bytes, rows, cols, 0, &mut dense);
    (FrozenMatrix::new(bytes, format, rows, cols, &device()), tensor(dense, [rows, cols]))
}

/// Asserts that every difference is at most `tolerance` times the largest magnitude, or times 0.1 if that is larger.
pub(crate) fn assert_close(got: &[f32], want: &[f32], tolerance: f32, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}: elements");
    let size = want.iter().fold(0.1f32, |size, value| size.max(value.abs()));
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= tolerance * size, "{what}: element {i} is {got}, not {want}");
    }
}
