//! Finding weights that are not finite.
//!
//! Responsible for: the first NaN or infinity of stored numbers, without decoding them where the format allows it: in a
//! dense number the exponent tells it, in a block of codes only a scale can be the cause.

use crate::{Format, Nf4Sections, dequantize};

/// Bytes that are scanned without a branch.
const STRIDE: usize = 4096;

/// Index of the first element whose value is NaN or infinite. `bytes` are whole blocks of `format`; for [`Format::Nf4`]
/// the whole matrix of `elements` values, which the other formats don't need.
///
/// # Panics
/// When `bytes` has another length than `elements` NF4 values.
#[must_use]
pub fn first_non_finite(format: Format, bytes: &[u8], elements: usize) -> Option<usize> {
    match format {
        Format::F32 => dense(bytes, |number| u32::from_le_bytes(number) & 0x7F80_0000 == 0x7F80_0000),
        Format::Bf16 => dense(bytes, |number| u16::from_le_bytes(number) & 0x7F80 == 0x7F80),
        Format::F16 => dense(bytes, is_special_f16),
        Format::Nf4 => nf4(bytes, elements),
        Format::Q8_0 | Format::Q4_0 | Format::Q5_0 => {
            blocks(format, bytes, |block| is_special_f16([block[0], block[1]]))
        }
        Format::Q4_1 | Format::Q5_1 | Format::Q4K | Format::Q5K => {
            blocks(format, bytes, |block| is_special_f16([block[0], block[1]]) || is_special_f16([block[2], block[3]]))
        }
        Format::Q6K => blocks(format, bytes, |block| is_special_f16([block[208], block[209]])),
    }
}

fn is_special_f16(number: [u8; 2]) -> bool {
    u16::from_le_bytes(number) & 0x7C00 == 0x7C00
}

fn dense<const BYTES: usize>(bytes: &[u8], is_special: impl Fn([u8; BYTES]) -> bool) -> Option<usize> {
    let (numbers, _) = bytes.as_chunks::<BYTES>();
    let stride = STRIDE / BYTES;
    let any = |numbers: &[[u8; BYTES]]| numbers.iter().fold(false, |any, number| any | is_special(*number));
    let start = numbers.chunks(stride).position(any)? * stride;
    let within = numbers[start..].iter().position(|number| is_special(*number))?;
    Some(start + within)
}

/// The first special value of the first block that has a special scale.
fn blocks(format: Format, bytes: &[u8], is_special: impl Fn(&[u8]) -> bool) -> Option<usize> {
    let (size, len) = (format.block_bytes(), format.block_len());
    let index = bytes.chunks_exact(size).position(is_special)?;
    let mut values = vec![0.0; len];
    dequantize(format, &bytes[index * size..][..size], 1, len, 0, &mut values);
    Some(index * len + values.iter().position(|value| !value.is_finite()).unwrap_or(0))
}

/// NF4's only floating-point numbers are the scales of scales and their offset.
fn nf4(bytes: &[u8], elements: usize) -> Option<usize> {
    let sections = Nf4Sections::of(elements)?;
    let scales = sections.nested_absmax.start..sections.offset.end;
    dense(&bytes[scales], |number: [u8; 4]| !f32::from_le_bytes(number).is_finite())?;
    let mut values = vec![0.0; elements];
    dequantize(Format::Nf4, bytes, 1, elements, 0, &mut values);
    values.iter().position(|value| !value.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{byte_len, quantize_nf4};

    #[test]
    fn the_first_special_number_is_found_in_every_dense_format() {
        let specials: [(Format, &[u8]); 6] = [
            (Format::F32, &[0, 0, 0xC0, 0x7F]),
            (Format::F32, &[0, 0, 0x80, 0xFF]),
            (Format::Bf16, &[0xC0, 0x7F]),
            (Format::Bf16, &[0x80, 0xFF]),
            (Format::F16, &[0, 0x7E]),
            (Format::F16, &[0, 0xFC]),
        ];
        for (format, special) in specials {
            let size = format.block_bytes();
            for at in [0, 1, 2047, 2048, 4999] {
                let mut bytes = vec![0x3B; 5000 * size];
                assert_eq!(first_non_finite(format, &bytes, 5000), None);
                bytes[at * size..][..size].copy_from_slice(special);
                assert_eq!(first_non_finite(format, &bytes, 5000), Some(at), "{format}");
                bytes[4999 * size..].copy_from_slice(special);
                assert_eq!(first_non_finite(format, &bytes, 5000), Some(at), "{format}");
            }
        }
    }

    /// Every f16 that some byte pair gives, at the place of each scale: found exactly when a decoded value is special.
    #[test]
    fn a_special_scale_is_found_in_every_block_format() {
        for format in Format::ALL.into_iter().filter(|format| !format.is_dense() && *format != Format::Nf4) {
            let (size, len) = (format.block_bytes(), format.block_len());
            for place in 0..size - 1 {
                let mut bytes = vec![0x11; 3 * size];
                bytes[size + place..][..2].copy_from_slice(&[0, 0x7E]);
                let mut values = vec![0.0; 3 * len];
                dequantize(format, &bytes, 1, 3 * len, 0, &mut values);
                let expected = values.iter().position(|value| !value.is_finite());
                assert_eq!(first_non_finite(format, &bytes, 3 * len), expected, "{format} {place}");
            }
        }
    }

    #[test]
    fn a_special_scale_of_nf4_is_found() {
        let values: Vec<f32> = (0..64 * 300).map(|i| (i % 37) as f32 - 18.0).collect();
        let mut bytes = quantize_nf4(&values);
        assert_eq!(bytes.len(), byte_len(Format::Nf4, 1, values.len()));
        assert_eq!(first_non_finite(Format::Nf4, &bytes, values.len()), None);
        let second = Nf4Sections::of(values.len()).expect("a layout").nested_absmax.start + 4;
        bytes[second..second + 4].copy_from_slice(&f32::NAN.to_le_bytes());
        assert_eq!(first_non_finite(Format::Nf4, &bytes, values.len()), Some(64 * 256));
    }
}
