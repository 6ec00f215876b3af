//! AdamW with 8-bit moments.
//!
//! Responsible for: the optimizer of Dettmers et al. 2021 (<https://arxiv.org/abs/2110.02861>), as in bitsandbytes. A moment
//! is quantized in blocks of 256 elements: an 8-bit index into a dynamic map with 256 values, dense near zero, times the
//! block's largest magnitude. A step dequantizes a block, runs AdamW in f32, and quantizes it to the nearest values of the
//! map.
//! Must not depend on: schedules, parameter groups.
#![expect(
    clippy::type_complexity,
    reason = "a step returns five tensors, and a backend extension can't use a type alias"
)]

use std::sync::OnceLock;

use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use crate::adamw::{AdamW, Coefficients, step};
use crate::cpu::level::{Level, multiversion};
use crate::cpu::memory::Shared;
use crate::cpu::threads;
use crate::flex::{constant, contiguous, floats, owned, owned_words};
use crate::op::{Autodiff, Backend, CheckpointStrategy, Dispatch, Flex, FloatTensor, IntTensor, backend_extension};
use crate::resident::resident;

/// Elements per block, which share one absmax.
pub const BLOCK: usize = 256;
/// `u32` words per block; a word holds four codes.
pub(crate) const WORDS: usize = BLOCK / 4;

/// One of the two moments of a parameter. The last block is padded.
#[derive(Clone, Debug)]
pub struct Moment8 {
    /// `[64 · blocks]` words, u32: four codes each, the first in the lowest byte.
    pub codes: Tensor<1, Int>,
    /// `[blocks]`, f32: the largest magnitude of each block.
    pub absmax: Tensor<1>,
}

impl Moment8 {
    /// Zeros, for a parameter with this many elements.
    #[must_use]
    pub fn zeros(elements: usize, device: &Device) -> Self {
        let blocks = elements.div_ceil(BLOCK);
        Self::new(vec![0; blocks * WORDS], vec![0.0; blocks], device)
    }

    /// From the contents of [`Moment8::codes`] and [`Moment8::absmax`].
    ///
    /// # Panics
    /// When there are not 64 words for each element of `absmax`.
    #[must_use]
    pub fn new(words: Vec<u32>, absmax: Vec<f32>, device: &Device) -> Self {
        let blocks = absmax.len();
        assert_eq!(words.len(), blocks * WORDS, "words of codes for {blocks} blocks");
        let (codes, absmax) = (TensorData::new(words, [blocks * WORDS]), TensorData::new(absmax, [blocks]));
        resident(device, (codes, absmax), |(codes, absmax)| Self {
            codes: Tensor::from_data(codes, (device, DType::U32)),
            absmax: Tensor::from_data(absmax, device),
        })
    }
}

/// The values that codes stand for.
#[derive(Debug)]
pub(crate) struct Map {
    /// In ascending order.
    pub(crate) values: [f32; 256],
    /// `between[i]` is the midpoint of values `i` and `i + 1`; the last is infinite.
    pub(crate) between: [f32; 256],
}

impl Map {
    /// 0, 1 and seven decades below 1. A decade has evenly spaced values, twice as many as the next lower decade. In a signed
    /// map, half of them are negative.
    fn new(signed: bool) -> Self {
        let mut values = vec![0.0, 1.0];
        for decade in 0..7 {
            let count: usize = if signed { 1 << decade } else { 2 << decade };
            // The rounding of torch.linspace: from both ends, with fused multiply-adds.
            let width = (1.0_f32 - 0.1) / count as f32;
            let bound = |i: usize| match i < count.div_ceil(2) {
                true => width.mul_add(i as f32, 0.1),
                false => (-width).mul_add((count - i) as f32, 1.0),
            };
            let scale = 10_f64.powi(decade - 6) as f32;
            let means = (0..count).map(|i| scale * ((bound(i) + bound(i + 1)) / 2.0));
            values.extend(means.flat_map(|mean| [Some(mean), signed.then_some(-mean)]).flatten());
        }
        values.sort_by(f32::total_cmp);
        let values: [f32; 256] = values.try_into().unwrap_or_else(|_| unreachable!("254 values, 0 and 1"));
        let mut between = [f32::INFINITY; 256];
        between.iter_mut().zip(values.windows(2)).for_each(|(between, pair)| *between = (pair[0] + pair[1]) / 2.0);
        Self { values, between }
    }
}

/// The maps of the first moment (signed) and of the second (unsigned).
pub(crate) fn maps() -> &'static [Map; 2] {
    static MAPS: OnceLock<[Map; 2]> = OnceLock::new();
    MAPS.get_or_init(|| [Map::new(true), Map::new(false)])
}

/// The step as an operation of a backend.
#[backend_extension(Flex, Autodiff, Cube: cfg(feature = "cube"))]
pub(crate) trait AdamW8Ops: Backend {
    /// Parameter, gradient, codes and absmax of the first and of the second moment → the new values of all but the gradient.
    fn adamw8(
        parameter: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        first: IntTensor<Self>,
        first_absmax: FloatTensor<Self>,
        second: IntTensor<Self>,
        second_absmax: FloatTensor<Self>,
        coefficients: Coefficients,
    ) -> (FloatTensor<Self>, IntTensor<Self>, FloatTensor<Self>, IntTensor<Self>, FloatTensor<Self>);
}

multiversion! {
    fn decode(map: &Map, codes: &[u8], absmax: f32, values: &mut [f32]) {
        for (value, code) in values.iter_mut().zip(codes) {
            *value = map.values[*code as usize] * absmax;
        }
    }
}

multiversion! {
    fn encode(map: &Map, values: &[f32], scale: f32, codes: &mut [u8]) {
        for (code, value) in codes.iter_mut().zip(values) {
            let value = value * scale;
            let mut below = 0_usize;
            for half in [128, 64, 32, 16, 8, 4, 2, 1] {
                below += if value > map.between[(below + half - 1) & 255] { half } else { 0 };
            }
            *code = below as u8;
        }
    }
}

/// One block of one moment.
struct Block<'a> {
    map: &'static Map,
    codes: &'a mut [u8],
    absmax: &'a mut f32,
}

impl Block<'_> {
    fn decode(&self, level: Level, values: &mut [f32]) {
        decode(level, self.map, self.codes, *self.absmax, values);
    }

    fn encode(&mut self, level: Level, values: &[f32]) {
        let absmax = values.iter().fold(0.0_f32, |absmax, value| absmax.max(value.abs()));
        let scale = if absmax > 0.0 { absmax.recip() } else { 0.0 };
        encode(level, self.map, values, scale, self.codes);
        *self.absmax = absmax;
    }
}

impl AdamW8Ops for Flex {
    fn adamw8(
        parameter: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        first: IntTensor<Self>,
        first_absmax: FloatTensor<Self>,
        second: IntTensor<Self>,
        second_absmax: FloatTensor<Self>,
        coefficients: Coefficients,
    ) -> (FloatTensor<Self>, IntTensor<Self>, FloatTensor<Self>, IntTensor<Self>, FloatTensor<Self>) {
        /// Blocks per task.
        const PIECE: usize = 64;
        let gradient = contiguous(gradient);
        let gradient = floats(&gradient);
        let (level, len, blocks) = (Level::best(), gradient.len(), gradient.len().div_ceil(BLOCK));
        let [mut parameter, mut first_absmax, mut second_absmax] = [parameter, first_absmax, second_absmax].map(owned);
        let [mut first, mut second] = [first, second].map(owned_words);
        let p = Shared::new(parameter.storage_mut::<f32>());
        let absmax = [&mut first_absmax, &mut second_absmax].map(|tensor| Shared::new(tensor.storage_mut::<f32>()));
        let codes = [&mut first, &mut second]
            .map(|tensor| Shared::new(bytemuck::cast_slice_mut::<u32, u8>(tensor.storage_mut::<u32>())));
        assert_eq!((p.len(), codes[0].len(), codes[1].len()), (len, blocks * BLOCK, blocks * BLOCK), "elements");
        assert_eq!([absmax[0].len(), absmax[1].len()], [blocks; 2], "blocks");
        threads::each(blocks.div_ceil(PIECE), |piece| {
            for block in piece * PIECE..blocks.min((piece + 1) * PIECE) {
                let (start, count) = (block * BLOCK, BLOCK.min(len - block * BLOCK));
                #[expect(unsafe_code, reason = "tasks write disjoint parts of one buffer")]
                // SAFETY: blocks are disjoint ranges.
                let (p, [mut first, mut second]) = unsafe {
                    let moment = |index: usize| Block {
                        map: &maps()[index],
                        codes: &mut codes[index].part(start, BLOCK)[..count],
                        absmax: &mut absmax[index].part(block, 1)[0],
                    };
                    (p.part(start, count), [moment(0), moment(1)])
                };
                let (mut m, mut v) = ([0.0; BLOCK], [0.0; BLOCK]);
                let (m, v) = (&mut m[..count], &mut v[..count]);
                first.decode(level, m);
                second.decode(level, v);
                step(level, p, &gradient[start..][..count], m, v, &coefficients);
                first.encode(level, m);
                second.encode(level, v);
            }
        });
        (parameter, first, first_absmax, second, second_absmax)
    }
}

impl<B: AdamW8Ops, C: CheckpointStrategy> AdamW8Ops for Autodiff<B, C> {
    fn adamw8(
        parameter: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        first: IntTensor<Self>,
        first_absmax: FloatTensor<Self>,
        second: IntTensor<Self>,
        second_absmax: FloatTensor<Self>,
        coefficients: Coefficients,
    ) -> (FloatTensor<Self>, IntTensor<Self>, FloatTensor<Self>, IntTensor<Self>, FloatTensor<Self>) {
        let [parameter, gradient, first_absmax, second_absmax] =
            [parameter, gradient, first_absmax, second_absmax].map(|tensor| tensor.into_primitive());
        let (parameter, first, first_absmax, second, second_absmax) =
            B::adamw8(parameter, gradient, first, first_absmax, second, second_absmax, coefficients);
        let [parameter, first_absmax, second_absmax] = [parameter, first_absmax, second_absmax].map(constant::<B, C>);
        (parameter, first, first_absmax, second, second_absmax)
    }
}

/// As [`crate::adamw::adamw_step`], with 8-bit moments.
///
/// # Panics
/// When the shapes differ, the moments have another number of elements, or `step` is 0.
pub(crate) fn adamw8_step<const D: usize>(
    parameter: &mut Tensor<D>,
    gradient: Tensor<D>,
    [first, second]: [&mut Moment8; 2],
    settings: &AdamW,
    step: u64,
    grad_scale: f32,
) {
    let coefficients = Coefficients::new(settings, step, grad_scale);
    // Moved out of their places, so that each tensor is the only owner of its memory.
    let device = parameter.device();
    let parameter_now = std::mem::replace(parameter, Tensor::empty([0; D], &device)).into_dispatch();
    let take = |moment: &mut Moment8| {
        let nothing = Moment8 { codes: Tensor::empty([0], &device), absmax: Tensor::empty([0], &device) };
        let Moment8 { codes, absmax } = std::mem::replace(moment, nothing);
        (codes.into_dispatch(), absmax.into_dispatch())
    };
    let ((first_now, first_absmax), (second_now, second_absmax)) = (take(first), take(second));
    let gradient = gradient.into_dispatch();
    let updated = <Dispatch as AdamW8Ops>::adamw8(
        parameter_now,
        gradient,
        first_now,
        first_absmax,
        second_now,
        second_absmax,
        coefficients,
    );
    *parameter = Tensor::from_dispatch(updated.0);
    *first = Moment8 { codes: Tensor::from_dispatch(updated.1), absmax: Tensor::from_dispatch(updated.2) };
    *second = Moment8 { codes: Tensor::from_dispatch(updated.3), absmax: Tensor::from_dispatch(updated.4) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adamw::adamw_step;
    use crate::testing::{SHAPES, numbers, tensor, values};

    #[test]
    fn values_are_quantized_to_the_nearest_of_the_map() {
        let values: Vec<f32> = numbers(BLOCK, 1).into_iter().zip(0..).map(|(x, i)| x * 10_f32.powi(-(i % 9))).collect();
        for (map, sign) in maps().iter().zip([|x: f32| x, f32::abs]) {
            let values: Vec<f32> = values.iter().map(|x| sign(*x)).collect();
            let (mut codes, mut absmax) = ([0; BLOCK], 0.0);
            for level in Level::available() {
                Block { map, codes: &mut codes, absmax: &mut absmax }.encode(level, &values);
                for (code, value) in codes.iter().zip(&values) {
                    let off = |entry: &f32| (entry - value / absmax).abs();
                    let best = map.values.iter().map(off).fold(f32::INFINITY, f32::min);
                    assert!(off(&map.values[*code as usize]) <= best + 1e-7, "{value} as {code}");
                }
            }
        }
    }

    /// The expected numbers are sums of the bits of bitsandbytes' `create_dynamic_map`.
    #[test]
    fn maps_equal_those_of_bitsandbytes() {
        let sums = maps().each_ref().map(|map| map.values.iter().map(|value| u64::from(value.to_bits())).sum::<u64>());
        assert_eq!(sums, [535_306_620_548, 262_570_225_560]);
        assert!(maps().iter().all(|map| map.values.is_sorted()));
    }

    #[test]
    fn zeros_stay_zeros() {
        let (mut codes, mut absmax) = ([9; BLOCK], 3.0);
        for (map, code) in maps().iter().zip([127, 0]) {
            let mut block = Block { map, codes: &mut codes, absmax: &mut absmax };
            block.encode(Level::best(), &[0.0; BLOCK]);
            assert_eq!((codes, absmax), ([code; BLOCK], 0.0));
            absmax = 3.0;
        }
    }

    /// Some sizes leave the last block partly filled.
    #[test]
    fn steps_stay_close_to_those_with_f32_moments() {
        let settings = AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 };
        for (rows, columns) in SHAPES {
            let len = rows * columns;
            let start = numbers(len, 1);
            let mut full = tensor(start.clone(), [rows, columns]).inner();
            let (mut m, mut v) = (full.zeros_like(), full.zeros_like());
            let mut narrow = tensor(start, [rows, columns]).inner();
            let mut moments = [(); 2].map(|()| Moment8::zeros(len, &Device::flex()));
            for step in 1..=10 {
                let gradient = || tensor(numbers(len, 10 + step), [rows, columns]).inner();
                adamw_step(&mut full, gradient(), &mut m, &mut v, &settings, step, 0.5);
                let [first, second] = &mut moments;
                adamw8_step(&mut narrow, gradient(), [first, second], &settings, step, 0.5);
            }
            let (full, narrow) = (values(&full), values(&narrow));
            let off = full.iter().zip(&narrow).map(|(a, b)| (a - b).abs());
            let (mean, most) = (off.clone().sum::<f32>() / len as f32, off.fold(0.0, f32::max));
            // Ten steps change an element by at most about 1e-2 each.
            assert!(mean < 2e-3 && most < 2e-2, "{rows}x{columns}: {mean} on average, {most} at most");
        }
    }
}
