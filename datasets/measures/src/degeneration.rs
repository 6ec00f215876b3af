//! Degenerate answers: loops, repeated n-grams, empty answers, answers without an end.
//!
//! Responsible for: faults of generation that have nothing to do with content. Must not depend on: languages.

use std::collections::HashSet;

use crate::Part;
use crate::sentences::words;

/// A loop repeats the same words at least this often in a row …
const REPETITIONS: usize = 3;
/// … and covers at least this many words.
const COVERED: usize = 9;
/// Words of the longest repeated passage.
const PERIOD: usize = 60;
/// Words of a repeated n-gram.
const GRAM: usize = 4;

/// Whether an answer has a loop: a passage of up to 60 words, three times or more in a row, nine words or more in all.
pub fn loop_part(text: &str) -> Part {
    let words: Vec<String> = words(text).map(str::to_lowercase).collect();
    let has_loop = (1..=PERIOD.min(words.len() / REPETITIONS)).any(|period| {
        let needed = (REPETITIONS * period).max(COVERED) - period;
        let mut run = 0;
        words.iter().zip(&words[period..]).any(|(first, second)| {
            run = if first == second { run + 1 } else { 0 };
            run >= needed
        })
    });
    Part::is(has_loop)
}

/// Repeated 4-grams of words: 1 − distinct / all (seq-rep-4 of Welleck et al. 2019, <https://arxiv.org/abs/1908.04319>).
pub fn repetition_part(text: &str) -> Part {
    let words: Vec<String> = words(text).map(str::to_lowercase).collect();
    let grams = words.windows(GRAM);
    let total = grams.len();
    let distinct = grams.collect::<HashSet<_>>().len();
    Part::of(total - distinct, total)
}

/// Whether an answer has no text.
pub fn empty_part(text: &str) -> Part {
    Part::is(text.trim().is_empty())
}

/// Whether an answer did not end by itself before the longest allowed length.
pub fn endless_part(ended: bool) -> Part {
    Part::is(!ended)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_are_found() {
        let text = "Well. ".to_owned() + &"I am sorry, ".repeat(3);
        assert_eq!(loop_part(&text), Part::is(true));
        assert_eq!(loop_part(&"no ".repeat(9)), Part::is(true));
        let long: Vec<String> = (0..40).map(|word| format!("w{word}")).collect();
        assert_eq!(loop_part(&format!("{0} {0} {0}", long.join(" "))), Part::is(true));
        for text in
            ["", "very very very nice", "I am sorry, I am sorry, and I am sorry.", &format!("{0} {0}", long.join(" "))]
        {
            assert_eq!(loop_part(text), Part::is(false), "{text}");
        }
    }

    #[test]
    fn repeated_n_grams_are_counted() {
        assert_eq!(repetition_part("a b c d e"), Part::of(0, 2));
        // a b c d, b c d a, c d a b, d a b c, a b c d
        assert_eq!(repetition_part("A b c d, a b c d."), Part::of(1, 5));
        assert_eq!(repetition_part("a b c"), Part::NONE);
    }

    #[test]
    fn empty_and_endless_answers() {
        assert_eq!((empty_part(" \n"), empty_part(".")), (Part::is(true), Part::is(false)));
        assert_eq!((endless_part(false), endless_part(true)), (Part::is(true), Part::is(false)));
    }
}
