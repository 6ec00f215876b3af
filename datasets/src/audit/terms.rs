//! Searches the trained answers for the terms of term bases.
//!
//! Responsible for: which terms a text uses, and which of them are forbidden. Must not depend on: the source of terms.

use tonfall_terms::{Case, Matcher, Term, TermsError, language, uncovered};

use crate::formats::entry::Entry;

/// A text with more words is a sentence, not a term. It is not searched for.
pub(crate) const WORDS: usize = 12;

/// A term to search for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) term: String,
    pub(crate) language: String,
    pub(crate) role: Role,
    /// The place of the entry: file index among the files of all sources, and row.
    pub(crate) place: (usize, u64),
}

/// The role of a term in its term base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Answers should use this term: its entry has examples, forbidden variants or translations.
    Preferred,
    /// The entry has only a definition. Its only task asks for the definition, so no answer has to use the term.
    Defined,
    /// Holds the preferred term, if the entry has one.
    Forbidden(Option<String>),
}

/// The terms of all term bases.
#[derive(Debug)]
pub(crate) struct Terms {
    pub(crate) wanted: Vec<Wanted>,
    /// Number of texts that are too long to be terms.
    pub(crate) long: u64,
    matcher: Matcher,
}

/// Collects terms before the matcher is built.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    wanted: Vec<Wanted>,
    long: u64,
}

impl Gathered {
    /// Adds the terms of an entry that are searched for.
    pub(crate) fn add(&mut self, entry: &Entry, place: (usize, u64)) {
        let has_answers = !(entry.examples.is_empty() && entry.forbidden.is_empty() && entry.translations.is_empty());
        let preferred = match (has_answers, &entry.definition) {
            (true, _) => Some(Role::Preferred),
            (false, Some(_)) => Some(Role::Defined),
            (false, None) => None,
        };
        let forbidden = entry.forbidden.iter().map(|term| (term, Role::Forbidden(entry.term.clone())));
        for (term, role) in entry.term.iter().zip(preferred).chain(forbidden) {
            if term.split_whitespace().count() > WORDS {
                self.long += 1;
                continue;
            }
            self.wanted.push(Wanted { term: term.clone(), language: entry.language.clone(), role, place });
        }
    }

    /// # Errors
    /// If there are too many terms for one matcher.
    pub(crate) fn finish(self) -> Result<Terms, TermsError> {
        let Self { wanted, long } = self;
        let terms = wanted.iter().map(|wanted| Term { text: &wanted.term, language: Some(&wanted.language) });
        let matcher = Matcher::new(terms, Case::Written)?;
        Ok(Terms { wanted, long, matcher })
    }
}

impl Terms {
    /// Indexes of the terms in a text, ascending. Forbidden terms inside preferred ones are not included.
    pub(crate) fn used(&self, text: &str) -> Vec<usize> {
        let is_allowed = |index: usize| !matches!(self.wanted[index].role, Role::Forbidden(_));
        let all = self.matcher.hits(text);
        let allowed = all.iter().map(|hit| hit.term).filter(|index| is_allowed(*index)).collect::<Vec<_>>();
        let mut used: Vec<usize> = uncovered(all, is_allowed).into_iter().map(|hit| hit.term).collect();
        used.extend(allowed);
        used.sort_unstable();
        used.dedup();
        used
    }

    /// Describes the first forbidden term among the terms of an answer. If the `language` of the answer is known, terms
    /// of other languages are ignored: they only look alike.
    pub(crate) fn forbidden(&self, used: &[usize], language: Option<&str>) -> Option<String> {
        used.iter().map(|index| &self.wanted[*index]).find_map(|wanted| {
            let Role::Forbidden(instead) = &wanted.role else { return None };
            if language.is_some_and(|language| !language::same(language, &wanted.language)) {
                return None;
            }
            Some(match instead {
                Some(instead) => format!("an answer says \"{}\"; the term is \"{instead}\"", wanted.term),
                None => format!("an answer says \"{}\", which is forbidden", wanted.term),
            })
        })
    }
}
