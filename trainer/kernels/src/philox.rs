//! Philox4x32-10, a counter-based random number generator.
//!
//! Responsible for: the generator, not the distributions that use it. A number depends only on seed, stream and index, so
//! it can be recomputed in any order and on any device.
//! Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011); known answers from Random123.

use crate::cpu::level::{Level, multiversion};

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const KEY_STEPS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// The four words of one counter.
#[inline(always)]
#[must_use]
pub fn block(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let (mut c, mut k) = (counter, key);
    for _ in 0..ROUNDS {
        let product = |word: u32, multiplier: u32| u64::from(word) * u64::from(multiplier);
        let (p0, p1) = (product(c[0], MULTIPLIERS[0]), product(c[2], MULTIPLIERS[1]));
        c = [(p1 >> 32) as u32 ^ c[1] ^ k[0], p1 as u32, (p0 >> 32) as u32 ^ c[3] ^ k[1], p0 as u32];
        k = [k[0].wrapping_add(KEY_STEPS[0]), k[1].wrapping_add(KEY_STEPS[1])];
    }
    c
}

#[inline(always)]
fn halves(value: u64) -> [u32; 2] {
    [value as u32, (value >> 32) as u32]
}

/// Words `4 * index ..` of a stream.
#[inline(always)]
fn stream_block(seed: u64, stream: u64, index: u64) -> [u32; 4] {
    let ([i0, i1], [s0, s1]) = (halves(index), halves(stream));
    block([i0, i1, s0, s1], halves(seed))
}

multiversion! {
    /// Words `start ..` of a stream.
    fn fill(seed: u64, stream: u64, start: u64, out: &mut [u32]) {
        // Groups of sixteen counters are vectorised; words at both ends are computed one by one.
        const GROUP: usize = 64;
        let word = |index: u64| stream_block(seed, stream, index / 4)[(index % 4) as usize];
        let head = (start.next_multiple_of(4) - start).min(out.len() as u64) as usize;
        let (first, rest) = out.split_at_mut(head);
        for (i, out) in first.iter_mut().enumerate() {
            *out = word(start + i as u64);
        }
        let mut index = start + head as u64;
        let (groups, last) = rest.as_chunks_mut::<GROUP>();
        for group in groups {
            let mut words = [[0u32; GROUP / 4]; 4];
            for lane in 0..GROUP / 4 {
                let block = stream_block(seed, stream, index / 4 + lane as u64);
                for (words, word) in words.iter_mut().zip(block) {
                    words[lane] = word;
                }
            }
            for (i, out) in group.iter_mut().enumerate() {
                *out = words[i % 4][i / 4];
            }
            index += GROUP as u64;
        }
        for (i, out) in last.iter_mut().enumerate() {
            *out = word(index + i as u64);
        }
    }
}

/// Writes words `start ..` of stream `stream` of `seed`: word `i` is word `i % 4` of the counter `i / 4`.
pub fn words(seed: u64, stream: u64, start: u64, out: &mut [u32]) {
    fill(Level::best(), seed, stream, start, out);
}

/// Sequential access to the words of one stream.
#[derive(Clone, Debug)]
pub struct Philox {
    seed: u64,
    stream: u64,
    next: u64,
    block: [u32; 4],
}

impl Philox {
    #[must_use]
    pub fn new(seed: u64, stream: u64) -> Self {
        Self { seed, stream, next: 0, block: [0; 4] }
    }

    /// The next word.
    pub fn next_u32(&mut self) -> u32 {
        let place = (self.next % 4) as usize;
        if place == 0 {
            self.block = stream_block(self.seed, self.stream, self.next / 4);
        }
        self.next += 1;
        self.block[place]
    }

    /// A number in [0, 1), a multiple of 2^-24.
    pub fn uniform(&mut self) -> f32 {
        (self.next_u32() >> 8) as f32 / (1u32 << 24) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers_of_random123() {
        let f = u32::MAX;
        let answers = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([f; 4], [f; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, words) in answers {
            assert_eq!(block(counter, key), words);
        }
    }

    #[test]
    fn any_range_of_a_stream_can_be_computed_alone() {
        let (seed, stream) = (0x1234_5678_9abc_def0, 77);
        let mut generator = Philox::new(seed, stream);
        let whole: Vec<u32> = (0..1000).map(|_| generator.next_u32()).collect();
        for level in Level::available() {
            for (start, len) in [(0, 1000), (1, 130), (3, 1), (4, 64), (6, 200), (999, 1), (17, 0), (130, 70)] {
                let mut part = vec![0; len];
                fill(level, seed, stream, start as u64, &mut part);
                assert_eq!(part, whole[start..start + len], "{level:?} {start}+{len}");
            }
        }
    }

    #[test]
    fn other_seeds_and_streams_give_other_numbers() {
        let first = |seed, stream| Philox::new(seed, stream).next_u32();
        assert_ne!(first(1, 0), first(0, 1));
        assert_ne!(first(1, 0), first(1, 1 << 40));
        assert_ne!(first(1, 0), first(1 << 40, 0));
    }

    #[test]
    fn uniform_numbers_are_uniform() {
        let mut generator = Philox::new(5, 6);
        let numbers: Vec<f32> = (0..20_000).map(|_| generator.uniform()).collect();
        assert!(numbers.iter().all(|n| (0.0..1.0).contains(n)));
        let mean = numbers.iter().sum::<f32>() / numbers.len() as f32;
        assert!((mean - 0.5).abs() < 0.01, "mean {mean}");
    }
}
