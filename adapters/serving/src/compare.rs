//! Compares generations with expected ones. Pure functions.
//!
//! Responsible for: the first difference of two generations, and a summary over prompts.
//! Must not depend on: servers.

use std::fmt;

use serde::Serialize;

use crate::Completion;

/// What a position counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    Token,
    Char,
}

/// The first position at which two generations differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    pub unit: Unit,
    /// Tokens or characters before the difference.
    pub at: usize,
    /// The beginning of the rest of either side: up to 8 token ids or 40 characters. Empty if that side ends there.
    pub expected: String,
    pub found: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.unit {
            Unit::Token => "token",
            Unit::Char => "character",
        };
        let side = |side: &str| if side.is_empty() { "the end".to_owned() } else { format!("{side:?}") };
        write!(f, "{unit} {}: expected {}, found {}", self.at, side(&self.expected), side(&self.found))
    }
}

/// What a server should generate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Expected {
    pub tokens: Vec<u32>,
    /// The tokens as text, without special tokens.
    pub text: String,
}

/// Compares a generation: token ids if the server returned them, otherwise the text. One end token at the end of either
/// side is ignored, because servers differ in whether they return it.
#[must_use]
pub fn completion(expected: &Expected, found: &Completion, end_tokens: &[u32]) -> Option<Difference> {
    match &found.tokens {
        Some(found) => tokens(without_end(&expected.tokens, end_tokens), without_end(found, end_tokens)),
        None => text(&expected.text, &found.text),
    }
}

/// The first difference of two lists of token ids. `None` if they are equal.
#[must_use]
pub fn tokens(expected: &[u32], found: &[u32]) -> Option<Difference> {
    const SHOWN: usize = 8;
    let at = first_difference(expected.iter(), found.iter())?;
    let rest = |side: &[u32]| {
        let ids: Vec<String> = side[at..].iter().take(SHOWN).map(u32::to_string).collect();
        ids.join(" ")
    };
    Some(Difference { unit: Unit::Token, at, expected: rest(expected), found: rest(found) })
}

/// The first difference of two texts. `None` if they are equal.
#[must_use]
pub fn text(expected: &str, found: &str) -> Option<Difference> {
    const SHOWN: usize = 40;
    let at = first_difference(expected.chars(), found.chars())?;
    let rest = |side: &str| side.chars().skip(at).take(SHOWN).collect();
    Some(Difference { unit: Unit::Char, at, expected: rest(expected), found: rest(found) })
}

/// The tokens without one end token at the end.
#[must_use]
pub fn without_end<'a>(tokens: &'a [u32], end_tokens: &[u32]) -> &'a [u32] {
    match tokens.split_last() {
        Some((last, rest)) if end_tokens.contains(last) => rest,
        _ => tokens,
    }
}

fn first_difference<T: PartialEq>(a: impl Iterator<Item = T>, b: impl Iterator<Item = T>) -> Option<usize> {
    let (mut a, mut b) = (a, b);
    let mut at = 0;
    loop {
        match (a.next(), b.next()) {
            (None, None) => return None,
            (Some(x), Some(y)) if x == y => at += 1,
            _ => return Some(at),
        }
    }
}

/// The result over several prompts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Prompts with equal generations.
    pub equal: usize,
    pub total: usize,
    /// Number of the first prompt with a difference, counted from 0, and the difference.
    pub first: Option<(usize, Difference)>,
}

impl Summary {
    /// `outcomes`: one for each prompt, in order.
    pub fn of(outcomes: impl IntoIterator<Item = Option<Difference>>) -> Self {
        let mut summary = Self { equal: 0, total: 0, first: None };
        for (prompt, outcome) in outcomes.into_iter().enumerate() {
            summary.total += 1;
            match outcome {
                None => summary.equal += 1,
                Some(difference) => _ = summary.first.get_or_insert((prompt, difference)),
            }
        }
        summary
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} generations are equal", self.equal, self.total)?;
        match &self.first {
            None => Ok(()),
            Some((prompt, difference)) => write!(f, "; the first difference is in prompt {prompt} at {difference}"),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test panics on purpose")]
mod tests {
    use super::*;
    use crate::Finish;

    #[test]
    fn the_first_differing_token_is_named_with_both_sides() {
        assert_eq!(tokens(&[1, 2, 3], &[1, 2, 3]), None);
        let difference = tokens(&[1, 2, 3, 4], &[1, 2, 9]).unwrap();
        assert_eq!((difference.at, &*difference.expected, &*difference.found), (2, "3 4", "9"));
        let shorter = tokens(&[1, 2], &[1]).unwrap();
        assert_eq!(shorter.to_string(), "token 1: expected \"2\", found the end");
    }

    #[test]
    fn positions_in_texts_are_characters_not_bytes() {
        let difference = text("Grüße an", "Grüße am").unwrap();
        assert_eq!((difference.at, &*difference.expected, &*difference.found), (7, "n", "m"));
        assert_eq!(text("Grüße", "Grüße"), None);
    }

    #[test]
    fn ids_are_compared_where_the_server_returns_them_and_texts_elsewhere() {
        let expected = Expected { tokens: vec![5, 6, 2], text: "ab".to_owned() };
        let found = |tokens, text: &str| Completion { text: text.to_owned(), tokens, finish: Finish::Stop };
        assert_eq!(completion(&expected, &found(Some(vec![5, 6]), "other"), &[2]), None);
        assert_eq!(completion(&expected, &found(Some(vec![5, 7, 2]), "ab"), &[2]).unwrap().unit, Unit::Token);
        assert_eq!(completion(&expected, &found(None, "ab"), &[2]), None);
        assert_eq!(completion(&expected, &found(None, "ac"), &[2]).unwrap().unit, Unit::Char);
    }

    #[test]
    fn a_summary_counts_and_keeps_the_first_difference() {
        let summary = Summary::of([None, tokens(&[1], &[2]), tokens(&[3], &[4]), None]);
        assert_eq!((summary.equal, summary.total), (2, 4));
        assert_eq!(
            summary.to_string(),
            "2 of 4 generations are equal; the first difference is in prompt 1 at token 0: expected \"1\", found \"2\""
        );
        assert_eq!(Summary::of([None]).to_string(), "1 of 1 generations are equal");
    }
}
