//! The concepts of a plan's term bases, for the evaluation.
//!
//! Responsible for: concepts with a forbidden term, merged over the rows that name them.
//! Must not depend on: tasks, tokenizers.

use std::collections::HashMap;

use serde::Serialize;
use tonfall_recipes::Plan;
use tonfall_recipes::plan::DataFormat;
use tonfall_terms::language::primary;

use crate::audit::terms::WORDS;
use crate::error::DataError;
use crate::formats::entry::Entry;
use crate::read::rows;

/// A concept of a term base in one language, with at least one forbidden term.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TermConcept {
    /// Its first preferred term, otherwise its name in the term base, otherwise its first forbidden term.
    pub name: String,
    pub language: String,
    /// Preferred and admitted terms.
    pub preferred: Vec<String>,
    pub forbidden: Vec<String>,
}

#[derive(Default)]
struct Gathered {
    /// With their ids in the term base.
    concepts: Vec<(Option<String>, TermConcept)>,
    /// By id and primary language.
    indexes: HashMap<(String, String), usize>,
}

/// The concepts of all term bases of a plan that have a forbidden term, in the order of the files. Terms with more than
/// 12 words are sentences and left out. Faulty rows are skipped: the preparation of the data reports them.
///
/// # Errors
/// If a file can't be read.
pub fn term_concepts(plan: &Plan) -> Result<Vec<TermConcept>, DataError> {
    let mut gathered = Gathered::default();
    for input in super::inputs(plan)?.inputs {
        if input.layout.format.format != DataFormat::Terminology {
            continue;
        }
        let wanted = input.source.language.as_deref();
        rows::read(&input.file, Some(&input.layout.read), &mut |chunk| {
            for row in chunk {
                let Ok(row) = row.parse() else { continue };
                let Ok(entries) = Entry::read(input.layout.fields(&row), wanted) else { continue };
                entries.into_iter().filter(|entry| entry.is_wanted(wanted)).for_each(|entry| gathered.add(entry));
            }
            Ok(())
        })?;
    }
    let named =
        gathered.concepts.into_iter().filter(|(_, concept)| !concept.forbidden.is_empty()).map(|(id, concept)| {
            let name = concept.preferred.first().cloned().or(id).unwrap_or_else(|| concept.forbidden[0].clone());
            TermConcept { name, ..concept }
        });
    Ok(named.collect())
}

impl Gathered {
    /// Adds an entry to the concept of its id and language, or as a new concept.
    fn add(&mut self, entry: Entry) {
        let Entry { concept: id, language, term, admitted, forbidden, .. } = entry;
        let new = self.concepts.len();
        let index = match &id {
            Some(id) => *self.indexes.entry((id.clone(), primary(&language))).or_insert(new),
            None => new,
        };
        if index == new {
            self.concepts.push((id, TermConcept { language, ..TermConcept::default() }));
        }
        let is_term = |term: &String| term.split_whitespace().count() <= WORDS;
        let (_, concept) = &mut self.concepts[index];
        concept.preferred.extend(term.into_iter().chain(admitted).filter(is_term));
        concept.forbidden.extend(forbidden.into_iter().filter(is_term));
    }
}
