//! The hash for the split and for the choice of task templates.
//!
//! Responsible for: returning the same 64 bits for the same values in every release of Rust and of this program, on
//! every platform, so that a resumed run of an older build has the same split.
//!
//! The hash is SipHash-1-3 with a zero key. std's `DefaultHasher` uses the same function up to Rust 1.95, but std may
//! change it at any time. Builds that used `DefaultHasher` have the same values.

use std::hash::Hash;

use siphasher::sip::SipHasher13;

pub(crate) type StableHasher = SipHasher13;

/// The hash of a value. Integers must have a fixed width: `usize` is not the same on every platform.
pub(crate) fn stable_hash(value: impl Hash) -> u64 {
    let mut hasher = StableHasher::new();
    value.hash(&mut hasher);
    std::hash::Hasher::finish(&hasher)
}

#[cfg(test)]
mod tests {
    use tonfall_recipes::plan::TemplateKind;

    use super::*;

    /// The values of `DefaultHasher` in Rust 1.95. A change would change the split of every resumed run.
    #[test]
    fn the_hash_equals_that_of_earlier_builds() {
        assert_eq!(stable_hash((42_u64, 0_u64, 1_u64)), ROW);
        assert_eq!(stable_hash((0_u64, 7_u64)), UNIT);
        assert_eq!(stable_hash("handover"), CONCEPT);
        assert_eq!(stable_hash((5_u64, TemplateKind::Correction as u64)), TEMPLATE);
    }

    const ROW: u64 = 10_030_856_406_551_088_217;
    const UNIT: u64 = 11_403_016_080_165_192_440;
    const CONCEPT: u64 = 7_723_863_667_065_907_634;
    const TEMPLATE: u64 = 14_625_846_434_884_105_478;

    /// Templates are chosen by the number of their kind, so new kinds must be added at the end.
    #[test]
    fn kinds_keep_their_numbers() {
        use TemplateKind::{Context, Contrast, Correction, Definition, Rewrite, Usage, Write};
        let kinds = [Rewrite, Write, Usage, Correction, Definition, Contrast, Context];
        assert_eq!(kinds.map(|kind| kind as u64), [0, 1, 2, 3, 4, 5, 6]);
    }
}
