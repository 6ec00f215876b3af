//! The normal form in which texts and terms are compared.
//!
//! Responsible for: composed Unicode (NFC), one space for each run of white space, no soft hyphens, lower case if case
//! is ignored; and mapping offsets back to the original text.
//! Must not depend on: terms.

use unicode_normalization_alignments::{IsNormalized, UnicodeNormalization, is_nfc_quick};

use crate::matcher::Case;

/// A text in normal form.
#[derive(Debug)]
pub(crate) struct Normal {
    pub(crate) text: String,
    /// Offset pairs (normal, original) at which a run starts. Within a run, both offsets grow equally.
    stretches: Vec<(usize, usize)>,
}

impl Normal {
    pub(crate) fn new(original: &str, case: Case) -> Self {
        let mut normal = Self { text: String::with_capacity(original.len()), stretches: Vec::new() };
        if is_nfc_quick(original.chars()) == IsNormalized::Yes {
            original.char_indices().for_each(|(at, c)| normal.push(c, at, case));
        } else {
            let mut starts = original.char_indices().map(|(at, _)| at).peekable();
            // `change`: how many characters were added (positive) or removed (negative) at this character.
            for (c, change) in original.chars().nfc() {
                let at = starts.peek().copied().unwrap_or(original.len());
                for _ in change..1 {
                    starts.next();
                }
                normal.push(c, at, case);
            }
        }
        normal.anchor(original.len());
        normal
    }

    /// Appends a character with the offset `at` in the original.
    fn push(&mut self, c: char, at: usize, case: Case) {
        const SOFT_HYPHEN: char = '\u{ad}';
        if c == SOFT_HYPHEN || c.is_whitespace() && self.text.ends_with(' ') {
            return;
        }
        self.anchor(at);
        match case {
            _ if c.is_whitespace() => self.text.push(' '),
            Case::Any => self.text.extend(c.to_lowercase()),
            Case::Written => self.text.push(c),
        }
    }

    /// Starts a new run if the next character's original offset doesn't continue the last run.
    fn anchor(&mut self, at: usize) {
        let here = self.text.len();
        if self.stretches.last().is_none_or(|(start, original)| original + (here - start) != at) {
            self.stretches.push((here, at));
        }
    }

    /// Maps an offset in [`Self::text`] to the original. The offset must be the start of a character or the end of the
    /// text.
    pub(crate) fn original(&self, at: usize) -> usize {
        let index = self.stretches.partition_point(|(start, _)| *start <= at);
        self.stretches[..index].last().map_or(0, |(start, original)| original + (at - start))
    }
}

/// The normal form of a term, without surrounding white space. It is equal for all Unicode forms of the same term.
pub fn normalized(term: &str, case: Case) -> String {
    Normal::new(term.trim(), case).text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Case, Normal, normalized};

    #[test]
    fn offsets_map_back_to_the_original() {
        let text = "Die Ga\u{308}ste\u{a0}\n zah\u{ad}len, e\u{301}\u{323}!";
        let normal = Normal::new(text, Case::Written);
        assert_eq!(normal.text, "Die Gäste zahlen, ẹ́!");
        let back = |part: &str| {
            let at = normal.text.find(part).expect("it is there");
            &text[normal.original(at)..normal.original(at + part.len())]
        };
        assert_eq!((back("Gäste"), back("zahlen"), back("!")), ("Ga\u{308}ste", "zah\u{ad}len", "!"));
        assert_eq!(back("Gäste zahlen"), "Ga\u{308}ste\u{a0}\n zah\u{ad}len");
        assert_eq!(normalized(" Ö\tl ", Case::Any), "ö l");
    }

    proptest! {
        #[test]
        fn offsets_ascend_and_are_character_boundaries(text in "\\PC{0,40}|[a-zäÄ\u{308}\u{301}\u{ad} \n\u{1100}\u{1161}\u{11a8}İ]{0,40}") {
            for case in [Case::Any, Case::Written] {
                let normal = Normal::new(&text, case);
                let mut last = 0;
                for at in normal.text.char_indices().map(|(at, _)| at).chain([normal.text.len()]) {
                    // `İ` becomes two characters in lower case. Only the first one maps to a character boundary.
                    let original = normal.original(at);
                    if text.is_char_boundary(original) && original <= text.len() {
                        prop_assert!(last <= original, "{text:?} at {at}");
                        last = original;
                    } else {
                        prop_assert!(case == Case::Any, "{text:?} at {at}");
                    }
                }
                prop_assert_eq!(normal.original(normal.text.len()), text.len());
            }
        }
    }
}
