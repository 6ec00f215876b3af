//! Finds many terms in one pass over a text.
//!
//! Responsible for: which terms a text uses, with which ending and where. Must not depend on: the source of terms.

use std::cmp::Reverse;
use std::ops::Range;

use aho_corasick::{AhoCorasick, MatchKind};
use thiserror::Error;
use unicode_normalization_alignments::char::is_combining_mark;

use crate::compound;
use crate::inflection::{capitalized, forms};
use crate::language::primary;
use crate::normal::{Normal, normalized};

/// A term to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term<'a> {
    pub text: &'a str,
    /// The language whose endings are also matched. `None`: only the unchanged term is matched.
    pub language: Option<&'a str>,
}

/// Whether upper and lower case are distinguished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// Case is ignored.
    Any,
    /// Case must match, but a lower-case first letter also matches an upper-case one, as at the start of a sentence.
    Written,
}

/// An occurrence of a term in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Index among the terms of the matcher.
    pub term: usize,
    /// Name of the ending of the matched form. Empty for the base form.
    pub ending: &'static str,
    /// Byte range in the original text, before normalization.
    pub range: Range<usize>,
}

/// Why a matcher can't be built.
#[derive(Debug, Error)]
#[error("{forms} forms of terms are too many to look for at once ({source}); split the term base")]
pub struct TermsError {
    forms: usize,
    source: aho_corasick::BuildError,
}

/// Finds terms as whole words. The parts of a hyphenated compound (`Kunden-Dienst`) are words. Only [`Matcher::in_prose`]
/// finds a term inside other compounds (`Kunde` in `Kundendienst`).
#[derive(Debug)]
pub struct Matcher {
    case: Case,
    /// For each term, whether it is a German noun that can be a part of compounds. Empty if compounds are not searched.
    nouns: Vec<bool>,
    /// Term and ending of each pattern of the automaton.
    patterns: Vec<(usize, &'static str)>,
    /// `None` if there are no terms.
    automaton: Option<AhoCorasick>,
}

impl Matcher {
    /// A matcher for `terms`. A term that is only white space never matches.
    ///
    /// # Errors
    /// If there are more forms than an automaton can hold (about 2^31 bytes of terms).
    pub fn new<'a>(terms: impl IntoIterator<Item = Term<'a>>, case: Case) -> Result<Self, TermsError> {
        let (mut patterns, mut texts) = (Vec::new(), Vec::new());
        for (index, Term { text, language }) in terms.into_iter().enumerate() {
            // Endings are appended to the composed term in its original case. The whole form is then converted to
            // `case`.
            let term = normalized(text, Case::Written);
            if term.is_empty() {
                continue;
            }
            for (ending, form) in forms(&term, language.unwrap_or_default()) {
                let form = normalized(&form, case);
                let capital = Some(capitalized(&form)).filter(|capital| case == Case::Written && *capital != form);
                for text in std::iter::once(form).chain(capital) {
                    patterns.push((index, ending));
                    texts.push(text);
                }
            }
        }
        let build = || AhoCorasick::builder().match_kind(MatchKind::Standard).build(&texts);
        let automaton = (!texts.is_empty()).then(build).transpose();
        let automaton = automaton.map_err(|source| TermsError { forms: texts.len(), source })?;
        Ok(Self { case, nouns: Vec::new(), patterns, automaton })
    }

    /// A matcher for terms as people use them in prose: in any case, inflected, and German nouns also inside compounds.
    /// An inflected form of a German noun and a compound need a capital first letter: `planen` is no form of `Plan`.
    ///
    /// # Errors
    /// As [`Matcher::new`].
    pub fn in_prose<'a>(terms: impl IntoIterator<Item = Term<'a>>) -> Result<Self, TermsError> {
        let terms: Vec<Term<'a>> = terms.into_iter().collect();
        let is_noun = |term: &Term<'_>| {
            term.language.is_some_and(|language| primary(language) == "de")
                && compound::can_be_part(&normalized(term.text, Case::Written))
        };
        let nouns = terms.iter().map(is_noun).collect();
        Ok(Self { nouns, ..Self::new(terms, Case::Any)? })
    }

    /// All hits, sorted by start, longer hits first. Hits of different terms may overlap.
    pub fn hits(&self, text: &str) -> Vec<Hit> {
        let Some(automaton) = &self.automaton else { return Vec::new() };
        let normal = Normal::new(text, self.case);
        let found = automaton.find_overlapping_iter(&normal.text).filter(|found| {
            let (term, ending) = self.patterns[found.pattern().as_usize()];
            let is_noun = self.nouns.get(term).copied().unwrap_or_default();
            match is_whole(&normal.text, found.range()) {
                whole if !is_noun || whole && ending.is_empty() => whole,
                whole => {
                    let word = word_around(&normal.text, found.range());
                    let part = found.start() - word.start..found.end() - word.start;
                    let written = text.get(normal.original(word.start)..).unwrap_or_default();
                    written.starts_with(char::is_uppercase) && (whole || compound::is_part(&normal.text[word], part))
                }
            }
        });
        let mut hits: Vec<Hit> = found
            .map(|found| {
                let (term, ending) = self.patterns[found.pattern().as_usize()];
                Hit { term, ending, range: normal.original(found.start())..normal.original(found.end()) }
            })
            .collect();
        hits.sort_by_key(|hit| (hit.range.start, Reverse(hit.range.end), hit.term));
        hits.dedup_by(|second, first| second.term == first.term && second.range == first.range);
        // In `Kundendienst`, `Kunde` is inside the hit `Kunden`.
        let mut ends = vec![0; self.nouns.len()];
        hits.retain(|hit| match ends.get_mut(hit.term) {
            Some(end) if hit.range.end <= *end => false,
            Some(end) => {
                *end = hit.range.end;
                true
            }
            None => true,
        });
        hits
    }

    /// Indexes of the terms in a text, ascending.
    pub fn used(&self, text: &str) -> Vec<usize> {
        let mut used: Vec<usize> = self.hits(text).into_iter().map(|hit| hit.term).collect();
        used.sort_unstable();
        used.dedup();
        used
    }
}

/// Removes hits inside a longer hit of a term that `covers`: a forbidden `account` in a preferred `key account` is not
/// a fault. `hits` must be sorted as by [`Matcher::hits`].
pub fn uncovered(hits: Vec<Hit>, covers: impl Fn(usize) -> bool) -> Vec<Hit> {
    let mut cover = 0..0;
    let is_outside = |hit: &Hit| {
        let is_inside = hit.range.end <= cover.end && hit.range != cover;
        if covers(hit.term) && hit.range.end > cover.end {
            cover = hit.range.clone();
        }
        !is_inside
    };
    hits.into_iter().filter(is_outside).collect()
}

/// Whether a match starts and ends at word boundaries. If the match starts or ends with a character that isn't part of
/// a word, as in `C++`, no boundary is required there.
fn is_whole(text: &str, range: Range<usize>) -> bool {
    let joined = |left: Option<char>, right: Option<char>| left.is_some_and(is_word) && right.is_some_and(is_word);
    let (before, found, after) = (&text[..range.start], &text[range.clone()], &text[range.end..]);
    let starts_inside = joined(before.chars().next_back(), found.chars().next());
    let ends_inside = joined(found.chars().next_back(), after.chars().next());
    !starts_inside && !ends_inside
}

/// The word that contains a match.
fn word_around(text: &str, range: Range<usize>) -> Range<usize> {
    let start = text[..range.start]
        .rfind(|c| !is_word(c))
        .map_or(0, |at| at + text[at..].chars().next().map_or(0, char::len_utf8));
    let end = text[range.end..].find(|c| !is_word(c)).map_or(text.len(), |at| range.end + at);
    start..end
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || is_combining_mark(c)
}

#[cfg(test)]
mod tests {
    use super::{Case, Matcher, Term, uncovered};

    fn found<'t>(text: &'t str, term: &str, language: Option<&str>, case: Case) -> Vec<&'t str> {
        let matcher = Matcher::new([Term { text: term, language }], case).expect("one term");
        matcher.hits(text).into_iter().map(|hit| &text[hit.range]).collect()
    }

    #[test]
    fn terms_match_whole_words_in_any_case() {
        let uses = |text, term| !found(text, term, None, Case::Any).is_empty();
        assert!(uses("Dear Guest, your handover is near.", "guest"));
        assert!(uses("the money-back promise holds", "money-back promise"));
        assert!(uses("Grüße, Ihr Team", "grüße") && uses("GRÜSSE: ÜBER", "über"));
        assert!(uses("yours, \u{2014} Ada", "\u{2014} Ada") && uses("C++20", "c++"));
        assert!(uses("THE İSTANBUL OFFICE", "İstanbul"));
        for (text, term) in
            [("guesthouse", "guest"), ("a digest", "gest"), ("anything", ""), ("anything", " "), ("", "a")]
        {
            assert!(!uses(text, term), "{term} in {text}");
        }
    }

    #[test]
    fn with_written_case_capitals_must_match() {
        let uses = |text, term| !found(text, term, Some("de"), Case::Written).is_empty();
        assert!(uses("Der Kunde zahlt.", "Kunde") && uses("Über Öl: Öle", "Öl") && uses("Gelb ist es", "gelb"));
        // The capital of a German noun is required: `beleg` is a form of a verb.
        assert!(!uses("wir beleg", "Beleg") && !uses("ein kunde", "Kunde") && !uses("GELB", "gelb"));
    }

    #[test]
    fn only_the_endings_of_the_language_match() {
        let german = |text| found(text, "Gast", Some("de-CH"), Case::Written);
        assert_eq!(german("Der Gast, des Gastes, die Gäste mit Gästen"), ["Gast", "Gastes", "Gäste", "Gästen"]);
        assert_eq!(found("A guest's guests' guests", "guest", Some("en"), Case::Written).len(), 5);
        assert_eq!(found("the guests", "guest", None, Case::Any), [""; 0]);
        assert_eq!(found("die Gäste", "Gast", Some("en"), Case::Any), [""; 0]);
    }

    #[test]
    fn only_hyphenated_compounds_contain_terms() {
        let german = |text| found(text, "Kunde", Some("de"), Case::Written);
        assert_eq!(german("Kundendienst, Neukunde, Kundin"), [""; 0]);
        assert_eq!(german("Kunden-Dienst für Kunden_1"), ["Kunden"]);
    }

    #[test]
    fn in_prose_german_nouns_are_found_in_compounds() {
        let found = |text: &str, term: &str, language| -> Vec<String> {
            let matcher = Matcher::in_prose([Term { text: term, language: Some(language) }]).expect("one term");
            matcher.hits(text).into_iter().map(|hit| text[hit.range].to_owned()).collect()
        };
        assert_eq!(found("Der Kundendienst, die Neukundin", "Kunde", "de"), ["Kunden"]);
        assert_eq!(found("Mietverträge, Vertragspartner, vertraglich", "Vertrag", "de"), ["verträge", "Vertrags"]);
        assert_eq!(found("Das Ga\u{308}stehaus", "Gast", "de"), ["Ga\u{308}ste"]);
        assert_eq!(found("die Sekunde, die Urkunde, beim Kunden", "Kunde", "de"), ["Kunden"]);
        assert_eq!(found("wir planen; der PLAN, ein plan, Pläne", "Plan", "de"), ["PLAN", "plan", "Pläne"]);
        assert_eq!(found("guesthouse, Guests", "guest", "en"), ["Guests"]);
        assert_eq!(found("Guesthouse", "Guest", "en"), [""; 0]);
    }

    #[test]
    fn composed_and_decomposed_letters_are_the_same() {
        let text = "Die Ga\u{308}ste fragen.";
        assert_eq!(found(text, "Gäste", None, Case::Written), ["Ga\u{308}ste"]);
        assert_eq!(found(text, "Gast", Some("de"), Case::Written), ["Ga\u{308}ste"]);
        assert_eq!(found("Die Gäste fragen.", "ga\u{308}ste", None, Case::Any), ["Gäste"]);
        assert_eq!(found("Öl und O\u{308}L", "o\u{308}l", None, Case::Any), ["Öl", "O\u{308}L"]);
        // A combining mark that can't be composed is part of the word.
        assert_eq!(found("Gastq\u{303}", "Gastq", None, Case::Any), [""; 0]);
    }

    #[test]
    fn a_term_may_be_broken_across_lines() {
        assert_eq!(
            found("the money-back\n  promise", "money-back promise", None, Case::Any),
            ["money-back\n  promise"]
        );
        assert_eq!(found("the hand\u{ad}over", "handover", None, Case::Any), ["hand\u{ad}over"]);
        assert_eq!(found("key\u{a0}accounts", "key account", Some("en"), Case::Any), ["key\u{a0}accounts"]);
    }

    #[test]
    fn many_terms_have_hits_in_order() {
        let terms = ["key account", "account", "key", "absent"].map(|text| Term { text, language: Some("en") });
        let matcher = Matcher::new(terms, Case::Any).expect("four terms");
        let hits: Vec<_> =
            matcher.hits("The key accounts").into_iter().map(|hit| (hit.term, hit.ending, hit.range)).collect();
        assert_eq!(hits, [(0, "s", 4..16), (2, "", 4..7), (1, "s", 8..16)]);
        assert_eq!(matcher.used("The key accounts, a key"), [0, 1, 2]);
        assert!(Matcher::new([], Case::Any).expect("none").used("anything").is_empty());
    }

    #[test]
    fn a_term_inside_a_longer_one_can_be_removed() {
        let terms = ["key account", "account", "key account"].map(|text| Term { text, language: Some("en") });
        let matcher = Matcher::new(terms, Case::Any).expect("three terms");
        let left = |text: &str| -> Vec<(usize, usize)> {
            let hits = uncovered(matcher.hits(text), |term| term == 0);
            hits.into_iter().map(|hit| (hit.term, hit.range.start)).collect()
        };
        // A term that is in two concepts keeps both hits.
        assert_eq!(left("a key account, an account"), [(0, 2), (2, 2), (1, 18)]);
        assert_eq!(left("account"), [(1, 0)]);
    }
}
