//! Terminology adherence: how many expected and forbidden terms the answers to held-out prompts use.
//!
//! Responsible for: the counts. `tonfall_measures` decides what counts as a use. Must not depend on: models.

/// Counts over a set of held-out prompts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Adherence {
    pub prompts: usize,
    /// Expected terms, over all prompts.
    pub expected: usize,
    /// Expected terms that were used.
    pub expected_used: usize,
    /// Forbidden terms, over all prompts.
    pub avoided: usize,
    /// Forbidden terms that were used.
    pub avoided_used: usize,
}

impl Adherence {
    /// Fraction of the expected terms that were used, 0 to 1; 1 if no terms were expected.
    pub fn rate(&self) -> f64 {
        match self.expected {
            0 => 1.0,
            expected => self.expected_used as f64 / expected as f64,
        }
    }

    /// Adds one prompt's counts.
    pub fn count(&mut self, expected: usize, missing: usize, avoided: usize, violations: usize) {
        self.prompts += 1;
        self.expected += expected;
        self.expected_used += expected - missing;
        self.avoided += avoided;
        self.avoided_used += violations;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_add_up() {
        let mut adherence = Adherence::default();
        adherence.count(3, 1, 2, 0);
        adherence.count(1, 0, 0, 0);
        assert_eq!((adherence.expected, adherence.expected_used), (4, 3));
        assert_eq!(adherence.rate(), 0.75);
        assert_eq!(Adherence::default().rate(), 1.0);
    }
}
