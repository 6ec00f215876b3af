//! Words and sentences of a text.
//!
//! Responsible for: where sentences end, in German and English. Must not depend on: measures.

use unicode_segmentation::UnicodeSegmentation;

use crate::Part;

/// Abbreviations with a full stop that ends no sentence, in lower case, without their last full stop.
const ABBREVIATIONS: [&str; 46] = [
    "z.b", "d.h", "u.a", "o.ä", "i.d.r", "u.u", "s.o", "s.u", "z.t", "z.zt", "v.a", "bzw", "ca", "evtl", "ggf", "inkl",
    "exkl", "nr", "str", "tel", "vgl", "zzgl", "bspw", "abs", "art", "dr", "prof", "hr", "fr", "st", "mr", "mrs", "ms",
    "e.g", "i.e", "no", "vs", "approx", "incl", "dept", "inc", "ltd", "co", "z", "d", "u",
];

/// The words of a text, as Unicode defines them (UAX #29). Punctuation is no word.
pub fn words(text: &str) -> impl Iterator<Item = &str> {
    text.unicode_words()
}

/// The sentences of a text that have words. A sentence ends at `.`, `!`, `?`, `…` before white space, and at the end of a
/// line. `3. Mai`, `z. B.` and `Dr. Weber` are inside a sentence. So is a full stop before a lower-case letter.
pub fn sentences(text: &str) -> Vec<&str> {
    text.lines().flat_map(of_line).filter(|sentence| words(sentence).next().is_some()).collect()
}

fn of_line(line: &str) -> Vec<&str> {
    let (mut sentences, mut start) = (Vec::new(), 0);
    for (at, c) in line.char_indices().filter(|(_, c)| ".!?…".contains(*c)) {
        let after = &line[at + c.len_utf8()..];
        let closed =
            after.trim_start_matches(['"', '\'', '“', '”', '’', '»', '«', ')', ']', '*', '_', '.', '!', '?', '…']);
        let next = closed.trim_start();
        let is_inside = !closed.is_empty() && closed.len() == next.len()
            || next.starts_with(char::is_lowercase)
            || c == '.' && is_abbreviation(&line[start..at]);
        if !is_inside {
            let end = line.len() - closed.len();
            // A second mark of `?!` ends the same sentence.
            if end > start {
                sentences.push(line[start..end].trim());
                start = end;
            }
        }
    }
    sentences.push(line[start..].trim());
    sentences
}

/// Whether a text before a full stop ends with an abbreviation, an ordinal number of one or two digits, or an initial.
fn is_abbreviation(before: &str) -> bool {
    let word = before.rsplit(|c: char| c.is_whitespace() || "([\"„“".contains(c)).next().unwrap_or_default();
    let is_ordinal = (1..=2).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_digit());
    let mut chars = word.chars();
    let is_initial =
        matches!((chars.next(), chars.next()), (Some(first), None) if first.is_uppercase() && first != 'I');
    is_ordinal || is_initial || ABBREVIATIONS.contains(&word.to_lowercase().as_str())
}

/// Mean words per sentence.
pub fn length_part(text: &str) -> Part {
    let sentences = sentences(text);
    Part::of(sentences.iter().map(|sentence| words(sentence).count()).sum(), sentences.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_end_at_marks_and_lines() {
        assert_eq!(sentences("Hello. How are you?! Fine…  Good"), ["Hello.", "How are you?!", "Fine…", "Good"]);
        assert_eq!(
            sentences("A title\n- one point\n- another one.\n\n***\n"),
            ["A title", "- one point", "- another one."]
        );
        assert_eq!(sentences("Er sagte: „Komm!“ Dann ging er."), ["Er sagte: „Komm!“", "Dann ging er."]);
        assert_eq!(sentences("  \n"), [""; 0]);
    }

    #[test]
    fn abbreviations_ordinals_and_numbers_end_no_sentence() {
        for text in [
            "Dr. Weber kommt am 3. Mai, z. B. um 8.30 Uhr.",
            "Wir liefern ggf. Teile (d.h. Stoff usw.) nach.",
            "It costs 3.50, e.g. at www.shop.com today.",
            "J. R. Smith agreed.",
            "Wir liefern z.B. Teile nach.",
        ] {
            assert_eq!(sentences(text), [text]);
        }
    }

    #[test]
    fn the_length_is_words_by_sentences() {
        assert_eq!(length_part("One two three. Four!"), Part::of(4, 2));
        assert_eq!(length_part("?!"), Part::NONE);
    }
}
