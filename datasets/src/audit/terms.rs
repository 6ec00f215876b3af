//! Terms of the term bases in the answers that are trained.
//!
//! Responsible for: which terms a text uses, and which of these are forbidden. Must not depend on: where terms come from.

use tonfall_terms::{Case, Matcher, Term, TermsError, language, uncovered};

use crate::formats::entry::Entry;

/// A longer text is no term but a sentence, and nobody repeats it in an answer.
const WORDS: usize = 12;

/// A term to look for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) term: String,
    pub(crate) language: String,
    pub(crate) role: Role,
    /// Where the entry stands: index of the file among those of all sources, row.
    pub(crate) place: (usize, u64),
}

/// What a term is to its term base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Answers should use it: its entry has examples, forbidden variants or translations.
    Preferred,
    /// Its entry has a definition alone. The answer to the only question about it is the definition.
    Defined,
    /// With the preferred term, if there is one.
    Forbidden(Option<String>),
}

/// The terms of all term bases.
#[derive(Debug)]
pub(crate) struct Terms {
    pub(crate) wanted: Vec<Wanted>,
    /// Texts that are too long to be terms.
    pub(crate) long: u64,
    matcher: Matcher,
}

/// Gathers terms.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    wanted: Vec<Wanted>,
    long: u64,
}

impl Gathered {
    /// Adds what is to be looked for of an entry.
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
    /// When there are more terms than can be looked for at once.
    pub(crate) fn finish(self) -> Result<Terms, TermsError> {
        let Self { wanted, long } = self;
        let terms = wanted.iter().map(|wanted| Term { text: &wanted.term, language: Some(&wanted.language) });
        let matcher = Matcher::new(terms, Case::Written)?;
        Ok(Terms { wanted, long, matcher })
    }
}

impl Terms {
    /// Indexes of the terms that a text uses, ascending; without forbidden ones inside of preferred ones.
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

    /// The first forbidden one among the terms that an answer uses, in words. In an answer whose `language` is known,
    /// terms of other languages are only look-alikes.
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
