//! Sums a contiguous `f32` tensor in the order of PyTorch on a CPU with one thread.
//!
//! bitsandbytes computes the mean of the block scales with PyTorch's sum, so NF4 files are bit-identical only in this order.
//! Source: PyTorch, `aten/src/ATen/native/cpu/SumKernel.cpp` (AVX2 build: 8 lanes). With several threads, PyTorch splits sums
//! of 32,768 elements and more by the number of threads, on which its result then depends.

const LANES: usize = 8;
/// Partial sums over which a row is distributed.
const STREAMS: usize = 4;
const LEVELS: usize = 4;

pub(crate) fn sum(values: &[f32]) -> f32 {
    if values.len() < LANES {
        return deal::<1>(values)[0];
    }
    let whole = values.len() - values.len() % LANES;
    let lanes = deal::<LANES>(&values[..whole]);
    let rest = values[whole..].iter().fold(0.0, |sum, value| sum + value);
    lanes.iter().fold(rest, |sum, lane| sum + lane)
}

/// Sums vectors of `N` lanes. Vector `i` is added to stream `i % 4`; vectors of an incomplete row are added to the first stream.
fn deal<const N: usize>(values: &[f32]) -> [f32; N] {
    let size = values.len() / N / STREAMS;
    let (even, left_over) = values.split_at(size * STREAMS * N);
    let mut streams = cascade::<N>(even, size);
    for vector in left_over.chunks_exact(N) {
        add(&mut streams[0], vector);
    }
    let [mut total, others @ ..] = streams;
    for stream in others {
        add(&mut total, &stream);
    }
    total
}

/// Sums `size` rows of four vectors. After every `step` rows, the lowest level is added to the next, so that numbers of similar
/// magnitude are added.
fn cascade<const N: usize>(values: &[f32], size: usize) -> [[f32; N]; STREAMS] {
    let power = (ceil_log2(size) / LEVELS).max(4);
    let step = 1 << power;
    let mut levels = [[[0.0f32; N]; STREAMS]; LEVELS];
    let mut row = 0;
    for vectors in values.chunks_exact(STREAMS * N) {
        add_row(&mut levels[0], vectors);
        row += 1;
        if row % step != 0 {
            continue;
        }
        for level in 1..LEVELS {
            let lower = std::mem::replace(&mut levels[level - 1], [[0.0; N]; STREAMS]);
            add_row(&mut levels[level], lower.as_flattened());
            if row & ((step - 1) << (level * power)) != 0 {
                break;
            }
        }
    }
    let [mut total, others @ ..] = levels;
    for level in others {
        add_row(&mut total, level.as_flattened());
    }
    total
}

fn add_row<const N: usize>(streams: &mut [[f32; N]; STREAMS], vectors: &[f32]) {
    add(streams.as_flattened_mut(), vectors);
}

fn add(sums: &mut [f32], values: &[f32]) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum += value;
    }
}

/// PyTorch's definition: 1 for values up to 2.
fn ceil_log2(value: usize) -> usize {
    if value <= 2 { 1 } else { (usize::BITS - (value - 1).leading_zeros()) as usize }
}

#[cfg(test)]
mod tests {
    use super::sum;

    /// The bits are those of `torch.sum` (2.11, one thread) over the same values. They depend only on the order.
    #[test]
    fn sums_are_bit_identical_to_pytorch() {
        for (len, bits) in [(7, 0xbe03_5158), (100, 0x40e4_862c), (4099, 0xc1a8_cced), (70_001, 0x438a_c2aa)] {
            let mut state = len as u64;
            let values: Vec<f32> = (0..len)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    ((state >> 40) as f64 / f64::from(1 << 23) - 1.0) as f32
                })
                .collect();
            assert_eq!(sum(&values).to_bits(), bits, "{len} values");
        }
    }
}
