//! The languages that measures know.
//!
//! Responsible for: the language of an answer. Must not depend on: measures.

use tonfall_terms::language::primary;
use tonfall_terms::text_language;

/// A language that measures know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    German,
    English,
}

impl Language {
    /// The language of a tag or a name: `de-CH`, `German`. `None` for another language.
    pub fn of_tag(tag: &str) -> Option<Self> {
        match primary(tag).as_str() {
            "de" => Some(Self::German),
            "en" => Some(Self::English),
            _ => None,
        }
    }

    /// The language of a text. `None` if it is not clear.
    pub fn of_text(text: &str) -> Option<Self> {
        text_language::of_text(text).and_then(Self::of_tag)
    }

    /// ISO 639-1.
    pub fn code(self) -> &'static str {
        match self {
            Self::German => "de",
            Self::English => "en",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_tags_have_languages() {
        assert_eq!((Language::of_tag("de-CH"), Language::of_tag("fr")), (Some(Language::German), None));
        assert_eq!(Language::of_text("Where is my parcel?").map(Language::code), Some("en"));
    }
}
