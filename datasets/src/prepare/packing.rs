//! Packing: assigns examples to sequences.
//!
//! Responsible for: best-fit decreasing bin packing. Must not depend on: tokens, tensors.
//!
//! Johnson, Demers, Ullman, Garey and Graham, "Worst-Case Performance Bounds for Simple One-Dimensional Packing
//! Algorithms" (1974). Each example remains a separate segment: attention does not cross segments, and the positions of
//! each segment start at 0. Packing therefore changes only the speed.

use std::cmp::Reverse;
use std::collections::BTreeMap;

/// The indexes of the examples in each sequence, ascending within a sequence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sequences {
    members: Vec<u32>,
    /// Where each sequence ends in `members`.
    ends: Vec<u32>,
}

impl Sequences {
    /// One example in each sequence.
    pub(crate) fn alone(count: usize) -> Self {
        Self { members: (0..count as u32).collect(), ends: (1..=count as u32).collect() }
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The examples of the sequence at `index`, which must be below [`Sequences::len`].
    pub(crate) fn get(&self, index: usize) -> &[u32] {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.members[start as usize..self.ends[index] as usize]
    }

    #[cfg(test)]
    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u32]> {
        (0..self.len()).map(|index| self.get(index))
    }
}

/// Packs examples into sequences of at most `capacity` tokens. A longer example gets its own sequence. The result
/// depends only on the lengths.
pub(crate) fn best_fit_decreasing(lengths: &[usize], capacity: usize) -> Sequences {
    let mut order: Vec<u32> = (0..lengths.len() as u32).collect();
    order.sort_by_key(|index| (Reverse(lengths[*index as usize]), *index));
    // The sequence of each example, and the number of sequences.
    let (mut sequence_of, mut count) = (vec![0_u32; lengths.len()], 0);
    // Free tokens → sequences with that many free tokens.
    let mut free: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
    for index in order {
        let length = lengths[index as usize];
        let best = free.range_mut(length.max(1)..).next().and_then(|(room, open)| Some((*room, open.pop()?)));
        let (room, sequence) = best.unwrap_or_else(|| {
            count += 1;
            (capacity.max(length), count - 1)
        });
        if free.get(&room).is_some_and(Vec::is_empty) {
            free.remove(&room);
        }
        sequence_of[index as usize] = sequence;
        if room > length {
            free.entry(room - length).or_default().push(sequence);
        }
    }
    let mut sizes = vec![0_u32; count as usize];
    sequence_of.iter().for_each(|sequence| sizes[*sequence as usize] += 1);
    let mut next: Vec<u32> = sizes
        .iter()
        .scan(0, |end, size| {
            *end += size;
            Some(*end - size)
        })
        .collect();
    let mut members = vec![0; lengths.len()];
    for (example, sequence) in (0_u32..).zip(sequence_of) {
        let place = &mut next[sequence as usize];
        members[*place as usize] = example;
        *place += 1;
    }
    // All members are placed, so `next` now holds the end of each sequence.
    Sequences { members, ends: next }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::best_fit_decreasing;

    #[test]
    fn an_example_goes_into_the_fullest_sequence_that_fits() {
        // 7, 6, 3, 3, 1 into 10: 7 + 3, 6 + 3 + 1.
        let packed =
            |lengths: &[usize]| best_fit_decreasing(lengths, 10).iter().map(<[u32]>::to_vec).collect::<Vec<_>>();
        assert_eq!(packed(&[6, 3, 1, 7, 3]), [vec![1, 3], vec![0, 2, 4]]);
        assert_eq!(packed(&[12, 10, 1]), [vec![0], vec![1], vec![2]]);
        assert!(packed(&[]).is_empty());
    }

    #[test]
    fn a_realistic_mix_is_packed_tightly() {
        // Geometrically distributed lengths with a mean of about 400 tokens, as in typical conversations.
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
        fn every_example_occurs_once_and_fits(
            lengths in prop::collection::vec(1_usize..60, 0..200), capacity in 1_usize..64,
        ) {
            let sequences = best_fit_decreasing(&lengths, capacity);
            let mut all: Vec<u32> = sequences.iter().flatten().copied().collect();
            all.sort_unstable();
            prop_assert!(all.into_iter().eq(0..lengths.len() as u32));
            for sequence in sequences.iter() {
                let tokens: usize = sequence.iter().map(|index| lengths[*index as usize]).sum();
                prop_assert!(tokens <= capacity || sequence.len() == 1);
            }
        }
    }
}
