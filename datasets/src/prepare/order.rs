//! Which examples are trained, which are held out, and how often each comes in an epoch.
//!
//! Responsible for: the split by a fraction, and the weights of sources, both by the seed alone.
//! Must not depend on: what is in the examples.

use std::collections::BTreeMap;

use crate::error::DataError;
use crate::prepare::permutation::{Permutation, mix};

/// What the split into train and eval, and the choice by weights, are called among the uses of the seed.
const SPLIT_STREAM: u64 = 1;
const WEIGHT_STREAM: u64 = 2;

/// The examples of one file, which come one after another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Share {
    pub(crate) examples: usize,
    pub(crate) eval: bool,
    /// How often an example comes in an epoch; a fraction is a chance.
    pub(crate) weight: f64,
}

/// Indexes of examples.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) train: Vec<u32>,
    pub(crate) eval: Vec<u32>,
    /// Of each example.
    pub(crate) held_out: Vec<bool>,
}

/// Holds out a share of the units that are trained, and repeats or leaves out examples by their weights. `units` has
/// each example's: those of one unit stay on one side of the split.
///
/// # Errors
/// When a fraction leaves nothing to train on.
pub(crate) fn order(units: &[u64], shares: &[Share], fraction: f64, seed: u64) -> Result<Order, DataError> {
    let mut held_out: Vec<bool> =
        shares.iter().flat_map(|share| std::iter::repeat_n(share.eval, share.examples)).collect();
    if fraction > 0.0 {
        // Units in an order of the seed's own; the first of them are held out.
        let place = |unit: u64| mix(mix(seed ^ mix(SPLIT_STREAM)) ^ unit);
        let mut places: Vec<u64> =
            units.iter().zip(&held_out).filter(|(_, eval)| !**eval).map(|(unit, _)| place(*unit)).collect();
        places.sort_unstable();
        places.dedup();
        let wanted = ((places.len() as f64 * fraction).round() as usize).max(1);
        let Some(border) = places.get(wanted) else {
            return Err(DataError::Split { fraction, rows: places.len(), side: "train on" });
        };
        for (eval, unit) in held_out.iter_mut().zip(units) {
            *eval = *eval || place(*unit) < *border;
        }
    }
    let eval = (0_u32..).zip(&held_out).filter(|(_, eval)| **eval).map(|(index, _)| index).collect();
    let mut trained: Vec<(u32, u16)> = Vec::with_capacity(held_out.len());
    // Of what is left of a weight, the nearest number of its examples.
    let mut by_fraction: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    let weights = shares.iter().flat_map(|share| std::iter::repeat_n(share.weight, share.examples));
    for ((index, weight), _) in (0_u32..).zip(weights).zip(&held_out).filter(|(_, eval)| !**eval) {
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
    Ok(Order { train, eval, held_out })
}

#[cfg(test)]
mod tests {
    use super::{Share, order};

    #[test]
    fn a_unit_stays_together() {
        let units: Vec<u64> = (0..30).map(|index| index / 3).collect();
        let share = |examples| [Share { examples, eval: false, weight: 1.0 }];
        let split = order(&units, &share(30), 0.2, 7).expect("enough");
        assert_eq!((split.train.len(), split.eval.len()), (24, 6));
        assert!(split.eval.chunks(3).all(|unit| unit.iter().all(|index| index / 3 == unit[0] / 3)), "{split:?}");
        assert_ne!(order(&units, &share(30), 0.2, 8).expect("enough").eval, split.eval);
        assert!(order(&units[..3], &share(3), 0.5, 7).is_err());
    }

    #[test]
    fn files_are_on_the_side_that_the_recipe_says() {
        let shares = [(2, false, 2.0), (3, true, 1.0), (1, false, 1.0)];
        let shares = shares.map(|(examples, eval, weight)| Share { examples, eval, weight });
        let split = order(&[0, 1, 2, 3, 4, 5], &shares, 0.0, 7).expect("no split");
        assert_eq!((split.train, split.eval), (vec![0, 1, 5, 0, 1], vec![2, 3, 4]));
    }

    #[test]
    fn weights_repeat_and_leave_out() {
        let units: Vec<u64> = (0..10).collect();
        let train =
            |weight| order(&units, &[Share { examples: 10, eval: false, weight }], 0.0, 7).expect("no split").train;
        assert_eq!([1.0, 2.0, 0.5, 1.25].map(|weight| train(weight).len()), [10, 20, 5, 13]);
        let mut twice = train(2.0);
        twice.sort_unstable();
        assert_eq!(twice[..4], [0, 0, 1, 1]);
    }
}
