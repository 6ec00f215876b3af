//! Notices and errors.
//!
//! Responsible for: what the trainer reported besides its measurements, errors first.
//! Must not depend on: the other sections; findings of the audit are in the data section.

use tonfall_recipes::counted;

use super::about::time;
use super::data::is_finding;
use crate::facts::{Attempt, End};
use crate::html::{Html, html};
use crate::limits::{left_out, value};
use crate::view::View;

pub(crate) fn write(page: &mut Html, view: &View) {
    html!(page, "<section id=\"notices\">\n<h2>Notices and errors</h2>\n");
    let errors: Vec<_> = view.facts.attempts.iter().filter_map(error).collect();
    let notices: Vec<_> = view.facts.notices.iter().filter(|notice| !is_finding(notice)).collect();
    for fault in &view.faults {
        html!(page, "<p class=\"fault\"><strong>Damaged:</strong> {}</p>\n", value(fault));
    }
    if view.skipped.unknown > 0 {
        html!(
            page,
            "<p>{} of the event log are from a newer tonfall and were skipped.</p>\n",
            counted(view.skipped.unknown, "line")
        );
    }
    if errors.is_empty() && notices.is_empty() {
        html!(page, "<p>None.</p>\n");
    } else {
        html!(page, "<div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"notices\"><table>\n");
        html!(
            page,
            "<thead><tr><th scope=\"col\">time</th><th scope=\"col\">kind</th><th scope=\"col\">text</th></tr></thead>\n<tbody>\n"
        );
        for (t, text) in errors {
            html!(
                page,
                "<tr><td class=\"time\">{}</td><td class=\"time bad\">✗ error</td><td class=\"text\">{}</td></tr>\n",
                time(t),
                text
            );
        }
        for notice in notices {
            let times = if notice.times > 1 { format!(" ({} times)", notice.times) } else { String::new() };
            html!(
                page,
                "<tr><td class=\"time\">{}</td><td>notice</td><td class=\"text\">{}{}</td></tr>\n",
                time(notice.t),
                notice.text,
                times
            );
        }
        html!(page, "</tbody></table></div>\n");
    }
    left_out(page, view.facts.notices_left_out, "notice");
    html!(page, "</section>\n");
}

/// Time and text of the error that ended an attempt.
fn error(attempt: &Attempt) -> Option<(f64, String)> {
    let text = match attempt.end.as_ref()? {
        End::Diverged(text) | End::Failed(text) => text,
        End::Finished | End::Interrupted => return None,
    };
    Some((attempt.last, format!("attempt {}: {text}", attempt.number)))
}
