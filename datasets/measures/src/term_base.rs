//! Terminology against a term base: which of the terms of a concept an answer uses.
//!
//! Responsible for: mentions of concepts in one answer. Must not depend on: the files of term bases.
//!
//! Of all mentions of concepts that have a forbidden term, the share with a preferred or admitted term. It needs no list of
//! expected terms, but it does not measure answers that avoid a concept altogether.

use std::collections::{BTreeMap, BTreeSet};

use tonfall_terms::language::primary;
use tonfall_terms::{Matcher, Term, TermsError, uncovered};

use crate::Part;
use crate::language::Language;

/// The terms of a concept in one language.
#[derive(Clone, Copy, Debug)]
pub struct ConceptTerms<'a> {
    /// A tag or a name.
    pub language: &'a str,
    /// Preferred and admitted terms.
    pub preferred: &'a [String],
    pub forbidden: &'a [String],
}

/// The terms of all concepts.
#[derive(Debug)]
pub struct TermBase {
    matcher: Matcher,
    /// For each term: its concept, and whether it is preferred or admitted.
    owners: Vec<(usize, bool)>,
    /// For each concept, its primary language.
    languages: Vec<String>,
}

/// The concepts that an answer mentions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mentions {
    /// For each mentioned concept: mentions with a preferred or admitted term, all mentions.
    pub concepts: BTreeMap<usize, Part>,
    /// Texts of the forbidden terms, as the answer writes them.
    pub forbidden: BTreeSet<String>,
}

impl TermBase {
    /// # Errors
    /// If there are too many terms for one matcher.
    pub fn new(concepts: &[ConceptTerms<'_>]) -> Result<Self, TermsError> {
        let (mut terms, mut owners) = (Vec::new(), Vec::new());
        for (index, concept) in concepts.iter().enumerate() {
            let preferred = concept.preferred.iter().map(|term| (term, true));
            for (text, is_preferred) in preferred.chain(concept.forbidden.iter().map(|term| (term, false))) {
                terms.push(Term { text, language: Some(concept.language) });
                owners.push((index, is_preferred));
            }
        }
        let languages = concepts.iter().map(|concept| primary(concept.language)).collect();
        Ok(Self { matcher: Matcher::in_prose(terms)?, owners, languages })
    }

    /// The mentions in an answer. If its language is known, concepts of other languages are not looked for: their terms
    /// only look alike.
    pub fn mentions(&self, answer: &str, language: Option<Language>) -> Mentions {
        let is_preferred = |term: usize| self.owners[term].1;
        let mut mentions = Mentions::default();
        for hit in uncovered(self.matcher.hits(answer), is_preferred) {
            let (concept, preferred) = self.owners[hit.term];
            if language.is_some_and(|language| language.code() != self.languages[concept]) {
                continue;
            }
            let part = mentions.concepts.entry(concept).or_default();
            part.numerator += f64::from(u8::from(preferred));
            part.denominator += 1.0;
            if !preferred {
                mentions.forbidden.insert(answer[hit.range].to_owned());
            }
        }
        mentions
    }
}

impl Mentions {
    /// The share of preferred and admitted terms.
    pub fn part(&self) -> Part {
        self.concepts.values().fold(Part::NONE, |sum, part| Part {
            numerator: sum.numerator + part.numerator,
            denominator: sum.denominator + part.denominator,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mentions_are_counted_by_concept() {
        let owned = |terms: &[&str]| terms.iter().map(|term| (*term).to_owned()).collect::<Vec<_>>();
        let (guest, customer) = (owned(&["guest", "visitor"]), owned(&["customer"]));
        let (handover, delivery) = (owned(&["handover"]), owned(&["delivery", "shipment"]));
        let (gast, kunde) = (owned(&["Gast"]), owned(&["Kunde"]));
        let concepts = [
            ConceptTerms { language: "en-US", preferred: &guest, forbidden: &customer },
            ConceptTerms { language: "en", preferred: &handover, forbidden: &delivery },
            ConceptTerms { language: "de", preferred: &gast, forbidden: &kunde },
        ];
        let base = TermBase::new(&concepts).expect("few terms");
        let english =
            base.mentions("Dear guests and visitors, dear customer: two deliveries!", Some(Language::English));
        assert_eq!(english.concepts, [(0, Part::of(2, 3)), (1, Part::of(0, 1))].into());
        assert_eq!(
            (english.part(), english.forbidden),
            (Part::of(2, 4), ["customer".into(), "deliveries".into()].into())
        );
        let german = base.mentions("Der Kundendienst und das Delivery für Gäste", Some(Language::German));
        assert_eq!(german.concepts, [(2, Part::of(1, 2))].into());
        assert_eq!(base.mentions("nothing of it", None), Mentions::default());
    }
}
