//! Which examples are trained, which are held out, and how often each comes in an epoch.
//!
//! Responsible for: the split by a fraction, and the weights of sources, both by the seed alone.
//! Must not depend on: what is in the examples.

use std::collections::HashMap;

use crate::error::DataError;
use crate::permutation::Permutation;

/// What the split into train and eval, and the choice by weights, are called among the uses of the seed.
const SPLIT_STREAM: u64 = 1;
const WEIGHT_STREAM: u64 = 2;

/// What is known of an example.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Member {
    pub(crate) eval: bool,
    /// How often it comes in an epoch; a fraction is a chance.
    pub(crate) weight: f64,
    /// Examples of one unit stay on one side of the split.
    pub(crate) unit: u64,
}

/// Indexes of examples.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) train: Vec<u32>,
    pub(crate) eval: Vec<u32>,
}

/// Holds out a share of the units that are trained, and repeats or leaves out examples by their weights.
///
/// # Errors
/// When a fraction leaves nothing to train on.
pub(crate) fn order(members: &mut [Member], fraction: f64, seed: u64) -> Result<Order, DataError> {
    if fraction > 0.0 {
        let mut numbers: HashMap<u64, usize> = HashMap::new();
        for member in members.iter().filter(|member| !member.eval) {
            let next = numbers.len();
            numbers.entry(member.unit).or_insert(next);
        }
        let units = numbers.len();
        let held_out = ((units as f64 * fraction).round() as usize).max(1);
        if held_out >= units {
            return Err(DataError::Split { fraction, rows: units, side: "train on" });
        }
        let permutation = Permutation::new(units, seed, SPLIT_STREAM, 0);
        let mut chosen = vec![false; units];
        (0..held_out).for_each(|place| chosen[permutation.at(place)] = true);
        for member in members.iter_mut().filter(|member| !member.eval) {
            member.eval = chosen[numbers[&member.unit]];
        }
    }
    let eval = (0..members.len() as u32).filter(|index| members[*index as usize].eval).collect();
    let trained: Vec<u32> = (0..members.len() as u32).filter(|index| !members[*index as usize].eval).collect();
    let mut copies: Vec<u64> = trained.iter().map(|index| members[*index as usize].weight.trunc() as u64).collect();
    // Of what is left of a weight, the nearest number of its examples.
    let mut by_weight: HashMap<u64, Vec<usize>> = HashMap::new();
    for (place, index) in trained.iter().enumerate() {
        let fraction = members[*index as usize].weight.fract();
        if fraction > 0.0 {
            by_weight.entry(fraction.to_bits()).or_default().push(place);
        }
    }
    for (fraction, places) in by_weight {
        let count = (places.len() as f64 * f64::from_bits(fraction)).round() as usize;
        let permutation = Permutation::new(places.len(), seed, WEIGHT_STREAM, fraction);
        (0..count).for_each(|place| copies[places[permutation.at(place)]] += 1);
    }
    let passes = copies.iter().copied().max().unwrap_or(0);
    let pass =
        |pass: u64| trained.iter().zip(&copies).filter(move |(_, copies)| **copies > pass).map(|(index, _)| *index);
    Ok(Order { train: (0..passes).flat_map(pass).collect(), eval })
}

#[cfg(test)]
mod tests {
    use super::{Member, order};

    fn members(count: u64, weight: f64) -> Vec<Member> {
        (0..count).map(|index| Member { eval: false, weight, unit: index / 3 }).collect()
    }

    #[test]
    fn a_unit_stays_together() {
        let mut all = members(30, 1.0);
        let split = order(&mut all, 0.2, 7).expect("enough");
        assert_eq!((split.train.len(), split.eval.len()), (24, 6));
        assert!(split.eval.chunks(3).all(|unit| unit.iter().all(|index| index / 3 == unit[0] / 3)), "{split:?}");
        assert!(order(&mut members(3, 1.0), 0.5, 7).is_err());
    }

    #[test]
    fn weights_repeat_and_leave_out() {
        let count = |weight| order(&mut members(10, weight), 0.0, 7).expect("no split").train.len();
        assert_eq!([count(1.0), count(2.0), count(0.5), count(1.25)], [10, 20, 5, 13]);
        let mut twice = order(&mut members(10, 2.0), 0.0, 7).expect("no split").train;
        twice.sort_unstable();
        assert_eq!(twice[..4], [0, 0, 1, 1]);
    }
}
