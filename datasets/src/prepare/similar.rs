//! Examples that repeat others: their side of the split, and the audit findings about them.
//!
//! Responsible for: keeping repeats together, and the findings `duplicates`, `near_duplicates` and `leakage`.
//! Must not depend on: how repeats are recognised.

use std::collections::HashMap;

use tonfall_recipes::plan::AuditRule;

use super::disjoint_sets::DisjointSets;
use crate::audit::duplicates::Repeat;

/// Assigns the same unit to examples that repeat each other, so that a split keeps them on one side. `units` has the
/// unit of each example.
pub(crate) fn join(units: &mut [u64], repeats: &[Repeat]) {
    let mut sets = DisjointSets::default();
    for Repeat { example, of, .. } in repeats {
        sets.join(units[*of as usize], units[*example as usize]);
    }
    for unit in units {
        *unit = sets.root(*unit);
    }
}

/// A finding about an example that repeats another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) rule: AuditRule,
    pub(crate) example: u32,
    pub(crate) of: u32,
    pub(crate) exact: bool,
    /// The example to drop. It is never held out.
    pub(crate) surplus: u32,
}

/// The audit findings about repeats. Held-out examples may repeat each other.
pub(crate) fn findings(repeats: &[Repeat], held_out: &[bool]) -> Vec<Found> {
    let is_held = |example: u32| held_out[example as usize];
    // Equal examples are all compared with the first one. The first held-out one is reported for all of them.
    let mut held: HashMap<u32, u32> = HashMap::new();
    for Repeat { example, of, exact } in repeats {
        for member in [*of, *example].into_iter().filter(|member| is_held(*member) && (*exact || member == of)) {
            held.entry(*of).or_insert(member);
        }
    }
    let found = repeats.iter().filter_map(|&Repeat { example, of, exact }| {
        let found = |rule, of, surplus| Some(Found { rule, example, of, exact, surplus });
        match (is_held(example), held.get(&of)) {
            (true, _) if is_held(of) => None,
            (true, _) => found(AuditRule::Leakage, of, of),
            (false, Some(held)) => found(AuditRule::Leakage, *held, example),
            (false, None) if exact => found(AuditRule::Duplicates, of, example),
            (false, None) => found(AuditRule::NearDuplicates, of, example),
        }
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::{Repeat, findings, join};
    use tonfall_recipes::plan::AuditRule::{Duplicates, Leakage, NearDuplicates};

    fn repeat(example: u32, of: u32, exact: bool) -> Repeat {
        Repeat { example, of, exact }
    }

    #[test]
    fn repeats_of_repeats_share_a_unit() {
        let mut units = vec![10, 11, 12, 13, 14, 15];
        join(&mut units, &[repeat(1, 0, true), repeat(3, 2, false), repeat(4, 1, false), repeat(5, 3, true)]);
        assert_eq!((units[0], units[2]), (10, 12));
        assert!([1, 4].iter().all(|index| units[*index] == units[0]), "{units:?}");
        assert!([3, 5].iter().all(|index| units[*index] == units[2]), "{units:?}");
    }

    #[test]
    fn a_surplus_example_is_never_held_out() {
        // 0, 1 and 2 are equal, and 2 is held out. 4 nearly repeats 3, and 5 nearly repeats 0.
        let repeats = [repeat(1, 0, true), repeat(2, 0, true), repeat(4, 3, false), repeat(5, 0, false)];
        let found = findings(&repeats, &[false, false, true, false, false, false]);
        let shown: Vec<_> = found.iter().map(|found| (found.rule, found.example, found.of, found.surplus)).collect();
        assert_eq!(shown, [(Leakage, 1, 2, 1), (Leakage, 2, 0, 0), (NearDuplicates, 4, 3, 4), (Leakage, 5, 2, 5)]);
        assert_eq!(findings(&repeats, &[false; 6])[0].rule, Duplicates);
        assert!(findings(&repeats, &[true; 6]).is_empty());
    }
}
