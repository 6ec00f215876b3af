//! Which examples share a sequence.
//!
//! Responsible for: best-fit decreasing bin packing. Must not depend on: tokens, tensors.
//!
//! Johnson, Demers, Ullman, Garey and Graham, "Worst-Case Performance Bounds for Simple One-Dimensional Packing
//! Algorithms" (1974). Examples in a sequence stay segments of their own: nothing attends across them, and positions
//! start anew, so that packing changes the speed and nothing else.

use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Sequences of examples (as indexes of `lengths`, ascending within a sequence) that hold at most `capacity` tokens
/// each. An example that is longer gets a sequence of its own. Depends on the lengths alone.
pub(crate) fn best_fit_decreasing(lengths: &[usize], capacity: usize) -> Vec<Vec<u32>> {
    let mut order: Vec<u32> = (0..lengths.len() as u32).collect();
    order.sort_by_key(|index| (Reverse(lengths[*index as usize]), *index));
    let mut sequences: Vec<Vec<u32>> = Vec::new();
    // Free tokens → sequences that have so many.
    let mut free: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for index in order {
        let length = lengths[index as usize];
        let best = free.range_mut(length.max(1)..).next().and_then(|(room, open)| Some((*room, open.pop()?)));
        let (room, sequence) = best.unwrap_or_else(|| {
            sequences.push(Vec::new());
            (capacity.max(length), sequences.len() - 1)
        });
        if free.get(&room).is_some_and(Vec::is_empty) {
            free.remove(&room);
        }
        sequences[sequence].push(index);
        if room > length {
            free.entry(room - length).or_default().push(sequence);
        }
    }
    for sequence in &mut sequences {
        sequence.sort_unstable();
    }
    sequences
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::best_fit_decreasing;

    #[test]
    fn the_tightest_gap_is_filled() {
        // 7, 6, 3, 3, 1 into 10: 7 + 3, 6 + 3 + 1.
        assert_eq!(best_fit_decreasing(&[6, 3, 1, 7, 3], 10), [vec![1, 3], vec![0, 2, 4]]);
        assert_eq!(best_fit_decreasing(&[12, 10, 1], 10), [vec![0], vec![1], vec![2]]);
        assert!(best_fit_decreasing(&[], 10).is_empty());
    }

    #[test]
    fn a_realistic_mix_is_packed_tightly() {
        // Lengths of a geometric distribution with a mean of about 400, as conversations have.
        let mut state = 7_u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1_u64 << 53) as f64
        };
        let lengths: Vec<usize> = (0..5000).map(|_| ((-400.0 * random().ln()) as usize).clamp(16, 4096)).collect();
        let sequences = best_fit_decreasing(&lengths, 4096);
        let filled = lengths.iter().sum::<usize>() as f64 / (sequences.len() * 4096) as f64;
        assert!(filled > 0.97, "{filled}");
    }

    proptest! {
        #[test]
        fn every_example_comes_once_and_fits(
            lengths in prop::collection::vec(1_usize..60, 0..200), capacity in 1_usize..64,
        ) {
            let sequences = best_fit_decreasing(&lengths, capacity);
            let mut all = sequences.concat();
            all.sort_unstable();
            prop_assert!(all.into_iter().eq(0..lengths.len() as u32));
            for sequence in sequences {
                let tokens: usize = sequence.iter().map(|index| lengths[*index as usize]).sum();
                prop_assert!(tokens <= capacity || sequence.len() == 1);
            }
        }
    }
}
