//! The language of a text, German or English.
//!
//! Responsible for: telling German from English by their most frequent words. Must not depend on: terms.

use std::cmp::Ordering;

use crate::matcher::Case;
use crate::normal::normalized;

/// Frequent words that the other language does not have. `die`, `in`, `war`, `was`, `so`, `an`, `am`, `man` are words of
/// both.
const GERMAN: &[&str] = &[
    "der", "das", "und", "ist", "nicht", "ich", "sie", "wir", "ihr", "ihre", "ihren", "ihnen", "es", "den", "dem",
    "des", "ein", "eine", "einen", "einem", "einer", "mit", "für", "auf", "von", "zu", "zum", "zur", "im", "auch",
    "aber", "oder", "wie", "wo", "wann", "warum", "kann", "können", "wird", "werden", "haben", "sind", "bei", "nach",
    "über", "uns", "unser", "unsere", "mein", "meine", "mir", "mich", "du", "dein", "deine", "dir", "dich", "bitte",
    "danke", "kein", "keine", "noch", "schon", "nur", "wenn", "dass", "sich", "als", "aus", "vor",
];
const ENGLISH: &[&str] = &[
    "the", "and", "is", "are", "not", "i", "you", "your", "we", "our", "us", "it", "its", "of", "to", "for", "with",
    "on", "at", "by", "from", "as", "this", "that", "these", "what", "where", "when", "why", "how", "who", "can",
    "could", "will", "would", "should", "have", "has", "had", "be", "been", "do", "does", "did", "my", "me", "he",
    "she", "they", "their", "please", "thank", "thanks", "no", "yes", "or", "but", "if", "about", "which", "there",
    "a", "write",
];

/// `de` or `en`: the language with more frequent words in `text`. Umlauts and `ß` count for German. `None` without a
/// majority.
pub fn of_text(text: &str) -> Option<&'static str> {
    let (mut german, mut english) = (0, 0);
    for word in text.split(|c: char| !c.is_alphabetic() && c != '\u{308}').filter(|word| !word.is_empty()) {
        let word = normalized(word, Case::Any);
        german += usize::from(GERMAN.contains(&word.as_str()) || word.contains(['ä', 'ö', 'ü', 'ß']));
        english += usize::from(ENGLISH.contains(&word.as_str()));
    }
    match german.cmp(&english) {
        Ordering::Greater => Some("de"),
        Ordering::Less => Some("en"),
        Ordering::Equal => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_texts_have_a_language() {
        for text in [
            "Wo ist mein Paket?",
            "Vielen Dank für Ihre Nachricht.",
            "Die Lieferung kommt nicht.",
            "Grüße",
            "Gru\u{308}ße",
        ] {
            assert_eq!(of_text(text), Some("de"), "{text}");
        }
        for text in ["Where is my parcel?", "Thanks for writing.", "A whole week, and the hammock has not arrived."] {
            assert_eq!(of_text(text), Some("en"), "{text}");
        }
        for text in ["", "Hallo", "12345", "Ou est mon colis ?"] {
            assert_eq!(of_text(text), None, "{text}");
        }
    }

    #[test]
    fn no_word_is_in_both_lists() {
        assert!(GERMAN.iter().all(|word| !ENGLISH.contains(word)));
    }
}
