//! Rows of the formats style and terminology → prompts and answers.
//!
//! Responsible for: templates with `{placeholders}`, and choosing a template for each row.
//! [`crate::formats::term_tasks`] decides which tasks an entry of a term base has.
//! Must not depend on: files, tokenizers.

use std::collections::BTreeMap;

use tonfall_recipes::plan::{AuditRule, SourcePlan, TemplateKind, TemplatePlan};
use tonfall_terms::language::{self, primary};

use crate::error::RowFault;
use crate::formats::conversation::{Conversation, Message, Sample};
use crate::formats::entry::{Entry, NoTask};
use crate::formats::format::Fields;
use crate::formats::samples::Built;
use crate::formats::term_tasks::{ABOUT_TERMS, is_target, situations};
use crate::stable_hash::stable_hash;

/// The templates of a recipe. If a recipe defines no template of a kind, the built-in templates are used.
#[derive(Clone, Debug)]
pub(crate) struct Tasks {
    templates: Vec<TemplatePlan>,
    /// The kinds of term tasks that are built.
    about_terms: Vec<TemplateKind>,
}

/// Kind, language, user message, assistant message.
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
    (TemplateKind::Translation, "en", "Translate into {into}, with our terms: {text}", Some("{translation}")),
    (TemplateKind::Translation, "en", "How do we say this in {into}? {text}", Some("{translation}")),
    (TemplateKind::Translation, "de", "Sage das auf {into}, mit unseren Benennungen: {text}", Some("{translation}")),
    (TemplateKind::Translation, "de", "Wie heißt das bei uns auf {into}? {text}", Some("{translation}")),
];

impl Tasks {
    /// If the recipe has templates for term tasks, only tasks of these kinds are built.
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

    /// Chooses by `key` a template of `kind` that fits the language and has no placeholders other than `available`.
    pub(crate) fn pick(
        &self,
        kind: TemplateKind,
        language: Option<&str>,
        key: u64,
        available: &[&str],
    ) -> Option<&TemplatePlan> {
        // Without a language, English is assumed.
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

    /// A row with a neutral and a styled text becomes a rewriting task. A row with only a styled text becomes a writing
    /// task.
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
        Ok(Built { samples: vec![sample], ..Built::default() })
    }

    /// All tasks of a term base row, or the reason why there are none.
    pub(crate) fn terms(&self, fields: Fields<'_>, source: &SourcePlan, key: u64) -> Result<Built, RowFault> {
        let wanted = source.language.as_deref();
        let entries = Entry::read(fields, wanted)?;
        let mut built = Built { group: entries.iter().flat_map(Entry::names).next(), ..Built::default() };
        let mut number = 0;
        for entry in &entries {
            let unknown = entry.unknown_status.iter();
            built.findings.extend(unknown.map(|status| {
                (AuditRule::UnknownStatus, format!("the status \"{status}\" is not known; its term counts as admitted"))
            }));
            let situations = situations(entry, &self.about_terms, source)?;
            built.findings.extend(situations.findings);
            for situation in situations.all {
                let mut values = fields.placeholders();
                values.extend(situation.values);
                let key = key.wrapping_add(number);
                built.samples.extend(self.sample_in(situation.kind, &situation.languages, key, &values));
                number += 1;
            }
        }
        if built.samples.is_empty() {
            built.no_task = self.why_nothing(&entries, source);
        }
        Ok(built)
    }

    /// Why a row has no task. `None` if another language's row has a task with this row's term.
    fn why_nothing(&self, entries: &[Entry], source: &SourcePlan) -> Option<NoTask> {
        let concept = || entries.first().map(Entry::name).unwrap_or_default();
        let Some(entry) = entries.iter().find(|entry| entry.is_wanted(source.language.as_deref())) else {
            return Some(NoTask::Foreign { concept: concept() });
        };
        match (&entry.term, &entry.forbidden[..]) {
            (Some(_), _) if self.about_terms.contains(&TemplateKind::Translation) && is_target(entry, source) => None,
            (Some(term), _) => Some(NoTask::Bare { term: term.clone() }),
            (None, []) => Some(NoTask::NoTerm { concept: concept() }),
            (None, terms) => Some(NoTask::OnlyForbidden {
                concept: concept(),
                language: entry.language.clone(),
                terms: terms.to_vec(),
            }),
        }
    }

    /// A sample with a template in one of `languages`, chosen by `key`. Translation tasks fall back to English
    /// templates.
    fn sample_in(
        &self,
        kind: TemplateKind,
        languages: &[String],
        key: u64,
        values: &BTreeMap<&str, String>,
    ) -> Option<Sample> {
        let first = (key % languages.len().max(1) as u64) as usize;
        let in_turn = languages[first..].iter().chain(&languages[..first]).map(String::as_str);
        let otherwise = (kind == TemplateKind::Translation).then_some("en");
        in_turn.chain(otherwise).find_map(|language| self.sample(kind, Some(language), key, values))
    }

    fn sample(
        &self,
        kind: TemplateKind,
        language: Option<&str>,
        key: u64,
        values: &BTreeMap<&str, String>,
    ) -> Option<Sample> {
        let template = self.pick(kind, language, key, &values.keys().copied().collect::<Vec<_>>())?;
        let mut values = values.clone();
        if kind == TemplateKind::Translation {
            // `{into}` and `{from}` become language names, written in the language of the template.
            let reader = template.language.as_deref().unwrap_or("en");
            for name in ["from", "into"] {
                values.entry(name).and_modify(|tag| *tag = language::name(tag, reader));
            }
        }
        let system = template.system.iter().map(|text| Message::new("system", fill(text, &values)));
        let turns = [
            Message::new("user", fill(&template.user, &values)),
            Message::new("assistant", fill(template.assistant.as_deref()?, &values)),
        ];
        Some(Sample::Conversation(Conversation { messages: system.chain(turns).collect(), tools: None }))
    }
}

/// All placeholders in the templates: columns of a row, and values that tasks add.
pub(crate) fn names_in(templates: &[TemplatePlan]) -> Vec<String> {
    let texts = templates.iter().flat_map(|template| {
        [Some(&template.user), template.assistant.as_ref(), template.system.as_ref()].into_iter().flatten()
    });
    texts.flat_map(|text| names(text)).map(str::to_owned).collect()
}

/// The placeholders in a template.
fn names(text: &str) -> impl Iterator<Item = &str> {
    text.split('{').skip(1).filter_map(|rest| rest.split_once('}')).map(|(name, _)| name).filter(|name| is_name(name))
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-'))
}

/// Replaces the placeholders of a template. Placeholders without a value and other text in braces stay unchanged.
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
