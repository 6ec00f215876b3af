//! Answers before and after training, side by side.
//!
//! Responsible for: pairing the answers of base and adapter, and marking their terms.
//! Must not depend on: where terms are in a text (that is [`crate::marks`]).

use std::collections::{BTreeMap, VecDeque};

use tonfall_recipes::{counted, grouped};
use tonfall_runs::evaluation;
use tonfall_runs::history;

use crate::html::{Html, html};
use crate::limits::{SAMPLE_BYTES, SAMPLES, TERMS, TEXT, cut, left_out, value};
use crate::marks::marked;
use crate::view::View;

/// An answer of one model.
#[derive(Clone, Copy, Debug)]
struct Shown<'a> {
    prompt: &'a str,
    text: &'a str,
    reference: Option<&'a str>,
    expected: &'a [String],
    missing: &'a [String],
    violations: &'a [String],
    /// The model did not end the answer itself.
    is_cut_off: bool,
}

impl<'a> From<&'a evaluation::Answer> for Shown<'a> {
    fn from(answer: &'a evaluation::Answer) -> Self {
        Self {
            prompt: &answer.prompt,
            text: &answer.text,
            reference: answer.reference.as_deref(),
            expected: &answer.expected,
            missing: &answer.missing,
            violations: &answer.violations,
            is_cut_off: !answer.ended,
        }
    }
}

impl<'a> From<&'a history::Answer> for Shown<'a> {
    fn from(answer: &'a history::Answer) -> Self {
        Self {
            prompt: &answer.prompt,
            text: &answer.text,
            reference: None,
            expected: &answer.expected,
            missing: &answer.missing,
            violations: &answer.violations,
            is_cut_off: false,
        }
    }
}

/// The answers of one side of the page.
struct Side<'a> {
    name: String,
    answers: Vec<Shown<'a>>,
}

pub(crate) fn write(page: &mut Html, view: &View) {
    html!(page, "<section id=\"samples\">\n<h2>Samples before and after</h2>\n");
    let (sides, not_kept) = sides(view);
    let prompts = pairs(&sides);
    if prompts.is_empty() {
        html!(page, "<p>The run has no held-out prompts with answers.</p>\n");
    } else {
        overview(page, &sides);
        let end = page.len() + SAMPLE_BYTES;
        let mut shown = 0;
        while shown < prompts.len().min(SAMPLES) && page.len() < end {
            sample(page, shown + 1, &sides, &prompts[shown]);
            shown += 1;
        }
        left_out(page, (prompts.len() - shown) as u64, "held-out prompt");
    }
    left_out(page, not_kept, "answer of the log");
    html!(page, "</section>\n");
}

/// Both sides: from the evaluation reports, or from the log if there are none. Also the number of answers that the
/// history of the log did not keep.
fn sides(view: &View) -> ([Side<'_>; 2], u64) {
    if view.base.is_some() || view.adapter.is_some() {
        return ([evaluated("base", view.base.as_ref()), evaluated("adapter", view.adapter.as_ref())], 0);
    }
    let (before, after) = (&view.data.before, &view.data.after);
    ([logged("before", before), logged("after", after)], before.left_out.max(after.left_out))
}

fn evaluated<'a>(name: &str, report: Option<&'a evaluation::Report>) -> Side<'a> {
    let answers = report.into_iter().flat_map(|report| &report.answers).map(Shown::from).collect();
    Side { name: name.to_owned(), answers }
}

fn logged<'a>(name: &str, answers: &'a history::Answers) -> Side<'a> {
    let name = format!("{name}, step {}", grouped(answers.step));
    Side { name, answers: answers.answers.iter().map(Shown::from).collect() }
}

/// The answers to the same prompts. Prompts that only one side has come last.
fn pairs<'a>(sides: &[Side<'a>; 2]) -> Vec<[Option<Shown<'a>>; 2]> {
    let [before, after] = sides;
    let mut open: BTreeMap<&str, VecDeque<usize>> = BTreeMap::new();
    for (index, answer) in after.answers.iter().enumerate() {
        open.entry(answer.prompt).or_default().push_back(index);
    }
    let mut paired = vec![false; after.answers.len()];
    let mut partner = |answer: &Shown<'a>| {
        let index = open.get_mut(answer.prompt)?.pop_front()?;
        paired[index] = true;
        Some(after.answers[index])
    };
    let mut pairs: Vec<_> = before.answers.iter().map(|answer| [Some(*answer), partner(answer)]).collect();
    let alone = after.answers.iter().zip(&paired).filter(|(_, paired)| !**paired);
    pairs.extend(alone.map(|(answer, _)| [None, Some(*answer)]));
    pairs
}

/// The answers with faults, counted for each side.
fn overview(page: &mut Html, sides: &[Side<'_>]) {
    html!(page, "<ul>\n");
    for side in sides.iter().filter(|side| !side.answers.is_empty()) {
        let count = |is: fn(&Shown<'_>) -> bool| side.answers.iter().filter(|answer| is(answer)).count();
        html!(page, "<li>{}: {}", side.name, counted(side.answers.len() as u64, "answer"));
        html!(page, ", {} with missing terms", count(|answer| !answer.missing.is_empty()));
        html!(page, ", {} with forbidden terms", count(|answer| !answer.violations.is_empty()));
        match count(|answer| answer.is_cut_off) {
            0 => {}
            cut_off => html!(page, ", {} cut off at the longest allowed length", cut_off),
        }
        html!(page, "</li>\n");
    }
    html!(page, "</ul>\n<p class=\"note\">In the answers: <mark class=\"used\">expected term</mark>, ");
    html!(page, "<mark class=\"forbidden\"><s>forbidden term</s></mark>. The lists below each answer name them.</p>\n");
}

fn sample(page: &mut Html, number: usize, sides: &[Side<'_>; 2], pair: &[Option<Shown<'_>>; 2]) {
    let Some(first) = pair.iter().flatten().next() else { return };
    html!(page, "<article class=\"sample\" id=\"sample-{}\">\n<h3>Prompt {}</h3>\n", number, number);
    text(page, first.prompt, |page, prompt| html!(page, "{}", prompt));
    html!(page, "<div class=\"sides\">\n");
    for (side, answer) in sides.iter().zip(pair) {
        html!(page, "<div><h4>{}</h4>\n", side.name);
        match answer {
            Some(answer) => answered(page, answer),
            None => html!(page, "<p>No answer.</p>\n"),
        }
        html!(page, "</div>\n");
    }
    html!(page, "</div>\n");
    if let Some(reference) = pair.iter().flatten().find_map(|answer| answer.reference) {
        html!(page, "<div class=\"reference\"><h4>reference, by a person</h4>\n");
        text(page, reference, |page, reference| html!(page, "{}", reference));
        html!(page, "</div>\n");
    }
    html!(page, "</article>\n");
}

fn answered(page: &mut Html, answer: &Shown<'_>) {
    let used: Vec<&str> =
        answer.expected.iter().filter(|term| !answer.missing.contains(term)).map(String::as_str).collect();
    text(page, answer.text, |page, shown| marked(page, shown, &used, answer.violations));
    if answer.is_cut_off {
        html!(
            page,
            "<p class=\"fault\">Cut off at the longest allowed length: the model did not end this answer.</p>\n"
        );
    }
    let names = |terms: &[String]| terms.iter().map(|term| value(term)).collect::<Vec<_>>();
    let used = used.into_iter().map(value).collect();
    let lists = [
        ("used", "✓ expected terms used", used),
        ("missing", "✗ expected terms missing", names(answer.missing)),
        ("forbidden", "✗ forbidden terms used", names(answer.violations)),
    ];
    for (class, label, terms) in lists {
        list(page, class, label, &terms);
    }
}

fn list(page: &mut Html, class: &'static str, label: &'static str, terms: &[String]) {
    if terms.is_empty() {
        return;
    }
    html!(page, "<p class=\"terms\">{}: ", label);
    for (index, term) in terms.iter().take(TERMS).enumerate() {
        let comma = if index > 0 { ", " } else { "" };
        html!(page, "{}<mark class=\"{}\">{}</mark>", comma, class, term);
    }
    html!(page, "</p>\n");
    left_out(page, terms.len().saturating_sub(TERMS) as u64, "term");
}

/// A text of data or of a model, with its own line breaks and its own direction.
fn text(page: &mut Html, text: &str, write: impl FnOnce(&mut Html, &str)) {
    let (shown, rest) = cut(text, TEXT);
    html!(page, "<p class=\"text\" dir=\"auto\">");
    match shown.trim().is_empty() {
        true => html!(page, "<em>empty</em>"),
        false => write(page, shown),
    }
    html!(page, "</p>\n");
    left_out(page, rest as u64, "character");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(prompts: &[&'static str]) -> Side<'static> {
        let answer = |prompt: &&'static str| Shown {
            prompt,
            text: "",
            reference: None,
            expected: &[],
            missing: &[],
            violations: &[],
            is_cut_off: false,
        };
        Side { name: String::new(), answers: prompts.iter().map(answer).collect() }
    }

    #[test]
    fn answers_are_paired_by_their_prompts() {
        let pairs = pairs(&[side(&["a", "b", "b", "c"]), side(&["b", "a", "d", "b"])]);
        let shown: Vec<_> =
            pairs.iter().map(|pair| pair.map(|answer| answer.map_or("-", |answer| answer.prompt))).collect();
        assert_eq!(shown, [["a", "a"], ["b", "b"], ["b", "b"], ["c", "-"], ["-", "d"]]);
    }
}
