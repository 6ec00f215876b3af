//! Rows of style and of terms → tasks to learn from.
//!
//! Responsible for: templates with `{names}`, which one a row gets, and what an entry of a term base can be asked.
//! Must not depend on: files, tokenizers.

use std::collections::BTreeMap;

use tonfall_recipes::plan::{TemplateKind, TemplatePlan};

use crate::error::RowFault;
use crate::formats::conversation::{Conversation, Message, Sample};
use crate::formats::format::Fields;
use crate::formats::samples::Built;
use crate::inflection::substitute;
use crate::stable_hash::stable_hash;

/// The templates of a recipe, and the program's own for kinds that the recipe has none of.
#[derive(Clone, Debug)]
pub(crate) struct Tasks {
    templates: Vec<TemplatePlan>,
    /// Kinds of tasks about terms that are made.
    about_terms: Vec<TemplateKind>,
}

/// Kind, language, question, answer.
type OwnTemplate = (TemplateKind, &'static str, &'static str, Option<&'static str>);

#[rustfmt::skip]
const OWN: &[OwnTemplate] = &[
    (TemplateKind::Rewrite, "en", "Rewrite this in our style:\n\n{neutral}", Some("{styled}")),
    (TemplateKind::Rewrite, "en", "Put this the way we write:\n\n{neutral}", Some("{styled}")),
    (TemplateKind::Rewrite, "de", "Schreibe das in unserem Stil:\n\n{neutral}", Some("{styled}")),
    (TemplateKind::Rewrite, "de", "Formuliere das so, wie wir schreiben:\n\n{neutral}", Some("{styled}")),
    (TemplateKind::Write, "en", "Write in our style about: {topic}", Some("{styled}")),
    (TemplateKind::Write, "de", "Schreibe in unserem Stil über: {topic}", Some("{styled}")),
    (TemplateKind::Usage, "en", "Use the term “{term}” in a sentence.", Some("{example}")),
    (TemplateKind::Usage, "de", "Verwende die Benennung „{term}“ in einem Satz.", Some("{example}")),
    (TemplateKind::Correction, "en", "Correct the terms in this sentence: {wrong}", Some("{example}")),
    (TemplateKind::Correction, "en", "Put this sentence into our words: {wrong}", Some("{example}")),
    (TemplateKind::Correction, "de", "Verbessere die Benennungen in diesem Satz: {wrong}", Some("{example}")),
    (TemplateKind::Correction, "de", "Sage diesen Satz mit unseren Worten: {wrong}", Some("{example}")),
    (TemplateKind::Definition, "en", "What do we mean by “{term}”?", Some("{definition}")),
    (TemplateKind::Definition, "de", "Was verstehen wir unter „{term}“?", Some("{definition}")),
    (TemplateKind::Contrast, "en", "Is “{forbidden}” the right term?", Some("No. We say “{term}”.")),
    (TemplateKind::Contrast, "de", "Ist „{forbidden}“ die richtige Benennung?", Some("Nein. Wir sagen „{term}“.")),
];

/// Tasks about terms, in the order in which they are made.
const ABOUT_TERMS: [TemplateKind; 4] =
    [TemplateKind::Usage, TemplateKind::Correction, TemplateKind::Definition, TemplateKind::Contrast];

impl Tasks {
    /// The recipe's templates. Where it has some about terms, only those kinds of tasks are made.
    pub(crate) fn new(templates: &[TemplatePlan]) -> Self {
        let has = |kind: &TemplateKind| templates.iter().any(|template| template.kind == *kind);
        let chosen: Vec<TemplateKind> = ABOUT_TERMS.into_iter().filter(has).collect();
        let own = OWN.iter().filter(|(kind, ..)| !has(kind)).map(|(kind, language, user, assistant)| TemplatePlan {
            kind: *kind,
            user: (*user).to_owned(),
            assistant: assistant.map(str::to_owned),
            system: None,
            language: Some((*language).to_owned()),
        });
        Self {
            templates: templates.iter().cloned().chain(own).collect(),
            about_terms: if chosen.is_empty() { ABOUT_TERMS.to_vec() } else { chosen },
        }
    }

    /// One of the templates of `kind` that fit the language and name nothing but `available`, by `key`.
    pub(crate) fn pick(
        &self,
        kind: TemplateKind,
        language: Option<&str>,
        key: u64,
        available: &[&str],
    ) -> Option<&TemplatePlan> {
        // Without a known language, the program's own templates are English.
        let language = primary(language.unwrap_or("en"));
        let fits = |template: &&TemplatePlan| {
            template.kind == kind
                && template.language.as_deref().is_none_or(|wanted| primary(wanted) == language)
                && [Some(&template.user), template.assistant.as_ref(), template.system.as_ref()]
                    .into_iter()
                    .flatten()
                    .all(|text| names(text).all(|name| available.contains(&name)))
        };
        let fitting: Vec<&TemplatePlan> = self.templates.iter().filter(fits).collect();
        let hash = stable_hash((key, kind as u64));
        (!fitting.is_empty()).then(|| fitting[(hash % fitting.len() as u64) as usize])
    }

    /// A pair of neutral and styled text is a rewriting task, a styled text alone a writing task.
    pub(crate) fn style(&self, fields: Fields<'_>, language: Option<&str>, key: u64) -> Result<Built, RowFault> {
        if fields.text("styled")?.trim().is_empty() {
            return Err(RowFault::EmptyText("styled"));
        }
        let neutral = fields.optional_text("neutral")?.filter(|text| !text.trim().is_empty());
        let kind = if neutral.is_some() { TemplateKind::Rewrite } else { TemplateKind::Write };
        let values = fields.placeholders();
        let sample = self.sample(kind, language, key, &values).ok_or_else(|| RowFault::NoTemplateFits {
            kind: if neutral.is_some() { "rewrite" } else { "write" },
            available: values.keys().map(|name| format!("{{{name}}}")).collect::<Vec<_>>().join(", "),
        })?;
        Ok(Built { samples: vec![sample], group: None })
    }

    /// Everything that an entry of a term base can be asked; nothing for an entry in another language than wanted.
    pub(crate) fn terms(&self, fields: Fields<'_>, wanted: Option<&str>, key: u64) -> Result<Built, RowFault> {
        let entry = Entry::read(fields, wanted)?;
        let group = Some(entry.concept.clone());
        if entry.is_foreign(wanted) {
            return Ok(Built { samples: Vec::new(), group });
        }
        let mut samples = Vec::new();
        for (number, (kind, situation)) in entry.situations(&self.about_terms).into_iter().enumerate() {
            let mut values = fields.placeholders();
            values.extend(situation);
            samples.extend(self.sample(kind, Some(&entry.language), key.wrapping_add(number as u64), &values));
        }
        if samples.is_empty() {
            return Err(RowFault::BareTerm);
        }
        Ok(Built { samples, group })
    }

    fn sample(
        &self,
        kind: TemplateKind,
        language: Option<&str>,
        key: u64,
        values: &BTreeMap<&str, String>,
    ) -> Option<Sample> {
        let template = self.pick(kind, language, key, &values.keys().copied().collect::<Vec<_>>())?;
        let system = template.system.iter().map(|text| Message::new("system", fill(text, values)));
        let turns = [
            Message::new("user", fill(&template.user, values)),
            Message::new("assistant", fill(template.assistant.as_deref()?, values)),
        ];
        Some(Sample::Conversation(Conversation { messages: system.chain(turns).collect(), tools: None }))
    }
}

/// A concept in one language.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) concept: String,
    pub(crate) language: String,
    pub(crate) term: String,
    pub(crate) forbidden: Vec<String>,
    definition: Option<String>,
    examples: Vec<String>,
}

impl Entry {
    /// Reads an entry; one without a language is in the `wanted` one, or in English.
    pub(crate) fn read(fields: Fields<'_>, wanted: Option<&str>) -> Result<Self, RowFault> {
        let term = fields.text("term")?.trim().to_owned();
        if term.is_empty() {
            return Err(RowFault::EmptyText("term"));
        }
        let concept = match fields.value("concept") {
            Some(serde_json::Value::Number(number)) => number.to_string(),
            _ => fields.optional_text("concept")?.unwrap_or(&term).to_owned(),
        };
        let forbidden = fields.texts("forbidden")?;
        if forbidden.iter().any(|other| other.to_lowercase() == term.to_lowercase()) {
            return Err(RowFault::Syntax(format!("the term \"{term}\" is preferred and forbidden at once")));
        }
        Ok(Self {
            language: fields.optional_text("language")?.or(wanted).unwrap_or("en").to_owned(),
            definition: fields.optional_text("definition")?.map(str::to_owned).filter(|text| !text.trim().is_empty()),
            examples: fields.texts("examples")?,
            concept,
            term,
            forbidden,
        })
    }

    /// Is it in another language than the recipe wants?
    pub(crate) fn is_foreign(&self, wanted: Option<&str>) -> bool {
        wanted.is_some_and(|wanted| primary(wanted) != primary(&self.language))
    }

    /// What can be asked, with the values of its names.
    fn situations(&self, kinds: &[TemplateKind]) -> Vec<(TemplateKind, Vec<(&'static str, String)>)> {
        let of_kind = |kind: &TemplateKind| -> Vec<Vec<(&'static str, String)>> {
            let with =
                |name: &'static str| move |text: &String| vec![("term", self.term.clone()), (name, text.clone())];
            match kind {
                TemplateKind::Usage => self.examples.iter().map(with("example")).collect(),
                TemplateKind::Definition => self.definition.iter().map(with("definition")).collect(),
                TemplateKind::Contrast => self.forbidden.iter().map(with("forbidden")).collect(),
                TemplateKind::Correction => {
                    let pairs =
                        self.forbidden.iter().flat_map(|other| self.examples.iter().map(move |text| (other, text)));
                    let wrong = pairs.filter_map(|(other, example)| {
                        let wrong = substitute(example, &self.term, other, &self.language)?;
                        let term = ("term", self.term.clone());
                        Some(vec![term, ("forbidden", other.clone()), ("wrong", wrong), ("example", example.clone())])
                    });
                    wrong.collect()
                }
                TemplateKind::Rewrite | TemplateKind::Write | TemplateKind::Context => Vec::new(),
            }
        };
        kinds.iter().flat_map(|kind| of_kind(kind).into_iter().map(|values| (*kind, values))).collect()
    }
}

/// `de` of `de-CH`.
pub(crate) fn primary(language: &str) -> String {
    language.split(['-', '_']).next().unwrap_or_default().to_lowercase()
}

/// The names that a template stands on.
fn names(text: &str) -> impl Iterator<Item = &str> {
    text.split('{').skip(1).filter_map(|rest| rest.split_once('}')).map(|(name, _)| name).filter(|name| is_name(name))
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-'))
}

/// A template with its names replaced; a name without a value, and braces around other things, stay.
pub(crate) fn fill(template: &str, values: &BTreeMap<&str, String>) -> String {
    let mut text = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        text.push_str(before);
        match after.split_once('}').and_then(|(name, behind)| Some((values.get(name)?, behind))) {
            Some((value, behind)) => {
                text.push_str(value);
                rest = behind;
            }
            None => {
                text.push('{');
                rest = after;
            }
        }
    }
    text.push_str(rest);
    text
}
