//! Terms of the term bases in the answers that are trained.
//!
//! Responsible for: which terms a text uses, many at once. Must not depend on: where terms come from.

use aho_corasick::{AhoCorasick, MatchKind};

use crate::formats::tasks::Entry;
use crate::inflection::forms;

/// A term that is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) term: String,
    /// The preferred term, of a forbidden one.
    pub(crate) instead: Option<String>,
    /// Where the entry stands: file among those of all sources, row.
    pub(crate) place: (usize, u64),
}

/// All terms, under all endings of their languages.
#[derive(Debug, Default)]
pub(crate) struct Terms {
    pub(crate) wanted: Vec<Wanted>,
    /// Index in `wanted` of each pattern.
    owners: Vec<u32>,
    automaton: Option<AhoCorasick>,
}

impl Terms {
    pub(crate) fn new(entries: &[(Entry, (usize, u64))]) -> Self {
        let (mut wanted, mut owners, mut patterns) = (Vec::new(), Vec::new(), Vec::new());
        for (entry, place) in entries {
            let all = std::iter::once((&entry.term, None))
                .chain(entry.forbidden.iter().map(|other| (other, Some(entry.term.clone()))));
            for (term, instead) in all {
                for (_, form) in forms(term, &entry.language) {
                    let mut chars = form.chars();
                    let capital: String = chars.next().into_iter().flat_map(char::to_uppercase).chain(chars).collect();
                    let both = [form.clone(), capital];
                    let distinct = if both[0] == both[1] { 1 } else { 2 };
                    patterns.extend(both.into_iter().take(distinct));
                    owners.resize(patterns.len(), wanted.len() as u32);
                }
                wanted.push(Wanted { term: term.clone(), instead, place: *place });
            }
        }
        // Too many terms for an automaton are none that anybody has; then nothing would be found, which a count shows.
        let automaton = (!patterns.is_empty())
            .then(|| AhoCorasick::builder().match_kind(MatchKind::Standard).build(&patterns).ok())
            .flatten();
        Self { wanted, owners, automaton }
    }

    /// Indexes of the terms that a text uses as words, ascending.
    pub(crate) fn used(&self, text: &str) -> Vec<u32> {
        let Some(automaton) = &self.automaton else { return Vec::new() };
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let whole = |start: usize, end: usize| {
            !text[..start].chars().next_back().is_some_and(is_word) && !text[end..].chars().next().is_some_and(is_word)
        };
        let hits = automaton.find_overlapping_iter(text).filter(|hit| whole(hit.start(), hit.end()));
        let mut used: Vec<u32> = hits.map(|hit| self.owners[hit.pattern().as_usize()]).collect();
        used.sort_unstable();
        used.dedup();
        used
    }
}
