//! Address in German: `Sie` or `du`.
//!
//! Responsible for: which forms of address an answer uses, and whether they agree. Must not depend on: other languages.
//!
//! `Sie`, `Ihnen` and `Ihr` with a capital letter are formal only inside a sentence: at its start they can mean "she" or
//! "they". `ihr` is informal or a possessive, and not counted.

use crate::Part;
use crate::sentences::{sentences, words};

const INFORMAL: [&str; 16] = [
    "du", "dich", "dir", "dein", "deine", "deinem", "deinen", "deiner", "deines", "euch", "euer", "eure", "eurem",
    "euren", "eurer", "eures",
];
const FORMAL: [&str; 8] = ["Sie", "Ihnen", "Ihr", "Ihre", "Ihrem", "Ihren", "Ihrer", "Ihres"];

/// The form of address that answers must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// Either of both, but only one in an answer.
    Consistent,
    Sie,
    Du,
}

/// The forms of address in a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forms {
    pub formal: usize,
    pub informal: usize,
}

impl Forms {
    /// Counts the forms in a German text.
    pub fn of(text: &str) -> Self {
        let mut forms = Self::default();
        for sentence in sentences(text) {
            for (index, word) in words(sentence).enumerate() {
                forms.informal += usize::from(INFORMAL.contains(&word.to_lowercase().as_str()));
                forms.formal += usize::from(index > 0 && FORMAL.contains(&word));
            }
        }
        forms
    }
}

/// Whether a German answer has only the wanted form of address; does not apply to an answer without any.
pub fn address_part(text: &str, wanted: Address) -> Part {
    let Forms { formal, informal } = Forms::of(text);
    if formal + informal == 0 {
        return Part::NONE;
    }
    Part::is(match wanted {
        Address::Consistent => formal == 0 || informal == 0,
        Address::Sie => informal == 0,
        Address::Du => formal == 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_counted() {
        let forms = |text| {
            let Forms { formal, informal } = Forms::of(text);
            (formal, informal)
        };
        assert_eq!(forms("Können Sie mir Ihre Nummer geben? Wir helfen Ihnen."), (3, 0));
        assert_eq!(forms("Du kannst dich melden, wenn dein Paket da ist."), (0, 3));
        assert_eq!(forms("Sie kommt morgen. Ihr Mann auch, und sie freuen sich."), (0, 0));
    }

    #[test]
    fn an_answer_keeps_to_one_form() {
        let part = |text, wanted| address_part(text, wanted);
        let (formal, mixed) = ("Bitte senden Sie es.", "Bitte senden Sie dein Paket.");
        assert_eq!(part(formal, Address::Consistent), Part::is(true));
        assert_eq!((part(formal, Address::Sie), part(formal, Address::Du)), (Part::is(true), Part::is(false)));
        assert_eq!(part(mixed, Address::Consistent), Part::is(false));
        assert_eq!(part("Es regnet.", Address::Sie), Part::NONE);
    }
}
