//! The tasks of a term base entry.
//!
//! Responsible for: the situations of an entry (for example a sentence to correct, or a term to translate), each with
//! its placeholder values. Must not depend on: templates, files.

use tonfall_recipes::plan::{AuditRule, SourcePlan, TemplateKind};
use tonfall_terms::{Case, Matcher, Replacer, Term, language, uncovered};

use crate::error::RowFault;
use crate::formats::entry::{Entry, Translation};

/// Kinds of term tasks, in the order in which they are built.
pub(crate) const ABOUT_TERMS: [TemplateKind; 5] = [
    TemplateKind::Usage,
    TemplateKind::Correction,
    TemplateKind::Definition,
    TemplateKind::Contrast,
    TemplateKind::Translation,
];

/// One task, before a template is chosen.
#[derive(Debug)]
pub(crate) struct Situation {
    pub(crate) kind: TemplateKind,
    /// The languages in which the prompt may be written.
    pub(crate) languages: Vec<String>,
    /// Placeholder values. `from` and `into` hold language tags here.
    pub(crate) values: Vec<(&'static str, String)>,
}

/// All situations of an entry, and the audit findings about its texts.
#[derive(Debug, Default)]
pub(crate) struct Situations {
    pub(crate) all: Vec<Situation>,
    pub(crate) findings: Vec<(AuditRule, String)>,
}

/// The situations of an entry, in the order of `kinds`.
pub(crate) fn situations(entry: &Entry, kinds: &[TemplateKind], source: &SourcePlan) -> Result<Situations, RowFault> {
    let mut situations = Situations::default();
    let Some(term) = &entry.term else { return Ok(situations) };
    let is_wanted = entry.is_wanted(source.language.as_deref());
    for kind in kinds {
        let with = |name: &'static str| move |text: &String| vec![("term", term.clone()), (name, text.clone())];
        let values: Vec<Vec<(&'static str, String)>> = match kind {
            TemplateKind::Translation => {
                translations(entry, term, source, &mut situations)?;
                continue;
            }
            _ if !is_wanted => continue,
            TemplateKind::Usage => entry.examples.iter().map(with("example")).collect(),
            TemplateKind::Definition => entry.definition.iter().map(with("definition")).collect(),
            TemplateKind::Contrast => entry.forbidden.iter().map(with("forbidden")).collect(),
            TemplateKind::Correction => corrections(entry, term)?,
            TemplateKind::Rewrite | TemplateKind::Write | TemplateKind::Context => continue,
        };
        let situation = |values| Situation { kind: *kind, languages: vec![entry.language.clone()], values };
        situations.all.extend(values.into_iter().map(situation));
    }
    Ok(situations)
}

/// Each example, with each forbidden variant in place of the term.
fn corrections(entry: &Entry, term: &str) -> Result<Vec<Vec<(&'static str, String)>>, RowFault> {
    let replacer = Replacer::new(term, &entry.language)?;
    let pairs = entry.forbidden.iter().flat_map(|other| entry.examples.iter().map(move |text| (other, text)));
    let wrong = pairs.filter_map(|(other, example)| {
        let wrong = replacer.replace(example, other)?;
        let term = ("term", term.to_owned());
        Some(vec![term, ("forbidden", other.clone()), ("wrong", wrong), ("example", example.clone())])
    });
    Ok(wrong.collect())
}

/// Translations of the entry's terms and examples into each language that the recipe selects.
fn translations(entry: &Entry, term: &str, source: &SourcePlan, situations: &mut Situations) -> Result<(), RowFault> {
    let from = source.translate_from.as_deref();
    if from.is_some_and(|from| !language::same(from, &entry.language)) {
        return Ok(());
    }
    for other in targets(entry, source.language.as_deref()) {
        let mut pairs: Vec<(&String, &String)> = Vec::new();
        for text in entry.term.iter().chain(&entry.admitted) {
            pairs.push((text, &other.term));
        }
        // Examples are paired by position, so both languages must have the same number of examples.
        if entry.examples.len() == other.examples.len() {
            let terms = std::iter::once(&other.term).chain(&other.forbidden);
            let terms = terms.map(|text| Term { text, language: Some(&other.language) });
            let matcher = Matcher::new(terms, Case::Written)?;
            for (example, translated) in entry.examples.iter().zip(&other.examples) {
                let hits = uncovered(matcher.hits(translated), |term| term == 0);
                match hits.iter().find_map(|hit| other.forbidden.get(hit.term.checked_sub(1)?)) {
                    None => pairs.push((example, translated)),
                    Some(word) => {
                        let instead = &other.term;
                        let detail = format!(
                            "the example \"{translated}\" says \"{word}\"; the term is \"{instead}\"; no translation \
                             is asked for"
                        );
                        situations.findings.push((AuditRule::ForbiddenTerm, detail));
                    }
                }
            }
        }
        for (text, translation) in pairs {
            situations.all.push(Situation {
                kind: TemplateKind::Translation,
                languages: vec![entry.language.clone(), other.language.clone()],
                values: vec![
                    ("term", term.to_owned()),
                    ("text", text.clone()),
                    ("translation", translation.clone()),
                    ("from", entry.language.clone()),
                    ("into", other.language.clone()),
                ],
            });
        }
    }
    Ok(())
}

/// Whether rows of other languages have translation tasks with this entry's term as the answer.
pub(crate) fn is_target(entry: &Entry, source: &SourcePlan) -> bool {
    let from = source.translate_from.as_deref();
    entry.translations.iter().any(|other| {
        !language::same(&other.language, &entry.language)
            && from.is_none_or(|from| language::same(from, &other.language))
    })
}

/// One translation for each other language. If a language has several regions, the wanted region is used, or else the
/// first one.
fn targets<'a>(entry: &'a Entry, wanted: Option<&str>) -> Vec<&'a Translation> {
    let mut targets: Vec<&Translation> = Vec::new();
    for other in &entry.translations {
        if language::same(&other.language, &entry.language)
            || wanted.is_some_and(|wanted| !language::same(wanted, &other.language))
        {
            continue;
        }
        let is_exact = wanted.is_some_and(|wanted| wanted.eq_ignore_ascii_case(&other.language));
        match targets.iter().position(|known| language::same(&known.language, &other.language)) {
            None => targets.push(other),
            Some(place) if is_exact => targets[place] = other,
            Some(_) => {}
        }
    }
    targets
}
