//! The list of nights of a store.
//!
//! Responsible for: one row per night, newest first: its outcome, why, and the measures of its adapter.
//! Must not depend on: how a store keeps its versions, files.

use std::path::PathBuf;

use tonfall_recipes::{counted, grouped};
use tonfall_runs::nights::{NightRecord, NightResult};
use tonfall_runs::numbers::{duration, measure};

use crate::html::{Html, html};
use crate::limits::{ROWS, left_out, value};
use crate::page::begin;

/// Columns of measures. More would not fit a page.
const MEASURES: usize = 6;
/// Exit code of a run with NaN or infinite values.
const DIVERGED: i32 = 5;

/// One night, as plain data.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Night {
    /// When it began, UTC.
    pub began: String,
    pub outcome: Outcome,
    /// The name of its run; `None` if nothing was trained.
    pub run: Option<String>,
    /// The page of the run, as a path relative to the list.
    pub page: Option<String>,
    /// The version that was published.
    pub version: Option<String>,
    /// Why it was not published, or what failed.
    pub reasons: Vec<String>,
    pub seconds: Option<f64>,
    /// Names and values of the measures of its adapter.
    pub measures: Vec<(String, f64)>,
}

/// How a night ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    Published,
    GateFailed,
    #[default]
    NothingToDo,
    Interrupted,
    Diverged,
    Failed,
}

impl From<NightRecord> for Night {
    fn from(record: NightRecord) -> Self {
        let outcome = match record.result {
            NightResult::Published => Outcome::Published,
            NightResult::GateFailed => Outcome::GateFailed,
            NightResult::Unchanged => Outcome::NothingToDo,
            NightResult::Stopped => Outcome::Interrupted,
            NightResult::Failed | NightResult::Other if record.exit_code == DIVERGED => Outcome::Diverged,
            NightResult::Failed | NightResult::Other => Outcome::Failed,
        };
        let name = |run: PathBuf| run.file_name().map(|name| name.to_string_lossy().into_owned());
        Self {
            began: record.started,
            outcome,
            run: record.run.and_then(name),
            page: None,
            version: record.version.map(|version| version.to_string()),
            reasons: record.reasons,
            seconds: Some(record.seconds),
            measures: record.measures.into_iter().collect(),
        }
    }
}

impl Outcome {
    const ALL: [Self; 6] =
        [Self::Published, Self::GateFailed, Self::NothingToDo, Self::Interrupted, Self::Diverged, Self::Failed];

    /// The name with a sign, and the class of the style sheet.
    fn shown(self) -> (&'static str, &'static str) {
        match self {
            Self::Published => ("✓ published", "good"),
            Self::GateFailed => ("✗ gate failed", "bad"),
            Self::NothingToDo => ("· nothing to do", "faint"),
            Self::Interrupted => ("✗ interrupted", "bad"),
            Self::Diverged => ("✗ diverged", "bad"),
            Self::Failed => ("✗ failed", "bad"),
        }
    }
}

/// The page of a store's nights, which are given oldest first.
pub fn nights(nights: &[Night]) -> String {
    let mut page = Html::default();
    begin(&mut page, "nights");
    html!(page, "<header>\n<p class=\"kicker\">tonfall report</p>\n<h1>Nights</h1>\n</header>\n<main>\n");
    overview(&mut page, nights);
    if !nights.is_empty() {
        table(&mut page, nights);
    }
    html!(page, "</main>\n</body>\n</html>\n");
    page.into_string()
}

fn overview(page: &mut Html, nights: &[Night]) {
    let Some(newest) = nights.last() else {
        html!(page, "<p>There are no nights yet.</p>\n");
        return;
    };
    let (name, class) = newest.outcome.shown();
    let class = if class == "faint" { "open" } else { class };
    html!(page, "<section id=\"verdict\" class=\"verdict {}\">\n<h2>Last night: {}</h2>\n", class, name);
    for reason in newest.reasons.iter().take(ROWS) {
        html!(page, "<p>{}</p>\n", value(reason));
    }
    left_out(page, newest.reasons.len().saturating_sub(ROWS) as u64, "reason");
    let published = nights.iter().rev().find_map(|night| Some((night.version.as_ref()?, &night.began)));
    match published {
        Some((version, began)) => {
            html!(page, "<p>Newest published version: <strong>{}</strong>, of {}.</p>\n", value(version), value(began))
        }
        None => html!(page, "<p>Nothing was published in these nights.</p>\n"),
    }
    html!(page, "<dl class=\"figures\">\n<div><dt>nights</dt><dd>{}</dd></div>\n", grouped(nights.len() as u64));
    for outcome in Outcome::ALL {
        let count = nights.iter().filter(|night| night.outcome == outcome).count();
        if count > 0 {
            html!(page, "<div><dt>{}</dt><dd>{}</dd></div>\n", outcome.shown().0, grouped(count as u64));
        }
    }
    html!(page, "</dl>\n</section>\n");
}

fn table(page: &mut Html, nights: &[Night]) {
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in nights.iter().rev().flat_map(|night| &night.measures) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let more = names.len().saturating_sub(MEASURES);
    names.truncate(MEASURES);
    html!(page, "<section>\n<h2>All nights, newest first</h2>\n");
    html!(
        page,
        "<div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"nights\"><table class=\"nights\">\n<thead><tr>"
    );
    for name in ["night", "outcome", "run", "version", "lasted"] {
        html!(page, "<th scope=\"col\">{}</th>", name);
    }
    for name in &names {
        html!(page, "<th scope=\"col\"><code>{}</code></th>", value(name));
    }
    html!(page, "<th scope=\"col\">why</th></tr></thead>\n<tbody>\n");
    for night in nights.iter().rev().take(ROWS) {
        row(page, night, &names);
    }
    html!(page, "</tbody></table></div>\n");
    left_out(page, nights.len().saturating_sub(ROWS) as u64, "older night");
    left_out(page, more as u64, "measure");
    html!(page, "</section>\n");
}

fn row(page: &mut Html, night: &Night, names: &[&str]) {
    let (outcome, class) = night.outcome.shown();
    html!(page, "<tr><th scope=\"row\">{}</th><td class=\"{}\">{}</td>", value(&night.began), class, outcome);
    match (&night.run, &night.page) {
        (Some(run), Some(file)) => html!(page, "<td><a href=\"{}\">{}</a></td>", link(file), value(run)),
        (Some(run), None) => html!(page, "<td>{}</td>", value(run)),
        (None, _) => html!(page, "<td>–</td>"),
    }
    html!(page, "<td>{}</td>", night.version.as_deref().map_or_else(|| "–".to_owned(), value));
    html!(page, "<td>{}</td>", night.seconds.map_or_else(|| "–".to_owned(), duration));
    for name in names {
        let found = night.measures.iter().find(|(other, _)| other == name);
        html!(page, "<td>{}</td>", found.map_or_else(|| "–".to_owned(), |(_, value)| measure(*value)));
    }
    let why = night.reasons.iter().take(3).map(|reason| value(reason)).collect::<Vec<_>>().join("; ");
    let more = night.reasons.len().saturating_sub(3) as u64;
    let more = if more > 0 { format!(" (and {})", counted(more, "more reason")) } else { String::new() };
    html!(page, "<td class=\"why\">{}{}</td></tr>\n", why, more);
}

/// A relative link. Only letters, digits and `-_.~/` stay: a path can't become a scheme such as `javascript:`.
fn link(path: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte);
    let encoded = path.trim_start_matches('/').bytes().map(|byte| match is_plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    });
    std::iter::once("./".to_owned()).chain(encoded).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_relative_paths_only() {
        assert_eq!(link("a/run 1.html"), "./a/run%201.html");
        assert_eq!(link("javascript:alert(1)"), "./javascript%3Aalert%281%29");
        assert_eq!(link("//evil.example/x"), "./evil.example/x");
    }

    #[test]
    fn the_newest_night_is_first() {
        let night = |began: &str, outcome, reasons: &[&str]| Night {
            began: began.to_owned(),
            outcome,
            run: Some("<b>".to_owned()),
            page: Some("x.html".to_owned()),
            reasons: reasons.iter().map(|reason| (*reason).to_owned()).collect(),
            measures: vec![("terms.preferred".to_owned(), 0.5)],
            ..Night::default()
        };
        let mut first = night("2026-12-01", Outcome::Published, &[]);
        first.version = Some("house/1".to_owned());
        let all = [first, night("2026-12-02", Outcome::GateFailed, &["terms.preferred fell", "b", "c", "d"])];
        let page = nights(&all);
        let at = |text: &str| page.find(text).unwrap_or_else(|| panic!("{text} in {page}"));
        assert!(at("Last night: ✗ gate failed") < at("house/1"));
        assert!(at("<th scope=\"row\">2026-12-02") < at("<th scope=\"row\">2026-12-01"));
        assert!(page.contains("&lt;b&gt;") && !page.contains("<b>"));
        assert!(page.contains("terms.preferred fell; b; c (and 1 more reason)"), "{page}");
        assert!(nights(&[]).contains("no nights yet"));
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let many: Vec<Night> = (0..ROWS + 5)
            .map(|number| Night { measures: vec![(format!("m{number}"), 1.0)], ..Night::default() })
            .collect();
        let page = nights(&many);
        assert!(page.contains("5 older nights left out") && page.contains("299 measures left out"), "{page}");
    }
}
