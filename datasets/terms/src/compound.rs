//! German compounds: whether a term inside a longer word is a part of a compound.
//!
//! Responsible for: the parts of a word around a term. Must not depend on: texts, terms.
//!
//! There is no lexicon. A term of at least four letters counts as a part if each rest of the word can be a word of its
//! own: three letters or more with a vowel, no prefix (`Vorfall` is no kind of `Fall`), no suffix (`Kundschaft` has no
//! second noun). A linking element, as in `Kundendienst` and `Gästehaus`, is an inflected form of the term. So
//! `Gastronomie` counts as a compound with `Gast`, and `Schulbuch` not as one with `Schule`.

use std::ops::Range;

/// Letters of the shortest term that is looked for in compounds.
const TERM: usize = 4;
/// Letters of the shortest other part.
const REST: usize = 3;

/// Prefixes that make a new word of a noun or verb, and are no nouns.
const PREFIXES: [&str; 34] = [
    "vor", "bei", "auf", "aus", "ein", "ent", "ver", "zer", "miss", "über", "unter", "nach", "mit", "her", "hin",
    "durch", "gegen", "wider", "wieder", "zurück", "zusammen", "dar", "fort", "los", "weg", "ab", "an", "be", "er",
    "ge", "um", "un", "ur", "zu",
];

/// Suffixes that make a word of another one.
const SUFFIXES: [&str; 22] = [
    "schaft", "heit", "keit", "lich", "ung", "chen", "lein", "isch", "tum", "los", "bar", "haft", "sam", "ismus",
    "ieren", "iert", "innen", "weise", "mäßig", "artig", "wärts", "fach",
];

/// Whether a term can be a part of compounds: a German noun of one word.
pub(crate) fn can_be_part(term: &str) -> bool {
    let is_word = term.chars().all(char::is_alphabetic);
    is_word && term.chars().count() >= TERM && term.starts_with(char::is_uppercase)
}

/// Whether `part` of `word`, which is in lower case, can be a part of a compound.
pub(crate) fn is_part(word: &str, part: Range<usize>) -> bool {
    let (before, after) = (&word[..part.start], &word[part.end..]);
    let starts = before.is_empty() || stands_alone(before) && !PREFIXES.contains(&before);
    let ends = after.is_empty() || stands_alone(after) && !is_suffix(after);
    starts && ends
}

fn stands_alone(rest: &str) -> bool {
    rest.chars().count() >= REST && rest.chars().all(char::is_alphabetic) && rest.contains(is_vowel)
}

/// A suffix, also with an ending: `schaften`, `licher`.
fn is_suffix(rest: &str) -> bool {
    let endings = ["", "e", "en", "er", "es", "em", "n", "s"];
    SUFFIXES.iter().filter_map(|suffix| rest.strip_prefix(suffix)).any(|ending| endings.contains(&ending))
}

fn is_vowel(c: char) -> bool {
    "aeiouyäöü".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_compounds_are_told_from_prefixes_and_suffixes() {
        let is_part = |word: &str, term: &str| {
            let at = word.find(term).expect("the term is in the word");
            is_part(word, at..at + term.len())
        };
        for (word, term) in [
            ("mietvertrag", "vertrag"),
            ("vertragspartner", "vertrags"),
            ("neukundengeschäft", "kunden"),
            ("gästehaus", "gäste"),
        ] {
            assert!(is_part(word, term), "{term} in {word}");
        }
        for (word, term) in [
            ("sekunde", "kunde"),
            ("vorfall", "fall"),
            ("freundschaften", "freund"),
            ("vertraglicher", "vertrag"),
            ("gasts", "gast"),
        ] {
            assert!(!is_part(word, term), "{term} in {word}");
        }
    }

    #[test]
    fn only_nouns_of_one_word_are_looked_for() {
        assert!(can_be_part("Vertrag") && can_be_part("Gäste"));
        assert!(!can_be_part("Ei") && !can_be_part("liefern") && !can_be_part("Key Account"));
    }
}
