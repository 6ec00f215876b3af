//! chrF2: F-score of character n-grams up to n = 6, with recall weighted twice.
//!
//! Responsible for: the score of one answer against one reference, 0 to 100. Must not depend on: words.
//!
//! Source: Popović 2015, <https://aclanthology.org/W15-3049>, in the definition of sacrebleu 2.6.0 (`sentence_chrf`): white
//! space is removed, orders without n-grams on either side are left out. `tests/reference/make_measures.py` stores its
//! results.

use std::collections::HashMap;

const ORDER: usize = 6;
/// β² = 2².
const FACTOR: f64 = 4.0;

/// chrF2 of an answer, 0 to 100.
pub fn chrf(answer: &str, reference: &str) -> f64 {
    let letters = |text: &str| -> Vec<char> { text.chars().filter(|c| !is_space(*c)).collect() };
    let (answer, reference) = (letters(answer), letters(reference));
    let (mut precision, mut recall, mut orders) = (0.0, 0.0, 0.0);
    for n in 1..=ORDER.min(answer.len()).min(reference.len()) {
        let (found, expected) = (counts(&answer, n), counts(&reference, n));
        let matches = found.iter().map(|(gram, count)| (*count).min(expected.get(gram).copied().unwrap_or_default()));
        let matches = matches.sum::<usize>() as f64;
        precision += matches / (answer.len() + 1 - n) as f64;
        recall += matches / (reference.len() + 1 - n) as f64;
        orders += 1.0;
    }
    if precision + recall == 0.0 {
        return 0.0;
    }
    let (precision, recall) = (precision / orders, recall / orders);
    100.0 * (1.0 + FACTOR) * precision * recall / (FACTOR * precision + recall)
}

fn counts(letters: &[char], n: usize) -> HashMap<&[char], usize> {
    let mut counts = HashMap::new();
    letters.windows(n).for_each(|gram| *counts.entry(gram).or_default() += 1);
    counts
}

/// White space as Python's `str.split` has it, which includes four control characters.
pub(crate) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bleu::bleu;

    #[test]
    fn scores_are_those_of_sacrebleu() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/measures/sacrebleu.json");
        let text = std::fs::read_to_string(path).expect("the fixture");
        let stored: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let rows = stored["rows"].as_array().expect("rows");
        assert!(rows.len() > 200);
        for row in rows {
            let text = |key: &str| row[key].as_str().expect("a text");
            let (answer, reference) = (text("answer"), text("reference"));
            for (name, found) in [("chrf", chrf(answer, reference)), ("bleu", bleu(answer, reference))] {
                let expected = row[name].as_f64().expect("a number");
                assert!(
                    (found - expected).abs() < 1e-9,
                    "{name} of {answer:?}, {reference:?}: {found}, not {expected}"
                );
            }
        }
    }
}
