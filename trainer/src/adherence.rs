//! Terminology adherence: whether a text uses the expected terms and no forbidden ones.
//!
//! Responsible for: matching terms in text and counting. Pure functions.

/// Counts over a set of held-out prompts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Adherence {
    pub prompts: usize,
    /// Terms that were expected, over all prompts.
    pub expected: usize,
    /// Expected terms that were used.
    pub expected_used: usize,
    /// Forbidden terms, over all prompts.
    pub avoided: usize,
    /// Forbidden terms that were used.
    pub avoided_used: usize,
}

impl Adherence {
    /// Share of expected terms that were used, 0 to 1; 1 without expected terms.
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

/// Whether `text` contains `term` as whole words, ignoring case.
pub(crate) fn uses(text: &str, term: &str) -> bool {
    let (text, term) = (text.to_lowercase(), term.to_lowercase());
    let is_word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    let (first, last) = (is_word(term.chars().next()), is_word(term.chars().next_back()));
    !term.is_empty()
        && text.match_indices(&term).any(|(start, found)| {
            let before = is_word(text[..start].chars().next_back());
            let after = is_word(text[start + found.len()..].chars().next());
            !(first && before || last && after)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_whole_words_in_any_case() {
        assert!(uses("Dear Guest, your handover is near.", "guest"));
        assert!(uses("the money-back promise holds", "money-back promise"));
        assert!(!uses("guesthouse", "guest"));
        assert!(!uses("a digest", "gest"));
        assert!(uses("Grüße, Ihr Team", "grüße"));
        assert!(uses("yours, \u{2014} Ada", "\u{2014} Ada"));
        assert!(!uses("anything", ""));
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
