//! A row of a term base → the entries of a concept, one for each language.
//!
//! Responsible for: a concept's terms, variants and texts in each language, and the reason why a row has no task.
//! Must not depend on: templates.

use serde_json::Value;
use thiserror::Error;
use tonfall_terms::{Case, language, normalized};

use crate::error::RowFault;
use crate::formats::format::Fields;
use crate::read::term_status::Status;

/// A concept in one language.
#[derive(Clone, Debug, Default)]
pub(crate) struct Entry {
    /// The concept's name or id in the term base.
    pub(crate) concept: Option<String>,
    pub(crate) language: String,
    /// The preferred term. `None` if the term base lists only forbidden terms.
    pub(crate) term: Option<String>,
    pub(crate) admitted: Vec<String>,
    pub(crate) forbidden: Vec<String>,
    pub(crate) definition: Option<String>,
    pub(crate) examples: Vec<String>,
    pub(crate) translations: Vec<Translation>,
    /// Unknown statuses of the entry's terms. These terms count as admitted.
    pub(crate) unknown_status: Vec<String>,
}

/// A concept in another language.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Translation {
    pub(crate) language: String,
    pub(crate) term: String,
    pub(crate) forbidden: Vec<String>,
    /// Translations of the entry's examples, in the same order.
    pub(crate) examples: Vec<String>,
}

/// Why a row of a term base has no task. Such rows are counted.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum NoTask {
    #[error(
        "the concept {concept} has nothing in the languages that `source.language` and `source.translate_from` name"
    )]
    Foreign { concept: String },
    #[error("the concept {concept} has no term")]
    NoTerm { concept: String },
    #[error("the concept {concept} has only forbidden terms in {language} ({}); name one to use", terms.join(", "))]
    OnlyForbidden { concept: String, language: String, terms: Vec<String> },
    #[error(
        "there is nothing to ask about the term \"{term}\": it has no definition, no example, no forbidden variant and no \
         translation"
    )]
    Bare { term: String },
}

impl NoTask {
    /// The text under which such rows are counted.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Foreign { .. } => "terms in languages that the recipe doesn't ask for",
            Self::NoTerm { .. } => "concepts without a term",
            Self::OnlyForbidden { .. } => "concepts with forbidden terms only",
            Self::Bare { .. } => {
                "terms with nothing to ask about them (no definition, example, forbidden variant, translation)"
            }
        }
    }
}

impl Entry {
    /// The entries of a row: one, or one for each language if the table has a column for each language. An entry
    /// without a language gets `wanted`, or English if that is `None`.
    pub(crate) fn read(fields: Fields<'_>, wanted: Option<&str>) -> Result<Vec<Self>, RowFault> {
        let entries = match fields.languages() {
            [] => vec![Self::of_one_language(fields, wanted)?],
            _ => Self::of_each_language(fields)?,
        };
        for Self { term, forbidden, .. } in &entries {
            let normal = |text: &str| normalized(text, Case::Any);
            let both = term.as_ref().filter(|term| forbidden.iter().any(|other| normal(other) == normal(term)));
            if let Some(term) = both {
                return Err(RowFault::Syntax(format!("the term \"{term}\" is preferred and forbidden at once")));
            }
        }
        Ok(entries)
    }

    fn of_one_language(fields: Fields<'_>, wanted: Option<&str>) -> Result<Self, RowFault> {
        let mut entry = Self {
            concept: concept(fields)?,
            language: fields.optional_text("language")?.or(wanted).unwrap_or("en").trim().to_owned(),
            term: fields.optional_text("term")?.and_then(stated),
            admitted: fields.texts("admitted")?,
            forbidden: fields.texts("forbidden")?,
            definition: fields.optional_text("definition")?.and_then(stated),
            examples: fields.texts("examples")?,
            translations: translations(fields)?,
            unknown_status: fields.texts("unknown_status")?,
        };
        // A concept may have no term, but a table row must have one.
        if entry.term.is_none() && entry.forbidden.is_empty() && entry.concept.is_none() {
            fields.text("term")?;
            return Err(RowFault::EmptyText("term"));
        }
        // Tables with a row for each term have a status column.
        if let Some(status) = fields.optional_text("status")?.and_then(stated) {
            match Status::parse(&status) {
                Some(Status::Forbidden) => entry.forbidden.extend(entry.term.take()),
                Some(Status::Preferred | Status::Admitted) => {}
                None => entry.unknown_status.push(status),
            }
        }
        Ok(entry)
    }

    fn of_each_language(fields: Fields<'_>) -> Result<Vec<Self>, RowFault> {
        let concept = concept(fields)?;
        let mut entries = Vec::new();
        for columns in fields.languages() {
            let texts = |field: &str| match columns.columns.get(field) {
                Some(column) => fields.texts(column),
                None => Ok(Vec::new()),
            };
            // If a cell has several terms, the first one is the preferred term.
            let mut terms = texts("term")?.into_iter();
            let term = terms.next();
            let entry = Self {
                concept: concept.clone(),
                language: columns.language.clone(),
                term,
                admitted: terms.chain(texts("admitted")?).collect(),
                forbidden: texts("forbidden")?,
                definition: Some(texts("definition")?.join(" | ")).as_deref().and_then(stated),
                examples: texts("examples")?,
                ..Self::default()
            };
            if entry.term.is_some() || !entry.forbidden.is_empty() {
                entries.push(entry);
            }
        }
        if entries.is_empty() {
            let columns = fields.languages().iter().filter_map(|columns| columns.columns.get("term"));
            let columns: Vec<String> = columns.map(|column| format!("`{column}`")).collect();
            return Err(RowFault::Syntax(format!("no term in any of the columns {}", columns.join(", "))));
        }
        let all: Vec<Translation> = entries.iter().filter_map(Self::as_translation).collect();
        for entry in &mut entries {
            entry.translations = all.iter().filter(|other| other.language != entry.language).cloned().collect();
        }
        Ok(entries)
    }

    fn as_translation(&self) -> Option<Translation> {
        Some(Translation {
            language: self.language.clone(),
            term: self.term.clone()?,
            forbidden: self.forbidden.clone(),
            examples: self.examples.clone(),
        })
    }

    /// Whether the entry is in the recipe's language. Always true if the recipe sets none.
    pub(crate) fn is_wanted(&self, wanted: Option<&str>) -> bool {
        wanted.is_none_or(|wanted| language::same(wanted, &self.language))
    }

    /// The name of the entry in messages.
    pub(crate) fn name(&self) -> String {
        let term = || self.term.as_ref().or(self.forbidden.first()).map(|term| format!("of \"{term}\""));
        self.concept.clone().or_else(term).unwrap_or_default()
    }

    /// The concept's name or, without one, its terms in all languages. Rows that share a name belong to one concept.
    pub(crate) fn names(&self) -> Vec<String> {
        if let Some(concept) = &self.concept {
            return vec![concept.clone()];
        }
        let named = |tag: &str, term: &str| format!("{}:{}", language::primary(tag), normalized(term, Case::Any));
        let own = self.term.iter().chain(&self.admitted).map(|term| named(&self.language, term));
        own.chain(self.translations.iter().map(|other| named(&other.language, &other.term))).collect()
    }
}

fn stated(text: &str) -> Option<String> {
    Some(text.trim()).filter(|text| !text.is_empty()).map(str::to_owned)
}

fn concept(fields: Fields<'_>) -> Result<Option<String>, RowFault> {
    match fields.value("concept") {
        Some(Value::Number(number)) => Ok(Some(number.to_string())),
        _ => Ok(fields.optional_text("concept")?.and_then(stated)),
    }
}

/// A list of `{"language": …, "term": …, "forbidden": […]}`.
fn translations(fields: Fields<'_>) -> Result<Vec<Translation>, RowFault> {
    if fields.value("translations").is_none() {
        return Ok(Vec::new());
    }
    let fault =
        || RowFault::Syntax("`translations` must be a list of {\"language\", \"term\", \"forbidden\"}".to_owned());
    let translation = |item: &Value| {
        let text = |key: &str| item.get(key)?.as_str().and_then(stated);
        let texts = |key: &str| match item.get(key) {
            None | Some(Value::Null) => Some(Vec::new()),
            Some(list) => list.as_array()?.iter().map(|item| item.as_str().map(str::to_owned)).collect(),
        };
        let (language, term) = (text("language")?, text("term")?);
        Some(Translation { language, term, forbidden: texts("forbidden")?, examples: texts("examples")? })
    };
    fields.list("translations")?.iter().map(|item| translation(item).ok_or_else(fault)).collect()
}
