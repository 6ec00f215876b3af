//! Tests of the dense formats and of ggml's block formats.

use proptest::prelude::*;
use tonfall_blocks::{
    Format, bf16_from_f32, bf16_to_f32, byte_len, checked_byte_len, dequantize, f16_from_f32, f16_to_f32,
};

fn values(format: Format, bytes: &[u8], rows: usize, cols: usize) -> Vec<f32> {
    let mut out = vec![0.0; rows * cols];
    dequantize(format, bytes, rows, cols, 0, &mut out);
    out
}

/// The expected values of random, real and extreme blocks come from ggml's Python package (`tests/fixtures/gguf_blocks`).
#[test]
fn values_are_bit_identical_to_ggml() {
    const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/gguf_blocks");
    let mut cases = 0;
    for format in Format::ALL.into_iter().filter(|format| !matches!(format, Format::F32 | Format::Nf4)) {
        let file = std::fs::read(format!("{FIXTURES}/{format}.safetensors")).expect("the fixture");
        let tensors = safetensors::SafeTensors::deserialize(&file).expect("a safetensors file");
        for name in tensors.names().into_iter().filter_map(|name| name.strip_suffix(".bytes")) {
            let bytes = tensors.tensor(&format!("{name}.bytes")).expect("bytes");
            let expected = tensors.tensor(&format!("{name}.values")).expect("values");
            let [rows, cols] = expected.shape() else { panic!("{format}: {name} is not a matrix") };
            let found = values(format, bytes.data(), *rows, *cols);
            for (at, (found, expected)) in found.iter().zip(expected.data().as_chunks::<4>().0).enumerate() {
                let expected = f32::from_le_bytes(*expected);
                let same = found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan());
                assert!(same, "{format}: {name}, value {at} is {found}, not {expected}");
            }
            cases += 1;
        }
    }
    assert!(cases >= 22, "{cases} cases");
}

#[test]
fn sizes_equal_those_of_ggml() {
    let sizes = [
        (Format::F32, 4096),
        (Format::F16, 2048),
        (Format::Bf16, 2048),
        (Format::Q8_0, 1088),
        (Format::Q4_0, 576),
        (Format::Q4_1, 640),
        (Format::Q5_0, 704),
        (Format::Q5_1, 768),
        (Format::Q4K, 576),
        (Format::Q5K, 704),
        (Format::Q6K, 840),
        (Format::Nf4, 512 + 16 + 4 + 4),
    ];
    for (format, bytes) in sizes {
        assert_eq!(byte_len(format, 4, 256), bytes, "{format}");
    }
}

#[test]
fn rows_of_partial_blocks_and_sizes_beyond_usize_are_refused() {
    assert_eq!(checked_byte_len(Format::Q8_0, 2, 48), None);
    assert_eq!(checked_byte_len(Format::Q6K, 1, 128), None);
    for format in Format::ALL {
        assert_eq!(checked_byte_len(format, usize::MAX, 256), None, "{format}");
    }
    assert_eq!(checked_byte_len(Format::F32, 1 << 40, 1 << 23), None);
}

#[test]
fn blocks_of_32_decode_to_hand_computed_values() {
    let scale = f16_from_f32(0.5).to_le_bytes();
    let min = f16_from_f32(-2.0).to_le_bytes();
    let mut q8 = scale.to_vec();
    q8.extend((0..32).map(|i| (i - 16) as i8 as u8));
    assert_eq!(values(Format::Q8_0, &q8, 1, 32), (0..32).map(|i| (i - 16) as f32 * 0.5).collect::<Vec<_>>());

    let nibbles: Vec<u8> = (0..16).map(|i| i | (15 - i) << 4).collect();
    let low_then_high = |value: fn(i32) -> f32| (0..16).chain((0..16).rev()).map(value).collect::<Vec<_>>();
    let q4_0 = [&scale[..], &nibbles].concat();
    assert_eq!(values(Format::Q4_0, &q4_0, 1, 32), low_then_high(|i| (i - 8) as f32 * 0.5));
    let q4_1 = [&scale[..], &min, &nibbles].concat();
    assert_eq!(values(Format::Q4_1, &q4_1, 1, 32), low_then_high(|i| i as f32 * 0.5 - 2.0));

    // The fifth bit is set for the second half of the elements.
    let fifth = 0xffff_0000_u32.to_le_bytes();
    let codes =
        low_then_high(|i| i as f32).into_iter().enumerate().map(|(i, code)| code + if i < 16 { 0.0 } else { 16.0 });
    let q5_0 = [&scale[..], &fifth, &nibbles].concat();
    assert_eq!(values(Format::Q5_0, &q5_0, 1, 32), codes.clone().map(|code| (code - 16.0) * 0.5).collect::<Vec<_>>());
    let q5_1 = [&scale[..], &min, &fifth, &nibbles].concat();
    assert_eq!(values(Format::Q5_1, &q5_1, 1, 32), codes.map(|code| code * 0.5 - 2.0).collect::<Vec<_>>());
}

#[test]
fn blocks_of_256_decode_to_hand_computed_values() {
    // Sub-block j has scale j + 1 and minimum 40 + j, which need six bits. All codes are 5.
    let (d, dmin) = (f16_from_f32(0.25).to_le_bytes(), f16_from_f32(0.5).to_le_bytes());
    let (scales, mins): (Vec<u8>, Vec<u8>) = (0..8u8).map(|j| (40 + j, 33 + j)).unzip();
    let mut packed = [0u8; 12];
    for j in 0..4 {
        packed[j] = scales[j] | (scales[j + 4] >> 4) << 6;
        packed[j + 4] = mins[j] | (mins[j + 4] >> 4) << 6;
        packed[j + 8] = scales[j + 4] & 15 | (mins[j + 4] & 15) << 4;
    }
    let expected = |code: f32| -> Vec<f32> {
        (0..256).map(|i| 0.25 * f32::from(scales[i / 32]) * code - 0.5 * f32::from(mins[i / 32])).collect()
    };
    let q4 = [&d[..], &dmin, &packed, &[0x55; 128]].concat();
    assert_eq!(values(Format::Q4K, &q4, 1, 256), expected(5.0));
    let q5 = [&d[..], &dmin, &packed, &[0xff; 32], &[0x55; 128]].concat();
    assert_eq!(values(Format::Q5K, &q5, 1, 256), expected(21.0));

    // Code 0b10_0101 = 37 has the value 5. The scale of sixteen values is signed.
    let signed: Vec<u8> = (0..16).map(|j| (j - 8) as i8 as u8).collect();
    let q6 = [&[0x55; 128][..], &[0b1010_1010; 64], &signed, &d].concat();
    let expected: Vec<f32> = (0..256).map(|i| 0.25 * (i as f32 / 16.0).floor() * 5.0 - 10.0).collect();
    assert_eq!(values(Format::Q6K, &q6, 1, 256), expected);
}

#[test]
fn half_precision_is_exact_over_all_bit_patterns() {
    for bits in 0..=u16::MAX {
        let value = f16_to_f32(bits);
        if value.is_nan() {
            assert!(f16_to_f32(f16_from_f32(value)).is_nan());
            assert!(bits & 0x7c00 == 0x7c00 && bits & 0x03ff != 0, "{bits:#06x} is a number");
        } else {
            assert_eq!(f16_from_f32(value), bits, "{value}");
        }
        let value = bf16_to_f32(bits);
        assert!(value.is_nan() || bf16_from_f32(value) == bits);
    }
    let known =
        [(0x0001, 5.960_464_5e-8), (0x03ff, 6.097_555e-5), (0x0400, 6.103_515_6e-5), (0x7bff, 65504.0), (0xc000, -2.0)];
    for (bits, value) in known {
        assert_eq!(f16_to_f32(bits), value);
    }
    assert_eq!(f16_to_f32(0x7c00), f32::INFINITY);
}

proptest! {
    /// Rounds to nearest, ties to even: no other binary16 or bfloat16 number is nearer.
    #[test]
    fn rounding_is_to_the_nearest(value in any::<f32>()) {
        prop_assume!(!value.is_nan());
        let exact = f64::from(value);
        for (from, to, overflow) in [
            (f16_from_f32 as fn(f32) -> u16, f16_to_f32 as fn(u16) -> f32, 65520.0),
            (bf16_from_f32, bf16_to_f32, 3.396e38),
        ] {
            let bits = from(value);
            let rounded = to(bits);
            if rounded.is_infinite() {
                prop_assert!(value.abs() >= overflow, "{value} overflowed");
                continue;
            }
            let error = (f64::from(rounded) - exact).abs();
            for neighbour in [bits.wrapping_add(1), bits.wrapping_sub(1)].map(to) {
                let other = (f64::from(neighbour) - exact).abs();
                prop_assert!(neighbour.is_nan() || error < other || (error == other && bits & 1 == 0) || neighbour.is_infinite());
            }
        }
    }

    /// Arbitrary bytes never cause a panic, and any range has the values of the whole matrix.
    #[test]
    fn any_range_is_part_of_the_whole(
        number in 0..Format::ALL.len(), rows in 0usize..4, blocks in 0usize..4, seed: u64,
        start: prop::sample::Index, end: prop::sample::Index,
    ) {
        let format = Format::ALL[number];
        let cols = blocks * format.block_len();
        let n = rows * cols;
        let mut state = seed | 1;
        let bytes: Vec<u8> = (0..byte_len(format, rows, cols)).map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 56) as u8
        }).collect();
        let whole = values(format, &bytes, rows, cols);
        let (a, b) = (start.index(n + 1), end.index(n + 1));
        let (a, b) = (a.min(b), a.max(b));
        let mut part = vec![0.0; b - a];
        dequantize(format, &bytes, rows, cols, a, &mut part);
        prop_assert!(part.iter().zip(&whole[a..b]).all(|(x, y)| x.to_bits() == y.to_bits()));
    }
}
