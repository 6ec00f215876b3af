//! The split into training and held-out examples, and how often each example occurs in an epoch.
//!
//! Responsible for: the split by a fraction, and the weights of sources. Both depend only on the seed.
//! Must not depend on: the content of examples.

use std::collections::BTreeMap;

use tonfall_recipes::plan::SplitBy;

use crate::error::DataError;
use crate::prepare::permutation::{Permutation, mix};

/// Separate random streams for the split and for the weights.
const SPLIT_STREAM: u64 = 1;
const WEIGHT_STREAM: u64 = 2;

/// The examples of one file. They have consecutive indexes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Share {
    pub(crate) examples: usize,
    pub(crate) eval: bool,
    /// How often an example occurs in an epoch. The fractional part is the share of examples that occur once more.
    pub(crate) weight: f64,
}

/// Returns for each example whether it is held out: all examples of evaluation files, and a fraction of the others.
/// `units` has the unit of each example. All examples of a unit stay on one side.
///
/// # Errors
/// If the fraction leaves one side empty.
pub(crate) fn split(
    units: &[u64],
    shares: &[Share],
    fraction: f64,
    by: SplitBy,
    seed: u64,
) -> Result<Vec<bool>, DataError> {
    let mut held_out: Vec<bool> =
        shares.iter().flat_map(|share| std::iter::repeat_n(share.eval, share.examples)).collect();
    if fraction <= 0.0 {
        return Ok(held_out);
    }
    // Sorts the units in an order that depends on the seed.
    let place = |unit: u64| mix(mix(seed ^ mix(SPLIT_STREAM)) ^ unit);
    let mut places: Vec<u64> =
        units.iter().zip(&held_out).filter(|(_, eval)| !**eval).map(|(unit, _)| place(*unit)).collect();
    places.sort_unstable();
    let chosen = match by {
        SplitBy::Row => {
            places.dedup();
            let wanted = ((places.len() as f64 * fraction).round() as usize).max(1);
            (wanted < places.len()).then(|| places[..wanted].to_vec())
        }
        SplitBy::Similar => {
            // Units differ in size, so only units that fit in the remaining number of examples are chosen.
            let mut left = ((places.len() as f64 * fraction).round() as usize).max(1);
            let mut chosen = Vec::new();
            for unit in places.chunk_by(|one, other| one == other).filter(|unit| unit.len() < places.len()) {
                if unit.len() <= left {
                    left -= unit.len();
                    chosen.push(unit[0]);
                }
            }
            (!chosen.is_empty()).then_some(chosen)
        }
    };
    let Some(chosen) = chosen else {
        let hint = match by {
            SplitBy::Similar if places.len() > 1 => {
                "; nearly equal rows stay on one side, unless `data.split_by` is \"row\""
            }
            _ => "",
        };
        return Err(DataError::Split { fraction, rows: places.len(), hint });
    };
    for (eval, unit) in held_out.iter_mut().zip(units) {
        *eval = *eval || chosen.binary_search(&place(*unit)).is_ok();
    }
    Ok(held_out)
}

/// Indexes of examples.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Order {
    /// The examples of one epoch.
    pub(crate) train: Vec<u32>,
    pub(crate) eval: Vec<u32>,
}

/// Repeats or omits examples by the weights of their files. `held_out` and `dropped` have one value for each example.
pub(crate) fn order(held_out: &[bool], dropped: &[bool], shares: &[Share], seed: u64) -> Order {
    let eval = (0_u32..).zip(held_out).filter(|(_, eval)| **eval).map(|(index, _)| index).collect();
    let mut trained: Vec<(u32, u16)> = Vec::with_capacity(held_out.len());
    // Examples by the fractional part of their weight. That share of them, rounded, occurs once more.
    let mut by_fraction: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    let weights = shares.iter().flat_map(|share| std::iter::repeat_n(share.weight, share.examples));
    let excluded = held_out.iter().zip(dropped).map(|(eval, dropped)| *eval || *dropped);
    for ((index, weight), _) in (0_u32..).zip(weights).zip(excluded).filter(|(_, excluded)| !excluded) {
        if weight.fract() > 0.0 {
            by_fraction.entry(weight.fract().to_bits()).or_default().push(trained.len() as u32);
        }
        trained.push((index, weight.trunc() as u16));
    }
    for (fraction, places) in by_fraction {
        let count = (places.len() as f64 * f64::from_bits(fraction)).round() as usize;
        let permutation = Permutation::new(places.len(), seed, WEIGHT_STREAM, fraction);
        (0..count).for_each(|place| trained[places[permutation.at(place)] as usize].1 += 1);
    }
    let passes = trained.iter().map(|(_, copies)| *copies).max().unwrap_or(0);
    let pass = |pass| trained.iter().filter(move |(_, copies)| *copies > pass).map(|(index, _)| *index);
    let train = (0..passes).flat_map(pass).collect();
    Order { train, eval }
}

#[cfg(test)]
mod tests {
    use tonfall_recipes::plan::SplitBy;

    use super::{Order, Share, order, split};

    fn share(examples: usize) -> [Share; 1] {
        [Share { examples, eval: false, weight: 1.0 }]
    }

    fn both(units: &[u64], fraction: f64, by: SplitBy, seed: u64) -> Order {
        let held_out = split(units, &share(units.len()), fraction, by, seed).expect("enough");
        order(&held_out, &vec![false; units.len()], &share(units.len()), seed)
    }

    #[test]
    fn a_unit_stays_together() {
        let units: Vec<u64> = (0..30).map(|index| index / 3).collect();
        for by in [SplitBy::Row, SplitBy::Similar] {
            let split = both(&units, 0.2, by, 7);
            assert_eq!((split.train.len(), split.eval.len()), (24, 6));
            assert!(split.eval.chunks(3).all(|unit| unit.iter().all(|index| index / 3 == unit[0] / 3)), "{split:?}");
            assert_ne!(both(&units, 0.2, by, 8).eval, split.eval);
            assert!(super::split(&units[..3], &share(3), 0.5, by, 7).is_err());
        }
    }

    #[test]
    fn units_of_one_example_are_split_the_same_by_row_and_by_similarity() {
        let units: Vec<u64> = (0..40).map(|index| index * index).collect();
        assert_eq!(both(&units, 0.25, SplitBy::Similar, 7), both(&units, 0.25, SplitBy::Row, 7));
    }

    #[test]
    fn a_large_unit_is_not_held_out_for_a_small_fraction() {
        // 80 nearly equal examples, and 20 others.
        let units: Vec<u64> = (0..100).map(|index| if index < 80 { 0 } else { index }).collect();
        for seed in 0..20 {
            let eval = both(&units, 0.1, SplitBy::Similar, seed).eval;
            assert!(eval.len() == 10 && eval.iter().all(|index| *index >= 80), "{eval:?}");
        }
        let error = split(&[1, 1, 1], &share(3), 0.5, SplitBy::Similar, 7).expect_err("all the same").to_string();
        assert!(error.contains("`data.split_by`"), "{error}");
    }

    #[test]
    fn files_are_on_the_side_that_the_recipe_sets() {
        let shares = [(2, false, 2.0), (3, true, 1.0), (1, false, 1.0)];
        let shares = shares.map(|(examples, eval, weight)| Share { examples, eval, weight });
        let held_out = split(&[0, 1, 2, 3, 4, 5], &shares, 0.0, SplitBy::Similar, 7).expect("no split");
        let split = order(&held_out, &[false; 6], &shares, 7);
        assert_eq!((split.train, split.eval), (vec![0, 1, 5, 0, 1], vec![2, 3, 4]));
        let without = order(&held_out, &[false, true, false, false, false, false], &shares, 7);
        assert_eq!((without.train, without.eval), (vec![0, 5, 0], vec![2, 3, 4]));
    }

    #[test]
    fn weights_repeat_and_omit_examples() {
        let train = |weight| order(&[false; 10], &[false; 10], &[Share { examples: 10, eval: false, weight }], 7).train;
        assert_eq!([1.0, 2.0, 0.5, 1.25].map(|weight| train(weight).len()), [10, 20, 5, 13]);
        let mut twice = train(2.0);
        twice.sort_unstable();
        assert_eq!(twice[..4], [0, 0, 1, 1]);
    }
}
