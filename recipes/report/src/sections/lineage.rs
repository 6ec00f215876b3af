//! Lineage: hashes of everything that the run was made from.
//!
//! Responsible for: the fingerprints of `run.json` and of the evaluated models, and the whole plan.
//! Must not depend on: how fingerprints are computed.

use tonfall_recipes::{counted, grouped};

use crate::html::{Html, html};
use crate::limits::{PLAN, ROWS, left_out, value};
use crate::view::View;

pub(crate) fn write(page: &mut Html, view: &View) {
    html!(page, "<section id=\"lineage\">\n<h2>Lineage</h2>\n");
    let mut rows: Vec<(String, String)> = Vec::new();
    let mut add = |name: &str, hash: &str| rows.push((value(name), value(hash)));
    if let Some(info) = &view.info {
        add("tonfall", &info.tonfall);
        add("plan", &info.plan_hash);
        if let Some(inputs) = &info.inputs {
            inputs.iter().for_each(|(name, hash)| add(name, hash));
        }
    }
    let reports = [("evaluation of the base", &view.base), ("evaluation of the adapter", &view.adapter)];
    for (name, report) in reports {
        let Some(report) = report else { continue };
        report.subject.sha256.iter().for_each(|(part, hash)| add(&format!("{name}: {part}"), hash));
        add(&format!("{name}: questions"), &report.questions);
    }
    if view.info.as_ref().is_some_and(|info| info.inputs.is_none()) {
        html!(page, "<p>The run was started by an older tonfall, which stored no fingerprints of its inputs.</p>\n");
    }
    if !rows.is_empty() {
        html!(
            page,
            "<div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"hashes\"><table class=\"hashes\">\n"
        );
        html!(
            page,
            "<thead><tr><th scope=\"col\">input</th><th scope=\"col\">version or SHA-256</th></tr></thead>\n<tbody>\n"
        );
        for (name, hash) in rows.iter().take(ROWS) {
            html!(page, "<tr><th scope=\"row\">{}</th><td><code>{}</code></td></tr>\n", name, hash);
        }
        html!(page, "</tbody></table></div>\n");
        left_out(page, rows.len().saturating_sub(ROWS) as u64, "hash");
    }
    plan(page, view);
    html!(page, "</section>\n");
}

fn plan(page: &mut Html, view: &View) {
    let Some(plan) = &view.plan else { return };
    let text = plan.to_toml();
    let lines = text.lines().count() as u64;
    html!(page, "<details><summary>The plan: every value of the recipe, {}</summary>\n", counted(lines, "line"));
    let end = text.floor_char_boundary(PLAN);
    html!(page, "<pre tabindex=\"0\">{}</pre>\n", text[..end]);
    if end < text.len() {
        html!(page, "<p class=\"left-out\">{} bytes left out of this page.</p>\n", grouped((text.len() - end) as u64));
    }
    html!(page, "</details>\n");
}
