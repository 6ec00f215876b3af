//! The language of a text, German or English.
//!
//! Responsible for: telling German from English, also in texts of two words. Must not depend on: terms.

use whatlang::{Detector, Info, Lang};

/// Below this confidence, the language is not clear: `OK`, `Kind regards`.
const LEAST: f64 = 0.1;

/// `de` or `en`. `None` if it is not clear, or if the text is reliably in a third language.
pub fn of_text(text: &str) -> Option<&'static str> {
    let code = |info: Info| match info.lang() {
        Lang::Deu => Some("de"),
        Lang::Eng => Some("en"),
        _ => None,
    };
    let any = whatlang::detect(text)?;
    if any.is_reliable() {
        return code(any);
    }
    Detector::with_allowlist(vec![Lang::Deu, Lang::Eng])
        .detect(text)
        .filter(|info| info.confidence() >= LEAST)
        .and_then(code)
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
            "Lieferung morgen",
            "Liebe Gäste",
        ] {
            assert_eq!(of_text(text), Some("de"), "{text}");
        }
        for text in ["Where is my parcel?", "Thanks for writing.", "Delivery tomorrow"] {
            assert_eq!(of_text(text), Some("en"), "{text}");
        }
    }

    #[test]
    fn unclear_texts_and_third_languages_have_none() {
        let french =
            "Bonjour, je voudrais savoir où se trouve mon colis, parce que je l'attends depuis une semaine déjà.";
        for text in ["", "12345", "OK", french] {
            assert_eq!(of_text(text), None, "{text}");
        }
    }
}
