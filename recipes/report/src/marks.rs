//! An answer with its terms marked.
//!
//! Responsible for: marking expected and forbidden terms in a text. The evaluation decides which terms an answer uses;
//! this module only finds their places.
//! Must not depend on: the layout of a page.

use tonfall_terms::{Hit, Matcher, Term, text_language};

use crate::html::{Html, html};

/// A kind of marked term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Used,
    Forbidden,
}

/// Writes `text` with the terms `used` and `forbidden` marked.
pub(crate) fn marked(page: &mut Html, text: &str, used: &[&str], forbidden: &[String]) {
    let used = used.iter().map(|term| (*term, Kind::Used));
    let terms: Vec<(&str, Kind)> = used.chain(forbidden.iter().map(|term| (term.as_str(), Kind::Forbidden))).collect();
    let language = text_language::of_text(text);
    // The terms of one prompt are few. If they did not fit, the text would have no marks; the lists below it have all.
    let matcher = Matcher::in_prose(terms.iter().map(|(text, _)| Term { text, language }));
    let hits = matcher.map(|matcher| matcher.hits(text)).unwrap_or_default();
    let mut done = 0;
    for Hit { term, range, .. } in hits {
        if range.start < done {
            continue;
        }
        html!(page, "{}", text[done..range.start]);
        let word = &text[range.clone()];
        match terms[term].1 {
            Kind::Used => {
                html!(page, "<mark class=\"used\"><span class=\"spoken\">expected term: </span>{}</mark>", word);
            }
            Kind::Forbidden => {
                html!(
                    page,
                    "<mark class=\"forbidden\"><span class=\"spoken\">forbidden term: </span><s>{}</s></mark>",
                    word
                );
            }
        }
        done = range.end;
    }
    html!(page, "{}", text[done..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, used: &[&str], forbidden: &[&str]) -> String {
        let mut page = Html::default();
        let forbidden: Vec<String> = forbidden.iter().map(|term| (*term).to_owned()).collect();
        marked(&mut page, text, used, &forbidden);
        let page = page.into_string();
        page.replace("<span class=\"spoken\">expected term: </span>", "+")
            .replace("<span class=\"spoken\">forbidden term: </span>", "-")
            .replace("<mark class=\"used\">", "[")
            .replace("<mark class=\"forbidden\">", "[")
            .replace("</mark>", "]")
    }

    #[test]
    fn terms_are_marked_whole_and_inflected() {
        assert_eq!(shown("The Guest and the client", &["guest"], &["client"]), "The [+Guest] and the [-<s>client</s>]");
        assert_eq!(
            shown("Das sind unsere Gäste und ihre Kundendaten", &["Gast"], &["Kunde"]),
            "Das sind unsere [+Gäste] und ihre [-<s>Kunden</s>]daten"
        );
        assert_eq!(
            shown("These are our key accounts", &["key account"], &["account"]),
            "These are our [+key accounts]"
        );
        assert_eq!(shown("guesthouse", &["guest"], &["house"]), "guesthouse");
        assert_eq!(shown("", &[], &[]), "");
    }

    #[test]
    fn a_marked_term_is_escaped() {
        assert_eq!(shown("a <script> b", &["<script>"], &[]), "a [+&lt;script&gt;] b");
    }
}
