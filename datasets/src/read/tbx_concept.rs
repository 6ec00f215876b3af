//! A concept of a term base → rows.
//!
//! Responsible for: which terms of a language are preferred, admitted and forbidden, and the terms of the other
//! languages as translations. Must not depend on: XML, how rows are used.

use serde_json::{Value, json};

use crate::error::RowFault;
use crate::read::rows::{Content, Row};
use crate::read::term_status::Status;

/// Maximum number of languages of a concept. Each row lists all other languages, so the size of the rows is quadratic.
const LANGUAGES: usize = 256;

/// The meaning of a data category.
#[derive(Clone, Copy, PartialEq)]
enum Category {
    Term,
    Definition,
    Subject,
    Context,
    Status,
    PartOfSpeech,
}

const CATEGORIES: &[(&str, Category)] = &[
    ("term", Category::Term),
    ("definition", Category::Definition),
    ("subjectfield", Category::Subject),
    ("context", Category::Context),
    ("example", Category::Context),
    ("samplesentence", Category::Context),
    ("administrativestatus", Category::Status),
    ("normativeauthorization", Category::Status),
    ("usagestatus", Category::Status),
    ("termstatus", Category::Status),
    ("partofspeech", Category::PartOfSpeech),
];

fn category(name: &str) -> Option<Category> {
    CATEGORIES.iter().find(|(known, _)| *known == name).map(|(_, category)| *category)
}

/// Whether the text of a data category is read.
pub(crate) fn is_read(name: &str) -> bool {
    category(name).is_some()
}

/// A concept, filled in the order of its document.
#[derive(Default)]
pub(crate) struct Concept {
    id: Option<String>,
    definition: Option<String>,
    subject: Option<String>,
    sections: Vec<Section>,
}

/// The terms and texts of a concept in one language.
#[derive(Default)]
struct Section {
    language: Option<String>,
    definition: Option<String>,
    subject: Option<String>,
    terms: Vec<Term>,
}

#[derive(Default)]
struct Term {
    text: String,
    status: Option<String>,
    part_of_speech: Option<String>,
    contexts: Vec<String>,
}

impl Term {
    fn status(&self) -> Status {
        self.status.as_deref().and_then(Status::parse).unwrap_or(Status::Admitted)
    }
}

impl Concept {
    pub(crate) fn new(id: Option<String>) -> Self {
        Self { id, ..Self::default() }
    }

    pub(crate) fn begin_language(&mut self, language: Option<String>) {
        self.sections.push(Section { language, ..Section::default() });
    }

    pub(crate) fn begin_term(&mut self) {
        if let Some(section) = self.sections.last_mut() {
            section.terms.push(Term::default());
        }
    }

    /// Adds the text of a data category to the last term or section. The first definition, subject field and status are
    /// kept.
    pub(crate) fn take(&mut self, name: &str, text: String) {
        let Some(category) = category(name).filter(|_| !text.is_empty()) else { return };
        let section = self.sections.last_mut();
        match (category, section) {
            (Category::Term, Some(section)) => match section.terms.last_mut() {
                Some(term) if term.text.is_empty() => term.text = text,
                _ => section.terms.push(Term { text, ..Term::default() }),
            },
            (Category::Definition, Some(section)) => drop(section.definition.get_or_insert(text)),
            (Category::Definition, None) => drop(self.definition.get_or_insert(text)),
            (Category::Subject, Some(section)) => drop(section.subject.get_or_insert(text)),
            (Category::Subject, None) => drop(self.subject.get_or_insert(text)),
            (category, Some(section)) => {
                let Some(term) = section.terms.last_mut() else { return };
                match category {
                    Category::Context => term.contexts.push(text),
                    Category::Status => drop(term.status.get_or_insert(text)),
                    _ => drop(term.part_of_speech.get_or_insert(text)),
                }
            }
            (_, None) => {}
        }
    }

    /// One row for each language that has a term. `translations` holds the terms of the other languages.
    pub(crate) fn rows(mut self) -> Vec<Content> {
        let concept = self.id.take();
        let shown = concept.clone().unwrap_or_else(|| "without an id".to_owned());
        let fault = |why: String| vec![Content::Fault(RowFault::Syntax(why))];
        for section in &mut self.sections {
            section.terms.retain(|term| !term.text.is_empty());
        }
        // Tools also write sections for languages that have no translation yet.
        self.sections.retain(|section| !section.terms.is_empty());
        if self.sections.is_empty() {
            return vec![Content::Row(Row::from_iter([("concept".to_owned(), json!(shown))]))];
        }
        if self.sections.iter().any(|section| section.language.as_deref().is_none_or(|tag| tag.trim().is_empty())) {
            return fault(format!("a language section of the concept {shown} has no xml:lang"));
        }
        if self.sections.len() > LANGUAGES {
            let count = self.sections.len();
            return fault(format!(
                "the concept {shown} has {count} language sections, more than {LANGUAGES}; split it"
            ));
        }
        (0..self.sections.len()).map(|index| Content::Row(self.row(index, concept.as_deref()))).collect()
    }

    fn row(&self, index: usize, concept: Option<&str>) -> Row {
        let section = &self.sections[index];
        let (term, admitted, forbidden) = section.by_status();
        let mut row = Row::new();
        let mut set = |key: &str, value: Value| drop(row.insert(key.to_owned(), value));
        if let Some(concept) = concept {
            set("concept", json!(concept));
        }
        set("language", json!(section.language));
        if let Some(term) = term {
            set("term", json!(term.text));
        }
        set("admitted", json!(texts(&admitted)));
        set("forbidden", json!(texts(&forbidden)));
        let allowed = || term.into_iter().chain(admitted.iter().copied());
        set("examples", json!(allowed().flat_map(|term| &term.contexts).collect::<Vec<_>>()));
        let optional = [
            ("definition", section.definition.as_ref().or(self.definition.as_ref())),
            ("subject", section.subject.as_ref().or(self.subject.as_ref())),
            ("part_of_speech", term.and_then(|term| term.part_of_speech.as_ref())),
        ];
        for (key, text) in optional {
            if let Some(text) = text {
                set(key, json!(text));
            }
        }
        let unknown = |term: &Term| term.status.clone().filter(|status| Status::parse(status).is_none());
        let unknown: Vec<String> = section.terms.iter().filter_map(unknown).collect();
        if !unknown.is_empty() {
            set("unknown_status", json!(unknown));
        }
        let others = self.sections.iter().enumerate().filter(|(other, _)| *other != index);
        let translations: Vec<Value> = others.filter_map(|(_, section)| section.as_translation()).collect();
        if !translations.is_empty() {
            set("translations", json!(translations));
        }
        row
    }
}

impl Section {
    /// The preferred term, or else the first allowed one; the other allowed terms; the forbidden terms.
    fn by_status(&self) -> (Option<&Term>, Vec<&Term>, Vec<&Term>) {
        let (mut allowed, forbidden): (Vec<&Term>, Vec<&Term>) =
            self.terms.iter().partition(|term| term.status() != Status::Forbidden);
        allowed.sort_by_key(|term| term.status() != Status::Preferred);
        let term = allowed.first().copied();
        (term, allowed.into_iter().skip(1).collect(), forbidden)
    }

    fn as_translation(&self) -> Option<Value> {
        let (term, _, forbidden) = self.by_status();
        Some(json!({"language": self.language, "term": term?.text, "forbidden": texts(&forbidden)}))
    }
}

fn texts<'a>(terms: &[&'a Term]) -> Vec<&'a str> {
    terms.iter().map(|term| term.text.as_str()).collect()
}
