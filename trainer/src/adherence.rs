//! Terminology adherence: whether a text uses the expected terms and no forbidden ones.
//!
//! Responsible for: finding the terms that a generation uses, and counts over all held-out prompts. `tonfall_terms`
//! decides what counts as a use. Must not depend on: models.

use tonfall_terms::{Case, Matcher, Term, TermsError};

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

/// For each of `terms`: whether `text` uses the term as whole words, in any case, without inflected forms.
///
/// # Errors
/// If there are too many terms for one matcher.
pub(crate) fn used(text: &str, terms: &[String]) -> Result<Vec<bool>, TermsError> {
    let matcher = Matcher::new(terms.iter().map(|text| Term { text, language: None }), Case::Any)?;
    let mut used = vec![false; terms.len()];
    matcher.used(text).into_iter().for_each(|index| used[index] = true);
    Ok(used)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_found_in_any_case_and_normal_form() {
        let terms = ["guest", "Gäste", "delivery", "money-back promise"].map(str::to_owned);
        let used = |text: &str| used(text, &terms).expect("four terms");
        assert_eq!(used("Dear Guest, our money-back\npromise holds."), [true, false, false, true]);
        assert_eq!(used("Die Ga\u{308}ste im guesthouse"), [false, true, false, false]);
        assert_eq!(used(""), [false; 4]);
    }

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
