//! Random permutations that depend only on a seed.
//!
//! Responsible for: a permutation of `0..len` that computes each element separately. A resumed run therefore needs only
//! its step number. Must not depend on: what is permuted, threads.
//!
//! A Feistel network over the smallest even number of bits that holds `len`. The network is applied repeatedly until
//! the result is below `len` (cycle walking: Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002). The
//! round function is the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number
//! Generators", 2014). The permutation is well mixed, but not cryptographically secure.

const ROUNDS: u64 = 6;
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// A permutation of `0..len`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Permutation {
    len: u64,
    half_bits: u32,
    key: u64,
}

impl Permutation {
    /// Arguments: the seed, a stream (one for each use of the seed) and an index in the stream (for example the epoch).
    pub(crate) fn new(len: usize, seed: u64, stream: u64, index: u64) -> Self {
        let len = len as u64;
        let bits = 64 - len.saturating_sub(1).leading_zeros();
        let key = mix(mix(mix(seed) ^ stream).wrapping_add(index));
        Self { len, half_bits: bits.div_ceil(2).max(1), key }
    }

    /// The number at `place`, which must be below `len`.
    pub(crate) fn at(&self, place: usize) -> usize {
        debug_assert!((place as u64) < self.len);
        let mut number = place as u64;
        loop {
            number = self.encipher(number);
            // The loop ends: the cycle returns at the latest to its start, which is below `len`.
            if number < self.len {
                return number as usize;
            }
        }
    }

    fn encipher(&self, number: u64) -> u64 {
        let mask = (1 << self.half_bits) - 1;
        let (mut left, mut right) = (number >> self.half_bits, number & mask);
        for round in 0..ROUNDS {
            let key = self.key.wrapping_add((round + 1).wrapping_mul(GOLDEN));
            (left, right) = (right, left ^ (mix(right ^ key) & mask));
        }
        left << self.half_bits | right
    }
}

/// The finaliser of SplitMix64.
pub(crate) const fn mix(mut state: u64) -> u64 {
    state = state.wrapping_add(GOLDEN);
    state = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    state = (state ^ (state >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    state ^ (state >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Permutation;

    proptest! {
        #[test]
        fn every_number_occurs_once(len in 1_usize..600, seed: u64, epoch in 0_u64..1000) {
            let permutation = Permutation::new(len, seed, 1, epoch);
            let mut numbers: Vec<usize> = (0..len).map(|place| permutation.at(place)).collect();
            numbers.sort_unstable();
            prop_assert!(numbers.into_iter().eq(0..len));
        }
    }

    #[test]
    fn the_permutation_is_pinned() {
        let order =
            |seed, epoch| (0..10).map(|place| Permutation::new(10, seed, 0, epoch).at(place)).collect::<Vec<_>>();
        assert_eq!(order(7, 0), order(7, 0));
        assert_ne!(order(7, 0), order(7, 1));
        assert_ne!(order(7, 0), order(8, 0));
        // Pinned: a change would change the order of data in every resumed run.
        assert_eq!(order(7, 0), PINNED);
    }

    const PINNED: [usize; 10] = [2, 9, 6, 5, 7, 0, 3, 4, 1, 8];

    #[test]
    fn every_place_is_about_equally_likely() {
        let mut counts = [[0_u32; 8]; 8];
        for seed in 0..8000 {
            let permutation = Permutation::new(8, seed, 0, 0);
            for (place, counts) in counts.iter_mut().enumerate() {
                counts[permutation.at(place)] += 1;
            }
        }
        let expected = 850..1150;
        assert!(counts.iter().flatten().all(|count| expected.contains(count)), "{counts:?}");
    }
}
