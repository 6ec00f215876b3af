//! Compares NF4 with bitsandbytes' output (`tests/fixtures/nf4.safetensors`, from `tests/reference/make_nf4.py`).

use proptest::prelude::*;
use safetensors::SafeTensors;
use tonfall_blocks::{
    DYNAMIC_MAP, Format, NF4, NF4_BLOCK, Nf4Piece, Nf4Sections, Nf4View, byte_len, dequantize, join_nf4, pack_nf4,
    quantize_nf4,
};

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/nf4.safetensors");
const CASES: [&str; 8] = ["square", "many_blocks", "odd_columns", "wide", "zeros", "single_block", "short", "real"];

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

#[test]
fn the_dynamic_map_is_bit_identical_to_bitsandbytes() {
    let file = std::fs::read(FIXTURE).expect("the fixture");
    let tensors = SafeTensors::deserialize(&file).expect("a safetensors file");
    let expected = floats(tensors.tensor("dynamic_map").expect("the map").data());
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&DYNAMIC_MAP), bits(&expected));
}

#[test]
fn quantizing_is_bit_identical_to_bitsandbytes() {
    let file = std::fs::read(FIXTURE).expect("the fixture");
    let tensors = SafeTensors::deserialize(&file).expect("a safetensors file");
    for case in CASES {
        let data = |part: &str| tensors.tensor(&format!("{case}.{part}")).expect(part).data().to_vec();
        let source = floats(&data("source"));
        let bytes = quantize_nf4(&source);
        let sections = Nf4Sections::of(source.len()).expect("a layout");
        assert_eq!(bytes[sections.codes], data("codes"), "{case}: codes");
        assert_eq!(bytes[sections.absmax], data("absmax"), "{case}: absmax");
        assert_eq!(bytes[sections.nested_absmax], data("nested_absmax"), "{case}: nested_absmax");
        assert_eq!(bytes[sections.offset], data("offset"), "{case}: offset");
    }
}

/// bitsandbytes divides the values of a partial block, and multiplies those of a full block by the reciprocal. With the other
/// operation, the last value would have another code.
#[test]
fn values_of_a_partial_block_are_divided_by_the_scale() {
    let bits = [0x3f09_52c6, 0x3f55_903e, 0x3ec3_fd2c, 0xbe8a_bdc0, 0xbf15_e0c0, 0xbdf5_17c0, 0xbf71_4654, 0xbedd_f86f];
    let bytes = quantize_nf4(&bits.map(f32::from_bits));
    assert_eq!(bytes[..4], [223, 196, 22, 3]);
}

#[test]
fn dequantizing_is_bit_identical_to_bitsandbytes() {
    let file = std::fs::read(FIXTURE).expect("the fixture");
    let tensors = SafeTensors::deserialize(&file).expect("a safetensors file");
    for case in CASES {
        let tensor = |part: &str| tensors.tensor(&format!("{case}.{part}")).expect(part);
        let data = |part: &str| tensor(part).data().to_vec();
        let expected = floats(&data("values"));
        let offset = floats(&data("offset"))[0];
        let (codes, absmax, nested) = (data("codes"), data("absmax"), floats(&data("nested_absmax")));
        let bytes = pack_nf4(expected.len(), &codes, &absmax, &nested, offset).expect("parts that fit");
        let mut values = vec![0.0; expected.len()];
        dequantize(Format::Nf4, &bytes, 1, expected.len(), 0, &mut values);
        for (at, (value, expected)) in values.iter().zip(&expected).enumerate() {
            assert_eq!(value.to_bits(), expected.to_bits(), "{case}: value {at} is {value}, not {expected}");
        }
    }
}

#[test]
fn parts_of_other_lengths_are_refused() {
    assert!(pack_nf4(65, &[0; 33], &[0; 2], &[0.0], 0.0).is_some());
    assert!(pack_nf4(65, &[0; 32], &[0; 2], &[0.0], 0.0).is_none());
    assert!(pack_nf4(65, &[0; 33], &[0; 1], &[0.0], 0.0).is_none());
    assert!(pack_nf4(65, &[0; 33], &[0; 2], &[], 0.0).is_none());
    assert!(Nf4View::from_bytes(&[0; 7], 65).is_none());
}

#[test]
fn an_empty_matrix_is_quantized_to_an_empty_buffer() {
    let bytes = quantize_nf4(&[]);
    assert_eq!(bytes.len(), byte_len(Format::Nf4, 0, 0));
    dequantize(Format::Nf4, &bytes, 0, 0, 0, &mut []);
}

proptest! {
    /// The error of a value is at most half the widest gap of the table times the scale of its block, plus the quantization error
    /// of the scale.
    #[test]
    fn the_error_is_bounded(values in prop::collection::vec(-4.0f32..4.0, 1..1500)) {
        let bytes = quantize_nf4(&values);
        let view = Nf4View::from_bytes(&bytes, values.len()).expect("its own layout");
        let mut back = vec![0.0; values.len()];
        dequantize(Format::Nf4, &bytes, 1, values.len(), 0, &mut back);
        let widest = NF4.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f32::max) / 2.0;
        for (block, (values, back)) in values.chunks(NF4_BLOCK).zip(back.chunks(NF4_BLOCK)).enumerate() {
            let largest = values.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
            let of_scale = (view.block_scale(block) - largest).abs();
            for (value, back) in values.iter().zip(back) {
                prop_assert!((value - back).abs() <= largest * widest + of_scale + 1e-6, "{value} became {back}");
            }
        }
    }

    /// Arbitrary bytes never cause a panic, and any range has the values of the whole matrix.
    #[test]
    fn any_range_is_part_of_the_whole(
        rows in 0usize..20, cols in 0usize..70, seed: u64, start: prop::sample::Index, end: prop::sample::Index,
    ) {
        let n = rows * cols;
        let mut state = seed | 1;
        let bytes: Vec<u8> = (0..byte_len(Format::Nf4, rows, cols)).map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 56) as u8
        }).collect();
        let mut whole = vec![0.0; n];
        dequantize(Format::Nf4, &bytes, rows, cols, 0, &mut whole);
        let (a, b) = (start.index(n + 1), end.index(n + 1));
        let (a, b) = (a.min(b), a.max(b));
        let mut part = vec![0.0; b - a];
        dequantize(Format::Nf4, &bytes, rows, cols, a, &mut part);
        prop_assert!(part.iter().zip(&whole[a..b]).all(|(x, y)| x.to_bits() == y.to_bits()));
    }
}

#[test]
fn joined_pieces_equal_the_buffer_of_all_values() {
    let values: Vec<f32> = (0..70 * NF4_BLOCK + 5).map(|i| (i as f32 * 0.37).sin() * (1 + i % 97) as f32).collect();
    let whole = quantize_nf4(&values);
    for blocks in [1, 3, 64, 200] {
        let pieces: Vec<_> = values.chunks(blocks * NF4_BLOCK).map(Nf4Piece::new).collect();
        assert_eq!(join_nf4(values.len(), &pieces), whole, "{blocks} blocks a piece");
    }
}
