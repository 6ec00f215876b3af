//! Refusals: answers in which a model declines the request.
//!
//! Responsible for: phrases of refusals in German and English. Must not depend on: the request.
//!
//! A phrase counts only in the first 200 characters: later, "I cannot" is often part of an answer. A polite answer with such
//! a phrase counts as well, so the rate is a figure to compare, not a fact about one answer.

use std::sync::LazyLock;

use regex::Regex;

use crate::Part;

/// Characters at the start of an answer that are searched.
const START: usize = 200;

/// Phrases in lower case, with `'` for every apostrophe and one space between words.
const PHRASES: [&str; 11] = [
    r"i (?:cannot|can't|can not|am unable to|'m unable to|am not able to|won't) (?:help|assist|provide|fulfil|fulfill|comply|answer|do that)",
    r"i(?:'m| am) (?:unable|not able) to",
    r"(?:i'm|i am) (?:very |so |truly )?sorry,? but i (?:cannot|can't|can not|am unable|am not able)",
    r"i (?:must|have to) decline",
    r"i apologi[sz]e,? but i (?:cannot|can't|can not)",
    r"as an (?:ai|artificial intelligence)|as a (?:large )?language model",
    r"(?:dabei|damit|hierbei) kann ich (?:ihnen |dir |euch )?(?:leider )?nicht (?:helfen|dienen)",
    r"ich kann (?:ihnen|dir|euch) (?:dabei |damit |hierbei )?(?:leider )?nicht (?:weiter)?helfen",
    r"ich kann (?:leider )?(?:dabei|damit|hierbei|diese anfrage|diese frage) (?:leider )?nicht",
    r"ich bin (?:leider )?nicht in der lage",
    r"als (?:ki|künstliche intelligenz|sprachmodell|ki-modell)",
];

static REFUSAL: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(&format!(r"\b(?:{})\b", PHRASES.join("|"))).expect("a test uses the pattern"));

/// Whether an answer is a refusal.
pub fn refusal_part(text: &str) -> Part {
    let start: String = text.chars().take(START).collect();
    let start = start.to_lowercase().replace(['’', '‘', '´', '`'], "'");
    let start = start.split_whitespace().collect::<Vec<_>>().join(" ");
    Part::is(REFUSAL.is_match(&start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_found_in_both_languages() {
        for text in [
            "I’m sorry, but I can’t do that.",
            "I'm sorry, but I cannot share this.",
            "As an AI, I have no opinion.",
            "Leider: Ich bin nicht in der Lage, das zu tun.",
            "Dabei kann ich\nleider nicht helfen.",
            "Als KI habe ich keine Meinung.",
        ] {
            assert_eq!(refusal_part(text), Part::is(true), "{text}");
        }
    }

    #[test]
    fn answers_are_no_refusals() {
        let late = format!("{} I cannot help it.", "Your parcel is here. ".repeat(12));
        for text in [
            "I'm sorry, but I can offer you another one.",
            "As an aid, we send you a map.",
            "Als Kind war ich dort.",
            "Ich kann Ihnen helfen.",
            "",
            late.as_str(),
        ] {
            assert_eq!(refusal_part(text), Part::is(false), "{text}");
        }
    }
}
