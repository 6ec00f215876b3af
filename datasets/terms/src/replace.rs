//! Replaces one term by another and keeps the ending.
//!
//! Responsible for: replacing each form of a term by the same form of another term. Must not depend on: term bases.
//!
//! Gender and articles are not changed. A result is used only as the *wrong* sentence of a correction task, so a model
//! is never trained to write it.

use crate::inflection::{alike, capitalized, forms};
use crate::matcher::{Case, Matcher, Term, TermsError};

/// Replaces one term in texts of one language.
#[derive(Debug)]
pub struct Replacer {
    matcher: Matcher,
    language: String,
}

impl Replacer {
    /// A replacer for `term`.
    ///
    /// # Errors
    /// As [`Matcher::new`].
    pub fn new(term: &str, language: &str) -> Result<Self, TermsError> {
        let matcher = Matcher::new([Term { text: term, language: Some(language) }], Case::Written)?;
        Ok(Self { matcher, language: language.to_owned() })
    }

    /// Replaces every form of the term by `other`. `None` if the text doesn't contain the term.
    pub fn replace(&self, text: &str, other: &str) -> Option<String> {
        let replacements = forms(other, &self.language);
        let (mut result, mut done) = (String::with_capacity(text.len()), 0);
        for hit in self.matcher.hits(text) {
            // Of several forms that start at the same offset, the longest comes first.
            if hit.range.start < done {
                continue;
            }
            let ending = alike(hit.ending, other);
            let (_, form) = replacements.iter().find(|(name, _)| *name == ending).unwrap_or(&replacements[0]);
            result.push_str(&text[done..hit.range.start]);
            match text[hit.range.clone()].starts_with(char::is_uppercase) {
                true => result.push_str(&capitalized(form)),
                false => result.push_str(form),
            }
            done = hit.range.end;
        }
        result.push_str(&text[done..]);
        (done > 0).then_some(result)
    }
}

#[cfg(test)]
mod tests {
    use super::Replacer;

    fn replaced(text: &str, from: &str, to: &str, language: &str) -> Option<String> {
        Replacer::new(from, language).expect("one term").replace(text, to)
    }

    #[test]
    fn a_term_keeps_its_ending() {
        let de = |text, from, to| replaced(text, from, to, "de-DE");
        assert_eq!(de("Die Gäste kommen.", "Gast", "Kunde").as_deref(), Some("Die Kunden kommen."));
        assert_eq!(de("Mit Gästen in Häusern", "Gast", "Kunde").as_deref(), Some("Mit Kunden in Häusern"));
        assert_eq!(de("Mit Gästen in Häusern", "Haus", "Bau").as_deref(), Some("Mit Gästen in Bauern"));
        assert_eq!(de("Die Läden, im Laden", "Laden", "Shop").as_deref(), Some("Die Shop, im Shop"));
        assert_eq!(de("Verträge und Äpfel", "Apfel", "Birne").as_deref(), Some("Verträge und Birnen"));
        assert_eq!(de("Wir fragen den Kunden.", "Kunde", "Mandant").as_deref(), Some("Wir fragen den Mandanten."));
        assert_eq!(de("des Beleges, der Beleg", "Beleg", "Bon").as_deref(), Some("des Bones, der Bon"));
        assert_eq!(de("Belegschaft", "Beleg", "Bon"), None);
        let en = |text, from, to| replaced(text, from, to, "en");
        assert_eq!(en("Our guests' parties.", "guest", "customer").as_deref(), Some("Our customers' parties."));
        assert_eq!(en("Deliveries are late.", "delivery", "handover").as_deref(), Some("Handovers are late."));
        assert_eq!(en("A guest's box", "guest", "key account").as_deref(), Some("A key account's box"));
        assert_eq!(en("Guesthouse", "guest", "customer"), None);
    }

    #[test]
    fn words_are_found_whole_and_in_any_normal_form() {
        let uses = |text, term, language| replaced(text, term, "", language).is_some();
        assert!(uses("Der Kunde zahlt.", "Kunde", "de") && !uses("Der Kundendienst", "Kunde", "de"));
        assert!(uses("ÜBER Öl: Öle", "Öl", "de") && !uses("", "a", "en"));
        assert!(!uses("wir beleg", "Beleg", "de"));
        let decomposed = replaced("Die Ga\u{308}ste: scho\u{308}n.", "Gast", "Kunde", "de");
        assert_eq!(decomposed.as_deref(), Some("Die Kunden: scho\u{308}n."), "the rest stays as it was");
    }
}
