//! The page of a run.
//!
//! Responsible for: the frame of a page, and the order of the sections: the verdict first, then what explains it.
//! Must not depend on: files.

use crate::html::{Html, html};
use crate::sections::{about, changes, curves, data, evaluation, lineage, memory, notices, samples, verdict};
use crate::view::View;

const STYLE: &str = include_str!("style.css");

/// A section, its id and its name in the table of contents.
type Section = (&'static str, &'static str, fn(&mut Html, &View));

const SECTIONS: [Section; 9] = [
    ("about", "Run", about::write),
    ("curves", "Curves", curves::write),
    ("evaluation", "Evaluation", evaluation::write),
    ("changes", "Changes", changes::write),
    ("samples", "Samples", samples::write),
    ("data", "Data", data::write),
    ("memory", "Memory", memory::write),
    ("lineage", "Lineage", lineage::write),
    ("notices", "Notices", notices::write),
];

/// The page of a run: one HTML file that needs no network and no script. Every text of data, prompts and models is
/// escaped. Its size is bounded: at most about 2 MiB of samples, and fixed limits for everything else.
pub fn page(view: &View) -> String {
    let mut page = Html::default();
    begin(&mut page, &view.name);
    html!(page, "<header>\n<p class=\"kicker\">tonfall report</p>\n<h1>{}</h1>\n</header>\n<main>\n", view.name);
    verdict::write(&mut page, view);
    html!(page, "<nav aria-label=\"sections\"><ul>\n");
    for (id, name, _) in SECTIONS.iter().filter(|(id, ..)| *id != "changes" || view.published.is_some()) {
        html!(page, "<li><a href=\"#{}\">{}</a></li>\n", id, name);
    }
    html!(page, "</ul></nav>\n");
    for (_, _, write) in SECTIONS {
        write(&mut page, view);
    }
    html!(page, "</main>\n<footer><p>Made at {} by tonfall {}. ", view.made, env!("CARGO_PKG_VERSION"));
    html!(page, "Times are UTC.</p></footer>\n</body>\n</html>\n");
    page.into_string()
}

/// Everything before the header. The content security policy forbids scripts and every connection.
pub(crate) fn begin(page: &mut Html, title: &str) {
    html!(page, "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    html!(
        page,
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
    );
    html!(page, "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
    html!(page, "<meta name=\"color-scheme\" content=\"light dark\">\n<title>{}, tonfall report</title>\n", title);
    page.style(STYLE);
    html!(page, "</head>\n<body>\n");
}
