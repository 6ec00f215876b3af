//! The measures of an evaluation.
//!
//! Responsible for: which measures there are, and their parts. `tonfall_measures` computes the parts of single answers.
//! Must not depend on: models.

use std::collections::BTreeMap;

use tonfall_datasets::{DataError, HeldOutPrompt};
use tonfall_measures::language::Language;
use tonfall_measures::rules::{Rule, RuleText};
use tonfall_measures::term_base::{ConceptTerms, Mentions, TermBase};
use tonfall_measures::terminology::TermUse;
use tonfall_measures::{Part as Share, address, bleu, chrf, degeneration, readability, refusals, sentences};
use tonfall_recipes::counted;
use tonfall_recipes::plan::{Address, StylePlan};
use tonfall_runs::evaluation::{Answer, Better, Measure, Part, Scale};

use super::{Answered, Asked, EvalSuite};
use crate::error::TrainError;

/// At most this many parts belong to measures of single concepts, so that reports stay small.
const CONCEPT_PARTS: usize = 100_000;
/// At most this many terms have a measure of their own.
const CONCEPTS: usize = 100;

/// An answer with its prompt.
pub(super) struct Case<'a> {
    prompt: &'a HeldOutPrompt,
    answered: &'a Answered,
    language: Option<Language>,
    terms: TermUse,
    mentions: Mentions,
}

/// A measure of single answers.
struct Row {
    name: &'static str,
    better: Better,
    part: fn(&Case<'_>, &EvalSuite<'_>) -> Share,
}

const fn row(name: &'static str, better: Better, part: fn(&Case<'_>, &EvalSuite<'_>) -> Share) -> Row {
    Row { name, better, part }
}

/// The measures of every evaluation with held-out prompts.
const ROWS: [Row; 14] = [
    row("terms.preferred", Better::Higher, |case, _| case.terms.preferred_part()),
    row("terms.forbidden", Better::Lower, |case, _| case.terms.forbidden_part()),
    row("termbase.preferred", Better::Higher, |case, _| case.mentions.part()),
    row("text.sentence_length", Better::Neither, |case, _| sentences::length_part(&case.answered.text)),
    row("text.readability.de", Better::Neither, |case, _| case.readability(Language::German)),
    row("text.readability.en", Better::Neither, |case, _| case.readability(Language::English)),
    row("text.address", Better::Higher, |case, suite| case.address(suite.address)),
    row("reference.chrf", Better::Higher, |case, _| case.compared(chrf::chrf)),
    row("reference.bleu", Better::Higher, |case, _| case.compared(bleu::bleu)),
    row("degeneration.loops", Better::Lower, |case, _| degeneration::loop_part(&case.answered.text)),
    row("degeneration.repetition", Better::Lower, |case, _| degeneration::repetition_part(&case.answered.text)),
    row("degeneration.endless", Better::Lower, |case, _| degeneration::endless_part(case.answered.ended)),
    row("degeneration.empty", Better::Lower, |case, _| degeneration::empty_part(&case.answered.text)),
    row("degeneration.refusals", Better::Lower, |case, _| refusals::refusal_part(&case.answered.text)),
];

/// The terms of `prompt` that an answer uses.
///
/// # Errors
/// If there are too many terms for one matcher.
pub(crate) fn used_terms(prompt: &HeldOutPrompt, answer: &str) -> Result<TermUse, TrainError> {
    let terms = TermUse::of(answer, &prompt.expect, &prompt.avoid, language(prompt, answer));
    Ok(terms.map_err(DataError::from)?)
}

/// The language that the prompt names, otherwise that of the answer, otherwise that of the prompt.
fn language(prompt: &HeldOutPrompt, answer: &str) -> Option<Language> {
    match &prompt.language {
        Some(tag) => Language::of_tag(tag),
        None => Language::of_text(answer).or_else(|| Language::of_text(&prompt.text())),
    }
}

pub(super) fn cases<'a>(suite: &EvalSuite<'a>, answers: &'a [Answered]) -> Result<Vec<Case<'a>>, TrainError> {
    let concepts = suite.concepts.iter().map(|concept| ConceptTerms {
        language: &concept.language,
        preferred: &concept.preferred,
        forbidden: &concept.forbidden,
    });
    let base = TermBase::new(&concepts.collect::<Vec<_>>()).map_err(DataError::from)?;
    let cases = suite.prompts.iter().zip(answers).map(|(prompt, answered)| {
        let (terms, language) = (used_terms(prompt, &answered.text)?, language(prompt, &answered.text));
        let mentions = base.mentions(&answered.text, language);
        Ok(Case { prompt, answered, language, terms, mentions })
    });
    cases.collect()
}

impl Case<'_> {
    fn readability(&self, language: Language) -> Share {
        match self.language == Some(language) {
            true => readability::readability_part(&self.answered.text, language),
            false => Share::NONE,
        }
    }

    fn address(&self, wanted: Address) -> Share {
        let wanted = match wanted {
            Address::Consistent => address::Address::Consistent,
            Address::Sie => address::Address::Sie,
            Address::Du => address::Address::Du,
        };
        match self.language == Some(Language::German) {
            true => address::address_part(&self.answered.text, wanted),
            false => Share::NONE,
        }
    }

    fn compared(&self, score: fn(&str, &str) -> f64) -> Share {
        let reference = self.prompt.reference.as_deref();
        reference.map_or(Share::NONE, |reference| Share::score(score(&self.answered.text, reference)))
    }

    pub(super) fn answer(&self) -> Answer {
        let chosen = |terms: &[String], used: &[bool], is_used: bool| -> Vec<String> {
            terms.iter().zip(used).filter(|(_, used)| **used == is_used).map(|(term, _)| term.clone()).collect()
        };
        let mut violations = chosen(&self.prompt.avoid, &self.terms.forbidden, true);
        violations.extend(self.mentions.forbidden.iter().filter(|term| !self.prompt.avoid.contains(term)).cloned());
        Answer {
            prompt: self.prompt.text(),
            text: self.answered.text.clone(),
            tokens: self.answered.tokens,
            ended: self.answered.ended,
            expected: self.prompt.expect.clone(),
            missing: chosen(&self.prompt.expect, &self.terms.preferred, false),
            violations,
            reference: self.prompt.reference.clone(),
        }
    }
}

/// Loss and perplexity of the eval split, and perplexity of the general text.
pub(super) fn of_losses(asked: &Asked) -> Vec<Measure> {
    let rows = [
        ("loss", Scale::Ratio, &asked.eval),
        ("perplexity", Scale::Exp, &asked.eval),
        ("retention.perplexity", Scale::Exp, &asked.retention),
    ];
    let known = rows.into_iter().filter_map(|(name, scale, parts)| Some((name, scale, parts.as_ref()?)));
    known
        .filter(|(_, _, parts)| !parts.is_empty())
        .map(|(name, scale, parts)| Measure::new(name.to_owned(), Better::Lower, scale, parts.clone()))
        .collect()
}

/// The measures of answers: those of [`ROWS`] that apply to any prompt of the suite, the rules of style, single terms.
pub(super) fn of_answers(
    suite: &EvalSuite<'_>,
    cases: &[Case<'_>],
    notices: &mut Vec<String>,
) -> Result<Vec<Measure>, TrainError> {
    if cases.is_empty() {
        return Ok(Vec::new());
    }
    let has_references = cases.iter().any(|case| case.prompt.reference.is_some());
    let rows = ROWS.iter().filter(|row| match row.name {
        "termbase.preferred" => !suite.concepts.is_empty(),
        name => has_references || !name.starts_with("reference."),
    });
    let of_row = |row: &Row| measure(row.name.to_owned(), row.better, cases.iter().map(|case| (row.part)(case, suite)));
    let mut measures: Vec<Measure> = rows.map(of_row).collect();
    for plan in suite.style {
        let rule = rule(plan)?;
        let parts = cases.iter().map(|case| rule.part(&case.answered.text, case.language));
        measures.push(measure(format!("style.{}", plan.name), Better::Higher, parts));
    }
    measures.extend(of_terms("terms.preferred", Better::Higher, cases, notices, |case| {
        (&case.prompt.expect, &case.terms.preferred)
    }));
    measures.extend(of_terms("terms.forbidden", Better::Lower, cases, notices, |case| {
        (&case.prompt.avoid, &case.terms.forbidden)
    }));
    measures.extend(of_concepts(suite, cases, notices));
    Ok(measures)
}

/// One measure for each of the first concepts of the term bases.
fn of_concepts(suite: &EvalSuite<'_>, cases: &[Case<'_>], notices: &mut Vec<String>) -> Vec<Measure> {
    let kept = CONCEPTS.min(CONCEPT_PARTS / cases.len()).min(suite.concepts.len());
    if kept < suite.concepts.len() {
        let left = counted((suite.concepts.len() - kept) as u64, "concept");
        notices.push(format!(
            "termbase.preferred: {left} have no measure of their own; the rate of all concepts includes them"
        ));
    }
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    let mut measures = Vec::with_capacity(kept);
    for (index, concept) in suite.concepts.iter().enumerate().take(kept) {
        // Several concepts may have the same preferred term.
        let count = names.entry(&concept.name).or_default();
        *count += 1;
        let name = match *count {
            1 => format!("termbase.preferred.{}", concept.name),
            more => format!("termbase.preferred.{}#{more}", concept.name),
        };
        let parts = cases.iter().map(|case| case.mentions.concepts.get(&index).copied().unwrap_or_default());
        measures.push(measure(name, Better::Higher, parts));
    }
    measures
}

fn rule(plan: &StylePlan) -> Result<Rule, TrainError> {
    let text = RuleText {
        must_match: plan.must_match.clone(),
        must_not_match: plan.must_not_match.clone(),
        must_use: plan.must_use.clone(),
        must_not_use: plan.must_not_use.clone(),
        language: plan.language.clone(),
    };
    Rule::new(&text).map_err(|source| TrainError::Style { name: plan.name.clone(), source })
}

/// One measure for each of the most frequent terms, by term.
fn of_terms<'c>(
    prefix: &str,
    better: Better,
    cases: &'c [Case<'_>],
    notices: &mut Vec<String>,
    terms: impl Fn(&'c Case<'_>) -> (&'c Vec<String>, &'c Vec<bool>),
) -> Vec<Measure> {
    let mut prompts: BTreeMap<&str, usize> = BTreeMap::new();
    for term in cases.iter().flat_map(|case| terms(case).0) {
        *prompts.entry(term).or_default() += 1;
    }
    let mut frequent: Vec<(&str, usize)> = prompts.into_iter().collect();
    frequent.sort_by_key(|(term, prompts)| (std::cmp::Reverse(*prompts), *term));
    let kept = CONCEPTS.min(CONCEPT_PARTS / cases.len());
    if frequent.len() > kept {
        let left = counted((frequent.len() - kept) as u64, "term");
        notices.push(format!(
            "{prefix}: {left} with fewer prompts have no measure of their own; the rate of all terms includes them"
        ));
        frequent.truncate(kept);
    }
    frequent.sort_unstable();
    let of_term = |(term, _): &(&str, usize)| {
        let parts = cases.iter().map(|case| {
            let (names, used) = terms(case);
            let found = names.iter().zip(used).filter(|(name, _)| name.as_str() == *term);
            found.fold(Share::NONE, |share, (_, used)| Share {
                numerator: share.numerator + f64::from(u8::from(*used)),
                denominator: share.denominator + 1.0,
            })
        });
        measure(format!("{prefix}.{term}"), better, parts)
    };
    frequent.iter().map(of_term).collect()
}

fn measure(name: String, better: Better, parts: impl Iterator<Item = Share>) -> Measure {
    let parts = parts.map(|Share { numerator, denominator }| Part { numerator, denominator });
    Measure::new(name, better, Scale::Ratio, parts.collect())
}

#[cfg(test)]
mod tests {
    use tonfall_datasets::Message;

    use super::*;

    fn prompt(text: &str, expect: &[&str], avoid: &[&str]) -> HeldOutPrompt {
        let owned = |terms: &[&str]| terms.iter().map(|term| (*term).to_owned()).collect();
        HeldOutPrompt {
            messages: vec![Message::new("user", text)],
            expect: owned(expect),
            avoid: owned(avoid),
            ..HeldOutPrompt::default()
        }
    }

    fn answered(text: &str) -> Answered {
        Answered { text: text.to_owned(), tokens: 3, ended: true }
    }

    fn suite<'a>(
        prompts: &'a [HeldOutPrompt],
        style: &'a [StylePlan],
        none: &'a tonfall_datasets::Examples,
    ) -> EvalSuite<'a> {
        EvalSuite {
            prompts,
            style,
            concepts: &[],
            address: Address::Consistent,
            max_new_tokens: 8,
            eval: none,
            retention: none,
        }
    }

    #[test]
    fn measures_have_a_part_for_each_prompt() {
        let none = [].into_iter().collect();
        let prompts = [
            prompt("Where is my parcel?", &["guest", "handover"], &["delivery"]),
            HeldOutPrompt {
                reference: Some("Liebe Gäste".to_owned()), ..prompt("Wo ist mein Paket?", &["Gast"], &[])
            },
        ];
        let style = [StylePlan {
            name: "no-shouting".to_owned(),
            must_match: None,
            must_not_match: Some("!".to_owned()),
            must_use: Vec::new(),
            must_not_use: Vec::new(),
            language: None,
        }];
        let answers = [answered("Dear guests, the delivery is here!"), answered("Liebe Gäste")];
        let concepts = [tonfall_datasets::TermConcept {
            name: "goods".to_owned(),
            language: "en".to_owned(),
            preferred: vec!["goods".to_owned()],
            forbidden: vec!["delivery".to_owned(), "here".to_owned()],
        }];
        let suite = EvalSuite { concepts: &concepts, ..suite(&prompts, &style, &none) };
        let asked = Asked {
            answers: answers.to_vec(),
            eval: Some(vec![Part { numerator: 2.0, denominator: 1.0 }, Part { numerator: 4.0, denominator: 2.0 }]),
            retention: None,
        };
        let (report, notices) = suite.report(Default::default(), String::new(), &asked).expect("a report");
        let value = |name: &str| report.measure(name).unwrap_or_else(|| panic!("no {name}")).value();
        assert_eq!((value("loss"), value("perplexity")), (Some(2.0), Some(2f64.exp())));
        assert!(report.measure("retention.perplexity").is_none() && notices.is_empty());
        assert_eq!((value("terms.preferred"), value("terms.forbidden")), (Some(2.0 / 3.0), Some(1.0)));
        assert_eq!((value("terms.preferred.Gast"), value("terms.preferred.handover")), (Some(1.0), Some(0.0)));
        assert_eq!((value("termbase.preferred"), value("termbase.preferred.goods")), (Some(0.0), Some(0.0)));
        assert_eq!((value("style.no-shouting"), value("reference.chrf")), (Some(0.5), Some(100.0)));
        assert_eq!((value("degeneration.endless"), value("text.address")), (Some(0.0), None));
        assert!(report.measures.iter().all(|measure| measure.parts.len() == 2));
        assert_eq!(
            (&report.answers[0].missing, &report.answers[0].violations),
            (&vec!["handover".to_owned()], &vec!["delivery".to_owned(), "here".to_owned()])
        );
    }

    #[test]
    fn the_hash_changes_with_every_question() {
        let (none, one) =
            ([].into_iter().collect(), [tonfall_datasets::Example::new(vec![1, 2], vec![1, 2])].into_iter().collect());
        let prompts = [prompt("a", &["b"], &[])];
        let concepts = [tonfall_datasets::TermConcept::default()];
        let base = suite(&prompts, &[], &none);
        let hash = |suite: EvalSuite<'_>| suite.questions().expect("examples");
        let others = [
            EvalSuite { max_new_tokens: 9, ..base },
            EvalSuite { address: Address::Du, ..base },
            EvalSuite { prompts: &[], ..base },
            EvalSuite { concepts: &concepts, ..base },
            EvalSuite { eval: &one, ..base },
            EvalSuite { retention: &one, ..base },
        ];
        let mut hashes: Vec<String> = others.into_iter().chain([base]).map(hash).collect();
        hashes.sort();
        hashes.dedup();
        assert_eq!(hashes.len(), 7);
        assert_eq!(hash(base), hash(base));
    }

    #[test]
    fn rare_terms_beyond_the_limit_are_counted() {
        let none = [].into_iter().collect();
        let terms: Vec<String> = (0..CONCEPTS + 2).map(|number| format!("term{number:03}")).collect();
        let names: Vec<&str> = terms.iter().map(String::as_str).collect();
        let prompts = [prompt("a", &names, &[]), prompt("b", &["term101"], &[])];
        let asked = Asked { answers: vec![answered(""), answered("")], ..Asked::default() };
        let (report, notices) =
            suite(&prompts, &[], &none).report(Default::default(), String::new(), &asked).expect("a report");
        assert!(
            report.measure("terms.preferred.term101").is_some() && report.measure("terms.preferred.term100").is_none()
        );
        assert!(notices.len() == 1 && notices[0].contains("2 terms"), "{notices:?}");
    }
}
