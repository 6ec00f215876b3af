//! What changed since the version that is published now.
//!
//! Responsible for: differences of plan, inputs, data and measures.
//! Must not depend on: how versions are stored.

use std::collections::{BTreeMap, BTreeSet};

use toml::{Table, Value};
use tonfall_recipes::{Plan, grouped};
use tonfall_runs::numbers::measure;

use super::evaluation::{against_published, signed};
use crate::html::{Html, html};
use crate::limits::{ROWS, left_out, value};
use crate::view::{Published, View};

/// Keys of a plan that decide names and places, not the result.
const PLACES: [&str; 2] = ["name", "output_dir"];

/// Without a published version there is no section.
pub(crate) fn write(page: &mut Html, view: &View) {
    let Some(published) = &view.published else { return };
    html!(page, "<section id=\"changes\">\n<h2>Changes since the published version</h2>\n");
    html!(page, "<p>Published now: <strong>{}</strong>", value(&published.name));
    if let Some(created) = &published.created {
        html!(page, ", begun {}", value(created));
    }
    html!(page, ".</p>\n");
    measures(page, view, published);
    html!(page, "<h3>Inputs</h3>\n");
    inputs(page, view, published);
    html!(page, "<h3>Recipe</h3>\n");
    plans(page, view, published);
    html!(page, "</section>\n");
}

fn measures(page: &mut Html, view: &View, published: &Published) {
    match (&published.report, &view.adapter) {
        (Some(old), Some(new)) => against_published(page, old, new),
        _ => html!(page, "<p>One of them has no evaluation report, so their measures can't be compared.</p>\n"),
    }
    if let (Some(old), Some((_, new))) = (published.eval_loss, view.summary.eval) {
        let difference = signed(new - old);
        html!(page, "<p>Eval loss in the logs: {} before, {} now ({}).</p>\n", measure(old), measure(new), difference);
    }
    if let (Some(old), Some(new)) = (&published.data, &view.data.data) {
        html!(
            page,
            "<p>Training examples: {} before, {} now.</p>\n",
            grouped(old.train_examples),
            grouped(new.train_examples)
        );
    }
}

fn inputs(page: &mut Html, view: &View, published: &Published) {
    let now = view.info.as_ref().and_then(|info| info.inputs.as_ref());
    let (Some(old), Some(now)) = (&published.inputs, now) else {
        html!(page, "<p>One of them has no fingerprints of its inputs, so they can't be compared.</p>\n");
        return;
    };
    list(page, &old.changes(now, |_| false), "All inputs are the same, byte for byte.", "input");
}

fn plans(page: &mut Html, view: &View, published: &Published) {
    match (&published.plan, &view.plan) {
        (Some(old), Some(new)) => list(page, &differences(old, new), "Every value is the same.", "value"),
        _ => html!(page, "<p>One of the plans can't be read.</p>\n"),
    }
}

fn list(page: &mut Html, changes: &[String], none: &'static str, noun: &str) {
    if changes.is_empty() {
        html!(page, "<p>{}</p>\n", none);
        return;
    }
    html!(page, "<ul>\n");
    for change in changes.iter().take(ROWS) {
        html!(page, "<li>{}</li>\n", value(change));
    }
    html!(page, "</ul>\n");
    left_out(page, changes.len().saturating_sub(ROWS) as u64, noun);
}

/// One line for each value of a plan that differs.
fn differences(old: &Plan, new: &Plan) -> Vec<String> {
    let [old, new] = [old, new].map(values);
    let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let shown = |found: Option<&Value>| found.map_or_else(|| "not set".to_owned(), ToString::to_string);
    let changed = keys.into_iter().filter(|key| old.get(*key) != new.get(*key) && !PLACES.contains(&key.as_str()));
    changed.map(|key| format!("{key}: {} → {}", shown(old.get(key)), shown(new.get(key)))).collect()
}

/// The values of a plan by their keys, such as `lora.rank`.
fn values(plan: &Plan) -> BTreeMap<String, Value> {
    let mut values = BTreeMap::new();
    // A plan has always a text, so it has this form too.
    for (key, found) in Table::try_from(plan).unwrap_or_default() {
        match found {
            Value::Table(inner) => {
                values.extend(inner.into_iter().map(|(name, found)| (format!("{key}.{name}"), found)))
            }
            found => drop(values.insert(key, found)),
        }
    }
    values
}
