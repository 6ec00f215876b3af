//! BLEU with 13a tokenization and exponential smoothing.
//!
//! Responsible for: the score of one answer against one reference, 0 to 100. Must not depend on: other measures.
//!
//! Source: Papineni et al. 2002, <https://aclanthology.org/P02-1040>, in the definition of sacrebleu 2.6.0
//! (`sentence_bleu`): orders above the length of the answer are left out. `tests/reference/make_measures.py` stores its
//! results.

use std::collections::HashMap;
use std::sync::LazyLock;

use regex::Regex;

use crate::chrf::is_space;

const ORDER: usize = 4;

/// The replacements of mteval-v13a, in their order.
static SEPARATED: LazyLock<[(Regex, &str); 4]> = LazyLock::new(|| {
    [
        (r"([\{-\~\[-\x60 -\&\(-\+:-@/])", " $1 "),
        (r"([^0-9])([\.,])", "$1 $2 "),
        (r"([\.,])([^0-9])", " $1 $2"),
        (r"([0-9])(-)", "$1 $2 "),
    ]
    .map(|(pattern, replacement)| (Regex::new(pattern).expect("a test uses the pattern"), replacement))
});

/// The tokens of mteval-v13a.
pub fn tokens(text: &str) -> Vec<String> {
    let mut text = text.trim_end_matches(is_space).replace("<skipped>", "").replace("-\n", "").replace('\n', " ");
    if text.contains('&') {
        text = text.replace("&quot;", "\"").replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">");
    }
    let mut text = format!(" {text} ");
    for (pattern, replacement) in SEPARATED.iter() {
        text = pattern.replace_all(&text, *replacement).into_owned();
    }
    text.split(is_space).filter(|token| !token.is_empty()).map(str::to_owned).collect()
}

/// BLEU of an answer, 0 to 100.
pub fn bleu(answer: &str, reference: &str) -> f64 {
    let (answer, reference) = (tokens(answer), tokens(reference));
    let orders = ORDER.min(answer.len());
    let matches: Vec<usize> = (1..=orders).map(|n| matches(&answer, &reference, n)).collect();
    if matches.iter().all(|matches| *matches == 0) {
        return 0.0;
    }
    let mut smoothing = 1.0;
    let logarithms = matches.iter().enumerate().map(|(index, matches)| {
        let total = (answer.len() - index) as f64;
        let precision = match matches {
            0 => {
                smoothing *= 2.0;
                1.0 / (smoothing * total)
            }
            matches => *matches as f64 / total,
        };
        precision.ln()
    });
    let mean = logarithms.sum::<f64>() / orders as f64;
    let brevity = (1.0 - reference.len() as f64 / answer.len() as f64).min(0.0);
    100.0 * (mean + brevity).exp()
}

/// The n-grams of the answer that the reference has, each at most as often as there.
fn matches(answer: &[String], reference: &[String], n: usize) -> usize {
    let counts = |tokens: &[String]| {
        let mut counts: HashMap<Vec<String>, usize> = HashMap::new();
        tokens.windows(n).for_each(|gram| *counts.entry(gram.to_vec()).or_default() += 1);
        counts
    };
    let expected = counts(reference);
    counts(answer).iter().map(|(gram, count)| (*count).min(expected.get(gram).copied().unwrap_or_default())).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_those_of_13a() {
        assert_eq!(
            tokens("It's 3.5, not 4-5 (roughly)."),
            ["It's", "3.5", ",", "not", "4", "-", "5", "(", "roughly", ")", "."]
        );
        assert_eq!(tokens("&quot;a&quot; new-\nline "), ["\"", "a", "\"", "newline"]);
    }

    #[test]
    fn equal_texts_have_100_and_different_ones_0() {
        assert!((bleu("the cat sat on the mat", "the cat sat on the mat") - 100.0).abs() < 1e-9);
        assert_eq!((bleu("", "a b"), bleu("x y", "a b"), bleu("a", "")), (0.0, 0.0, 0.0));
    }
}
