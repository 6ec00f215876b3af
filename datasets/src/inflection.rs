//! Forms of a term in running text, for German and English.
//!
//! Responsible for: finding a term under the endings that its language gives it, and putting another term in its place
//! under the same ending. Must not depend on: term bases.
//!
//! Regular endings and umlaut plurals; no change of gender or article. What comes out is the *wrong* sentence of a
//! correction task or a finding of the audit, never a text that a model learns to write.

/// The forms of `term`, each with the name of its ending; the bare one first.
pub(crate) fn forms(term: &str, language: &str) -> Vec<(&'static str, String)> {
    const GERMAN: [&str; 8] = ["", "s", "es", "e", "en", "n", "er", "ern"];
    const UMLAUT: [(&str, &str); 6] =
        [("¨", ""), ("¨e", "e"), ("¨en", "en"), ("¨n", "n"), ("¨er", "er"), ("¨ern", "ern")];
    let with = |ending: &str| format!("{term}{ending}");
    match super::formats::tasks::primary(language).as_str() {
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

/// The stem of an umlaut plural: `Gäst` of `Gast`, `Äpfel` of `Apfel`. None for words whose last vowel has no umlaut.
fn umlaut(term: &str) -> Option<String> {
    let stem = ["el", "er", "en"].iter().find_map(|ending| term.strip_suffix(ending)).unwrap_or(term);
    let (at, vowel) = stem.char_indices().rev().find(|(_, c)| "aeiouyäöüAEIOUÄÖÜ".contains(*c))?;
    // `Haus` has its umlaut on the first of two.
    let (at, vowel) = match stem[..at].chars().next_back() {
        Some(first @ ('a' | 'A')) if vowel == 'u' => (at - 1, first),
        _ => (at, vowel),
    };
    let changed = "aouAOU".chars().zip("äöüÄÖÜ".chars()).find(|(plain, _)| *plain == vowel)?.1;
    Some(format!("{}{changed}{}", &term[..at], &term[at + 1..]))
}

/// The name of the ending of another term that stands in the place of one with `ending`.
fn alike(ending: &'static str, other: &str) -> &'static str {
    // Whether the other has an umlaut as well isn't known; a plural of what ends with -e ends with -en.
    match (ending, ending.trim_start_matches('¨')) {
        ("¨", _) | (_, "e" | "er" | "ern") if other.ends_with('e') => "en",
        (_, plain) => plain,
    }
}

/// `text` with every `from` replaced by `to` under the same ending; `None` when it doesn't contain `from`.
pub(crate) fn substitute(text: &str, from: &str, to: &str, language: &str) -> Option<String> {
    let (mut found, replacements) = (forms(from, language), forms(to, language));
    found.sort_by_key(|(_, form)| std::cmp::Reverse(form.len()));
    let mut result = String::with_capacity(text.len());
    let (mut rest, mut any) = (text, false);
    let mut boundary = true;
    while let Some(first) = rest.chars().next() {
        let hit = found.iter().filter(|_| boundary).find_map(|(ending, form)| {
            let length = matches(rest, form)?;
            let ends = rest[length..].chars().next().is_none_or(|next| !is_word(next));
            let ending = alike(ending, to);
            let replacement = &replacements.iter().find(|(other, _)| *other == ending).unwrap_or(&replacements[0]).1;
            ends.then_some((length, replacement))
        });
        if let Some((length, replacement)) = hit {
            result.push_str(&match first.is_uppercase() {
                true => capitalized(replacement),
                false => replacement.clone(),
            });
            (rest, any, boundary) = (&rest[length..], true, false);
        } else {
            result.push(first);
            (rest, boundary) = (&rest[first.len_utf8()..], !is_word(first));
        }
    }
    any.then_some(result)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The length of `form` at the beginning of `text`, whose first letter may be a capital.
fn matches(text: &str, form: &str) -> Option<usize> {
    let (mut ours, mut theirs) = (text.chars(), form.chars());
    let (first, wanted) = (ours.next()?, theirs.next()?);
    let same = first == wanted || first.to_lowercase().eq(wanted.to_lowercase()) && wanted.is_lowercase();
    (same && ours.as_str().starts_with(theirs.as_str())).then(|| first.len_utf8() + theirs.as_str().len())
}

fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use super::substitute;

    #[test]
    fn a_term_keeps_its_ending() {
        let de = |text, from, to| substitute(text, from, to, "de-DE");
        assert_eq!(de("Die Gäste kommen.", "Gast", "Kunde").as_deref(), Some("Die Kunden kommen."));
        assert_eq!(de("Mit Gästen in Häusern", "Gast", "Kunde").as_deref(), Some("Mit Kunden in Häusern"));
        assert_eq!(de("Mit Gästen in Häusern", "Haus", "Bau").as_deref(), Some("Mit Gästen in Bauern"));
        assert_eq!(de("Die Läden, im Laden", "Laden", "Shop").as_deref(), Some("Die Shop, im Shop"));
        assert_eq!(de("Verträge und Äpfel", "Apfel", "Birne").as_deref(), Some("Verträge und Birnen"));
        assert_eq!(de("Wir fragen den Kunden.", "Kunde", "Mandant").as_deref(), Some("Wir fragen den Mandanten."));
        assert_eq!(de("des Beleges, der Beleg", "Beleg", "Bon").as_deref(), Some("des Bones, der Bon"));
        assert_eq!(de("Belegschaft", "Beleg", "Bon"), None);
        let en = |text, from, to| substitute(text, from, to, "en");
        assert_eq!(en("Our guests' parties.", "guest", "customer").as_deref(), Some("Our customers' parties."));
        assert_eq!(en("Deliveries are late.", "delivery", "handover").as_deref(), Some("Handovers are late."));
        assert_eq!(en("A guest's box", "guest", "key account").as_deref(), Some("A key account's box"));
        assert_eq!(en("Guesthouse", "guest", "customer"), None);
    }

    #[test]
    fn words_are_found_whole() {
        let uses = |text, term, language| substitute(text, term, "", language).is_some();
        assert!(uses("Der Kunde zahlt.", "Kunde", "de") && !uses("Der Kundendienst", "Kunde", "de"));
        assert!(uses("ÜBER Öl: Öle", "Öl", "de") && !uses("", "a", "en"));
        // A noun is no verb: a capital of the term is one in the text.
        assert!(!uses("wir beleg", "Beleg", "de"));
    }
}
