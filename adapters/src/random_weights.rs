//! Random weights, for benchmarks without a model.
//!
//! Responsible for: values of the same magnitude as in a trained model, deterministic by name, computed quickly.
//! Must not depend on: the use of the weights.

use rayon::prelude::*;
use tonfall_blocks::bf16_from_f32;

use crate::description::Shape;

/// Maximum absolute value of a matrix element. Uniform values in this range have a standard deviation of 0.02.
const BOUND: f32 = 0.034_641;

/// Number of words that a thread generates at once.
const WORDS: usize = 1 << 16;

/// Little-endian BF16 values: uniform for a matrix, ones for the weight of a norm, zeros for a bias.
pub(crate) fn bf16(name: &str, shape: Shape) -> Vec<u8> {
    let (rows, cols) = shape.rows_cols();
    let constant = |value: f32| bf16_from_f32(value).to_le_bytes().repeat(cols);
    match shape {
        Shape::Vector(_) if name.ends_with("bias") => constant(0.0),
        Shape::Vector(_) => constant(1.0),
        Shape::Matrix(..) => uniform(seed(name), rows * cols),
    }
}

/// FNV-1a.
fn seed(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Each byte of a SplitMix64 word selects one of 256 values, so one word provides eight elements.
fn uniform(seed: u64, len: usize) -> Vec<u8> {
    let value = |byte: usize| bf16_from_f32(BOUND * ((2 * byte) as f32 / 255.0 - 1.0)).to_le_bytes();
    let values: [[u8; 2]; 256] = std::array::from_fn(value);
    let word = |index: u64| {
        let mut z = seed.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let mut bytes = vec![0; 2 * len];
    bytes.par_chunks_mut(16 * WORDS).enumerate().for_each(|(piece, bytes)| {
        for (index, chunk) in bytes.chunks_mut(16).enumerate() {
            for (pair, byte) in chunk.chunks_exact_mut(2).zip(word((piece * WORDS + index) as u64).to_le_bytes()) {
                pair.copy_from_slice(&values[usize::from(byte)]);
            }
        }
    });
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonfall_blocks::{Format, dequantize};

    fn values(name: &str, shape: Shape) -> Vec<f32> {
        let (rows, cols) = shape.rows_cols();
        let mut values = vec![f32::NAN; rows * cols];
        dequantize(Format::Bf16, &bf16(name, shape), rows, cols, 0, &mut values);
        values
    }

    #[test]
    fn matrices_have_the_deviation_of_trained_ones_and_differ_by_name() {
        let shape = Shape::Matrix(129, 517);
        let first = values("model.layers.0.mlp.up_proj.weight", shape);
        let count = first.len() as f32;
        let mean = first.iter().sum::<f32>() / count;
        let deviation = (first.iter().map(|value| (value - mean).powi(2)).sum::<f32>() / count).sqrt();
        assert!(mean.abs() < 5e-4 && (deviation - 0.02).abs() < 5e-4, "mean {mean}, deviation {deviation}");
        assert_eq!(first, values("model.layers.0.mlp.up_proj.weight", shape));
        assert_ne!(first, values("model.layers.1.mlp.up_proj.weight", shape));
    }

    #[test]
    fn norms_are_ones_and_biases_zeros() {
        assert_eq!(values("model.norm.weight", Shape::Vector(3)), [1.0; 3]);
        assert_eq!(values("model.layers.0.self_attn.q_proj.bias", Shape::Vector(2)), [0.0; 2]);
    }
}
