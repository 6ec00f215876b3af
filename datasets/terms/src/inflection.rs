//! Inflected forms of a term, for German and English.
//!
//! Responsible for: the endings of a term in a language, and the corresponding endings of another term.
//! Must not depend on: texts.
//!
//! Covers regular endings and umlaut plurals. Gender and articles are not changed.

use crate::language::primary;

/// The forms of `term`, each with the name of its ending. The base form is first.
pub(crate) fn forms(term: &str, language: &str) -> Vec<(&'static str, String)> {
    const GERMAN: [&str; 8] = ["", "s", "es", "e", "en", "n", "er", "ern"];
    const UMLAUT: [(&str, &str); 6] =
        [("¨", ""), ("¨e", "e"), ("¨en", "en"), ("¨n", "n"), ("¨er", "er"), ("¨ern", "ern")];
    let with = |ending: &str| format!("{term}{ending}");
    match primary(language).as_str() {
        "de" => {
            // `Kunde` + `en` is `Kunden`.
            let joined = |ending: &'static str| match (term.ends_with('e'), ending.strip_prefix('e')) {
                (true, Some(rest)) => with(rest),
                _ => with(ending),
            };
            let mut forms: Vec<(&str, String)> = GERMAN.iter().map(|ending| (*ending, joined(ending))).collect();
            forms.dedup_by(|second, first| second.1 == first.1);
            if let Some(stem) = umlaut(term) {
                forms.extend(UMLAUT.iter().map(|(name, ending)| (*name, format!("{stem}{ending}"))));
            }
            forms
        }
        "en" => {
            let plural = match term.strip_suffix('y') {
                Some(stem) if !stem.ends_with(['a', 'e', 'i', 'o', 'u']) => format!("{stem}ies"),
                _ if ["s", "x", "z", "ch", "sh"].iter().any(|hiss| term.ends_with(hiss)) => with("es"),
                _ => with("s"),
            };
            let possessive = format!("{plural}'");
            vec![("", term.to_owned()), ("s", plural), ("'s", with("'s")), ("s'", possessive)]
        }
        _ => vec![("", term.to_owned())],
    }
}

/// The stem of an umlaut plural: `Gäst` for `Gast`, `Äpfel` for `Apfel`. `None` if the last vowel has no umlaut.
fn umlaut(term: &str) -> Option<String> {
    let stem = ["el", "er", "en"].iter().find_map(|ending| term.strip_suffix(ending)).unwrap_or(term);
    let (at, vowel) = stem.char_indices().rev().find(|(_, c)| "aeiouyäöüAEIOUÄÖÜ".contains(*c))?;
    // In `Haus`, the first vowel of the diphthong has the umlaut.
    let (at, vowel) = match stem[..at].chars().next_back() {
        Some(first @ ('a' | 'A')) if vowel == 'u' => (at - 1, first),
        _ => (at, vowel),
    };
    let changed = "aouAOU".chars().zip("äöüÄÖÜ".chars()).find(|(plain, _)| *plain == vowel)?.1;
    Some(format!("{}{changed}{}", &term[..at], &term[at + 1..]))
}

/// The ending of the term `other` that corresponds to `ending`.
pub(crate) fn alike(ending: &'static str, other: &str) -> &'static str {
    // It is unknown whether the other term has an umlaut. The plural of a term that ends with -e ends with -en.
    match (ending, ending.trim_start_matches('¨')) {
        ("¨", _) | (_, "e" | "er" | "ern") if other.ends_with('e') => "en",
        (_, plain) => plain,
    }
}

/// `text` with a capital first letter.
pub(crate) fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}
