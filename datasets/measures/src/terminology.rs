//! Terminology: whether an answer uses the terms that it should use, and none that are forbidden.
//!
//! Responsible for: the terms of one answer. Must not depend on: where the terms come from.
//!
//! Preferred-term rate: preferred terms that answers use, of those that they should use. Forbidden-variant rate: forbidden
//! terms that answers use, of those that were looked for. Each term counts once per answer.

use tonfall_terms::{Matcher, Term, TermsError, uncovered};

use crate::Part;
use crate::language::Language;

/// The terms that an answer uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TermUse {
    /// For each preferred term, whether the answer uses it.
    pub preferred: Vec<bool>,
    /// For each forbidden term, whether the answer uses it.
    pub forbidden: Vec<bool>,
}

impl TermUse {
    /// Finds terms as [`Matcher::in_prose`] does, with the endings of `language`. A forbidden term inside a longer
    /// preferred one, such as `account` in `key account`, is not a use.
    ///
    /// # Errors
    /// If there are too many terms for one matcher.
    pub fn of(
        text: &str,
        preferred: &[String],
        forbidden: &[String],
        language: Option<Language>,
    ) -> Result<Self, TermsError> {
        let language = language.map(Language::code);
        let terms = preferred.iter().chain(forbidden).map(|text| Term { text, language });
        let matcher = Matcher::in_prose(terms)?;
        let is_preferred = |term: usize| term < preferred.len();
        let hits = matcher.hits(text);
        let mut found = vec![false; preferred.len() + forbidden.len()];
        // A preferred term inside another preferred term is used as well.
        hits.iter().filter(|hit| is_preferred(hit.term)).for_each(|hit| found[hit.term] = true);
        uncovered(hits, is_preferred).into_iter().for_each(|hit| found[hit.term] = true);
        let forbidden = found.split_off(preferred.len());
        Ok(Self { preferred: found, forbidden })
    }

    /// The preferred-term rate.
    pub fn preferred_part(&self) -> Part {
        Part::of(count(&self.preferred), self.preferred.len())
    }

    /// The forbidden-variant rate.
    pub fn forbidden_part(&self) -> Part {
        Part::of(count(&self.forbidden), self.forbidden.len())
    }
}

fn count(used: &[bool]) -> usize {
    used.iter().filter(|used| **used).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(text: &str, preferred: &[&str], forbidden: &[&str], language: Option<Language>) -> TermUse {
        let owned = |terms: &[&str]| terms.iter().map(|term| (*term).to_owned()).collect::<Vec<_>>();
        TermUse::of(text, &owned(preferred), &owned(forbidden), language).expect("few terms")
    }

    #[test]
    fn rates_count_each_term_once() {
        let found = used(
            "Dear guest, dear Guests: our handover is near. Delivery!",
            &["guest", "handover", "basket"],
            &["delivery", "customer"],
            Some(Language::English),
        );
        assert_eq!((found.preferred_part(), found.forbidden_part()), (Part::of(2, 3), Part::of(1, 2)));
        assert_eq!(used("", &[], &[], None).preferred_part(), Part::NONE);
    }

    #[test]
    fn inflected_forms_and_compounds_are_uses() {
        let german = |text: &str, term: &str| used(text, &[term], &[], Some(Language::German)).preferred[0];
        assert!(german("Die Gäste kommen.", "Gast") && german("Des Vertrages wegen", "Vertrag"));
        assert!(german("Ihr Mietvertrag endet.", "Vertrag") && german("Der Kundendienst hilft.", "Kunde"));
        assert!(!german("Eine Sekunde bitte.", "Kunde") && !german("Wir planen es.", "Plan"));
        let english = |text: &str, term: &str| used(text, &[term], &[], Some(Language::English)).preferred[0];
        assert!(english("Our guests' parties", "guest") && english("two deliveries", "delivery"));
        assert!(!english("the guesthouse", "guest"));
        assert!(!used("the guests", &["guest"], &[], None).preferred[0]);
    }

    #[test]
    fn normal_forms_and_line_breaks_do_not_matter() {
        let terms = ["guest", "Gäste", "delivery", "money-back promise"];
        let found = |text: &str| used(text, &terms, &[], None).preferred;
        assert_eq!(found("Dear Guest, our money-back\npromise holds."), [true, false, false, true]);
        assert_eq!(found("Die Ga\u{308}ste im guesthouse"), [false, true, false, false]);
    }

    #[test]
    fn a_forbidden_term_inside_a_preferred_one_is_allowed() {
        let found = |text| used(text, &["key account"], &["account"], Some(Language::English));
        assert_eq!(found("Our key accounts").forbidden, [false]);
        assert_eq!(found("Our key account and an account").forbidden, [true]);
    }
}
