//! Compares the quantizers with ggml's Python package and with llama.cpp (`tests/fixtures/quantized.safetensors`, from
//! `tests/reference/make_quantized.py`), and checks their error bounds.

use proptest::prelude::*;
use safetensors::SafeTensors;
use tonfall_blocks::{Format, bf16_from_f32, byte_len, dequantize, f16_from_f32, first_non_finite, quantize};

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/quantized.safetensors");
const OF_32: [Format; 5] = [Format::Q8_0, Format::Q4_0, Format::Q4_1, Format::Q5_0, Format::Q5_1];
const OF_256: [Format; 3] = [Format::Q4K, Format::Q5K, Format::Q6K];

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

fn quantized(format: Format, values: &[f32], cols: usize, importance: Option<&[f32]>) -> Vec<u8> {
    let mut out = Vec::new();
    quantize(format, values, cols, importance, &mut out);
    assert_eq!(out.len(), byte_len(format, values.len() / cols, cols), "{format}");
    out
}

fn dequantized(format: Format, bytes: &[u8], cols: usize) -> Vec<f32> {
    let rows = bytes.len() / byte_len(format, 1, cols);
    let mut values = vec![0.0; rows * cols];
    dequantize(format, bytes, rows, cols, 0, &mut values);
    values
}

/// Values that were quantized and dequantized.
fn stored(format: Format, values: &[f32], cols: usize, importance: Option<&[f32]>) -> Vec<f32> {
    dequantized(format, &quantized(format, values, cols, importance), cols)
}

/// The squared error, weighted by column.
fn error(values: &[f32], found: &[f32], importance: Option<&[f32]>) -> f64 {
    let weight = |i: usize| importance.map_or(1.0, |weights| f64::from(weights[i % weights.len()]));
    let errors = values.iter().zip(found).enumerate();
    errors.map(|(i, (value, found))| weight(i) * (f64::from(*value) - f64::from(*found)).powi(2)).sum()
}

#[test]
fn bytes_of_blocks_of_32_equal_those_of_ggml() {
    let file = std::fs::read(FIXTURE).expect("the fixture");
    let tensors = SafeTensors::deserialize(&file).expect("a safetensors file");
    for case in ["normal", "laplace", "real", "edges"] {
        let tensor = tensors.tensor(&format!("{case}.values")).expect("values");
        let (values, cols) = (floats(tensor.data()), tensor.shape()[1]);
        for format in OF_32 {
            let expected = tensors.tensor(&format!("{case}.{format}")).expect("blocks");
            let found = quantized(format, &values, cols, None);
            let size = format.block_bytes();
            for (block, (found, expected)) in found.chunks(size).zip(expected.data().chunks(size)).enumerate() {
                assert_eq!(found, expected, "{format}, {case}, block {block}: {:?}", &values[32 * block..][..32]);
            }
        }
    }
}

/// For uncalibrated weights the plain error, for calibrated ones the error weighted by the importance.
#[test]
fn errors_of_k_types_are_below_those_of_llama_cpp() {
    let file = std::fs::read(FIXTURE).expect("the fixture");
    let tensors = SafeTensors::deserialize(&file).expect("a safetensors file");
    let importance = floats(tensors.tensor("importance").expect("weights").data());
    let cols = importance.len();
    for case in ["normal", "laplace", "real"] {
        let values = floats(tensors.tensor(&format!("{case}.values")).expect("values").data());
        for format in OF_256 {
            for (part, importance) in [("llama", None), ("importance", Some(importance.as_slice()))] {
                let theirs = tensors.tensor(&format!("{case}.{format}.{part}")).expect("blocks");
                let theirs = error(&values, &dequantized(format, theirs.data(), cols), importance);
                let ours = error(&values, &stored(format, &values, cols, importance), importance);
                assert!(ours < 0.97 * theirs, "{format}, {case}, {part}: {ours} against {theirs}");
            }
        }
    }
}

#[test]
fn importance_reduces_the_weighted_error() {
    let file = std::fs::read(FIXTURE).expect("the fixture");
    let tensors = SafeTensors::deserialize(&file).expect("a safetensors file");
    let importance = floats(tensors.tensor("importance").expect("weights").data());
    let weights = Some(importance.as_slice());
    for case in ["normal", "laplace", "real"] {
        let values = floats(tensors.tensor(&format!("{case}.values")).expect("values").data());
        for format in [Format::Q4_0, Format::Q4_1, Format::Q5_0, Format::Q5_1, Format::Q4K, Format::Q5K, Format::Q6K] {
            let plain = error(&values, &stored(format, &values, importance.len(), None), weights);
            let weighted = error(&values, &stored(format, &values, importance.len(), weights), weights);
            assert!(weighted < 0.9 * plain, "{format}, {case}: {weighted} against {plain}");
        }
    }
}

#[test]
fn dense_formats_are_rounded_once() {
    let values: Vec<f32> = (0..999).map(|i| ((i as f32 * 0.37).sin() * 7.0).exp()).collect();
    let bytes = |round: fn(f32) -> u16| values.iter().flat_map(|value| round(*value).to_le_bytes()).collect::<Vec<_>>();
    assert_eq!(quantized(Format::F16, &values, 27, None), bytes(f16_from_f32));
    assert_eq!(quantized(Format::Bf16, &values, 27, None), bytes(bf16_from_f32));
    assert_eq!(floats(&quantized(Format::F32, &values, 27, None)), values);
}

#[test]
fn bytes_are_appended() {
    for format in Format::ALL.into_iter().filter(|format| *format != Format::Nf4) {
        let values = vec![0.5; 512];
        let mut out = vec![7; 3];
        quantize(format, &values, 256, None, &mut out);
        assert_eq!(out[..3], [7; 3]);
        assert_eq!(out[3..], quantized(format, &values, 256, None), "{format}");
        quantize(format, &[], 256, None, &mut out);
        assert_eq!(out.len(), 3 + byte_len(format, 2, 256), "{format}");
    }
}

/// Zeros stay zeros. The f16 scale of a constant 0.003 is a subnormal number in some formats.
#[test]
fn constant_blocks_keep_their_value() {
    for format in OF_32.into_iter().chain(OF_256) {
        for weights in [None, Some(vec![3.0; 256]), Some(vec![0.0; 256])] {
            let weights = weights.as_deref();
            assert_eq!(stored(format, &[0.0; 256], 256, weights), [0.0; 256], "{format}");
            assert_eq!(stored(format, &[1e-9; 256], 256, weights), [0.0; 256], "{format}");
            for value in [1.0, -1.0, 0.003, -0.003, 30000.0, -30000.0] {
                for found in stored(format, &[value; 256], 256, weights) {
                    assert!((found - value).abs() <= 0.01 * value.abs(), "{format}: {value} became {found}");
                }
            }
        }
    }
}

/// Scales beyond the range of f16 are limited: values are clipped, never infinite.
#[test]
fn huge_values_are_clipped() {
    for format in OF_32.into_iter().chain(OF_256) {
        for largest in [1e7, 1e12, f32::MAX] {
            for shape in [|_| 1.0, |i: usize| (i as f32).sin(), |i: usize| if i == 77 { 1.0 } else { 1e-3 }] {
                let values: Vec<f32> = (0..256).map(|i| largest * shape(i)).collect();
                for weights in [None, Some([1.0; 256].as_slice())] {
                    for (value, found) in values.iter().zip(stored(format, &values, 256, weights)) {
                        assert!(found.is_finite() && found.abs() <= value.abs().max(65504.0 * 128.0 * 32.0));
                        assert!(
                            found * value >= 0.0 || value.abs() < largest / 4.0,
                            "{format}: {value} became {found}"
                        );
                    }
                }
            }
        }
    }
}

/// A column without importance still decides its own codes, and keeps its value nearly.
#[test]
fn columns_without_importance_keep_meaningful_values() {
    let values: Vec<f32> = (0..256).map(|i| (i as f32 * 0.7).sin()).collect();
    let importance: Vec<f32> = (0..256).map(|i| if i % 3 == 0 { 0.0 } else { 1.0 }).collect();
    for format in OF_256 {
        for (value, found) in values.iter().zip(stored(format, &values, 256, Some(&importance))) {
            assert!((value - found).abs() < 0.2, "{format}: {value} became {found}");
        }
    }
}

/// What the caller should have refused: the content is unspecified, but nothing panics.
#[test]
fn nan_and_infinity_do_not_panic() {
    for special in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for at in [0, 100, 255] {
            let mut values: Vec<f32> = (0..512).map(|i| (i as f32 * 0.7).sin()).collect();
            values[at] = special;
            for format in OF_32.into_iter().chain(OF_256) {
                for weights in [None, Some([1.0; 512].as_slice())] {
                    quantized(format, &values, 512, weights);
                }
            }
        }
    }
}

/// Number of steps between the lowest and the highest code.
fn steps(format: Format) -> f32 {
    match format {
        Format::Q8_0 => 254.0,
        Format::Q4_0 | Format::Q4_1 | Format::Q4K => 15.0,
        Format::Q5_0 | Format::Q5_1 | Format::Q5K => 31.0,
        _ => 63.0,
    }
}

fn matrix() -> impl Strategy<Value = (usize, Vec<f32>)> {
    (1usize..4, 1usize..3, -12i32..15).prop_flat_map(|(rows, blocks, exponent)| {
        let cols = 256 * blocks;
        let value = prop_oneof![8 => -1.0f32..1.0, 1 => Just(0.0), 1 => -0.01f32..0.01];
        let factor = 2.0f32.powi(exponent);
        (Just(cols), prop::collection::vec(value.prop_map(move |value| value * factor), rows * cols))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// The root mean square error of 256 values is at most 0.6 steps, if the codes cover both signs of the largest magnitude.
    #[test]
    fn errors_are_bounded((cols, values) in matrix(), seed: u64, weighted: bool) {
        let importance: Vec<f32> = (0..cols as u64).map(|i| (seed.wrapping_mul(2 * i + 1) >> 40) as f32).collect();
        let importance = weighted.then_some(importance.as_slice());
        for format in OF_32.into_iter().chain(OF_256) {
            let found = stored(format, &values, cols, importance);
            for (i, (values, found)) in values.chunks(256).zip(found.chunks(256)).enumerate() {
                let columns = 256 * i % cols;
                let weights = importance.map(|weights| &weights[columns..columns + 256]);
                let largest = values.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
                let bound = 2.0 * largest / steps(format) * 0.6;
                let total: f64 = weights.map_or(256.0, |weights| weights.iter().map(|weight| f64::from(*weight)).sum());
                let smallest = 2.0f64.powi(-24) * 32.0;
                let root = (error(values, found, weights) / total.max(1.0)).sqrt();
                prop_assert!(root <= f64::from(bound) + smallest, "{format}: {root} in a block up to {largest}");
            }
        }
    }

    /// Any finite f32, with any importance.
    #[test]
    fn finite_values_stay_finite(
        values in prop::collection::vec(any::<f32>().prop_filter("finite", |value| value.is_finite()), 256),
        importance in prop::collection::vec(prop_oneof![0.0f32..1e30, Just(0.0), Just(f32::MAX)], 256),
    ) {
        for format in OF_32.into_iter().chain(OF_256) {
            for weights in [None, Some(importance.as_slice())] {
                let bytes = quantized(format, &values, 256, weights);
                prop_assert_eq!(first_non_finite(format, &bytes, 256), None, "{}", format);
                prop_assert!(dequantized(format, &bytes, 256).iter().all(|value| value.is_finite()), "{}", format);
            }
        }
    }

    #[test]
    fn rows_are_independent((cols, values) in matrix(), weighted: bool) {
        let importance: Vec<f32> = (0..cols).map(|i| 1.0 + (i % 13) as f32).collect();
        let importance = weighted.then_some(importance.as_slice());
        for format in Format::ALL.into_iter().filter(|format| *format != Format::Nf4) {
            let rows: Vec<u8> = values.chunks(cols).flat_map(|row| quantized(format, row, cols, importance)).collect();
            prop_assert_eq!(&rows, &quantized(format, &values, cols, importance), "{}", format);
        }
    }

    /// Values that came from a file are found again: exactly in dense formats, and within the rounding of a scale in blocks of 32.
    #[test]
    fn stored_values_are_quantized_to_themselves((cols, values) in matrix()) {
        for format in [Format::F32, Format::F16, Format::Bf16] {
            let once = stored(format, &values, cols, None);
            prop_assert_eq!(&once, &stored(format, &once, cols, None), "{}", format);
        }
        for format in OF_32 {
            let once = stored(format, &values, cols, None);
            let twice = stored(format, &once, cols, None);
            let largest = once.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
            for (once, twice) in once.iter().zip(&twice) {
                prop_assert!((once - twice).abs() <= 0.002 * largest, "{}: {} became {}", format, once, twice);
            }
        }
    }
}
