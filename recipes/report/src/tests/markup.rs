//! A check of the markup of a page: known tags, balanced, unique ids, links to existing ids, nothing active.

use std::collections::BTreeSet;

/// Tags that a page may contain. Those without an end tag are in [`VOID`].
const TAGS: [&str; 53] = [
    "!doctype",
    "html",
    "head",
    "meta",
    "title",
    "style",
    "body",
    "header",
    "main",
    "footer",
    "nav",
    "section",
    "article",
    "h1",
    "h2",
    "h3",
    "h4",
    "p",
    "ul",
    "li",
    "dl",
    "dt",
    "dd",
    "div",
    "span",
    "a",
    "table",
    "caption",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "code",
    "pre",
    "small",
    "strong",
    "em",
    "i",
    "s",
    "mark",
    "figure",
    "figcaption",
    "details",
    "summary",
    "svg",
    "desc",
    "line",
    "path",
    "text",
    "b",
    "br",
    "hr",
];
const VOID: [&str; 4] = ["!doctype", "meta", "br", "hr"];

/// Panics if the page is not well formed or has something that a page must not have.
pub(super) fn check(page: &str) {
    let (mut open, mut ids, mut links) = (Vec::new(), BTreeSet::new(), Vec::new());
    let mut rest = page;
    while let Some(start) = rest.find('<') {
        let end = start + rest[start..].find('>').expect("a tag ends");
        let tag = &rest[start + 1..end];
        rest = &rest[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name), "a tag is closed that is not open, before {:.80}", rest);
            continue;
        }
        let name = tag.split([' ', '/']).next().unwrap_or_default();
        assert!(TAGS.contains(&name), "unknown tag <{tag}>");
        for (name, value) in attributes(&tag[name.len()..]) {
            assert!(!name.starts_with("on") && !["src", "style", "xlink:href"].contains(&name.as_str()), "<{tag}>");
            match name.as_str() {
                "id" => assert!(ids.insert(value.clone()), "the id {value} is there twice"),
                "href" => links.push(value),
                _ => {}
            }
        }
        if name == "style" {
            rest = rest.split_once("</style>").expect("a style sheet ends").1;
        } else if !tag.ends_with('/') && !VOID.contains(&name) {
            open.push(name.to_owned());
        }
    }
    assert!(open.is_empty(), "never closed: {open:?}");
    for link in links {
        let known = link.strip_prefix('#').is_some_and(|id| ids.contains(id));
        assert!(known || link.starts_with("./"), "a link to {link}");
    }
    assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("url("), "a page loads nothing");
}

/// Names and values of attributes, all in double quotes or without a value.
fn attributes(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = text.trim_end_matches('/').trim();
    while !rest.is_empty() {
        let end = rest.find([' ', '=']).unwrap_or(rest.len());
        let name = rest[..end].to_owned();
        rest = &rest[end..];
        let value = match rest.strip_prefix("=\"") {
            Some(inner) => {
                let (value, after) = inner.split_once('"').expect("a quote ends");
                rest = after;
                value.to_owned()
            }
            None => String::new(),
        };
        assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == ':'), "attribute {name} in {text}");
        found.push((name, value));
        rest = rest.trim_start();
    }
    found
}

#[test]
fn the_check_finds_faults() {
    let faulty = [
        "<p>",
        "<p></div>",
        "<script></script>",
        "<p onclick=\"x\"></p>",
        "<a href=\"#x\"></a>",
        "<p id=\"a\"></p><p id=\"a\"></p>",
    ];
    for page in faulty {
        assert!(std::panic::catch_unwind(|| check(page)).is_err(), "{page}");
    }
    check("<!doctype html><p id=\"a\">1 &lt; 2<a href=\"#a\">x</a></p>");
}
