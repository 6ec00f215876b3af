//! Readability of an answer.
//!
//! Responsible for: the reading ease of German and English texts. Must not depend on: other measures.
//!
//! With ASL words per sentence and ASW syllables per word:
//! - English: Flesch Reading Ease, 206.835 − 1.015 · ASL − 84.6 · ASW (Flesch 1948, "A new readability yardstick", Journal of
//!   Applied Psychology 32).
//! - German: 180 − ASL − 58.5 · ASW (Amstad 1978, "Wie verständlich sind unsere Zeitungen?", Zürich).
//!
//! Both give about 0 for very difficult and 100 for very easy texts. Syllables are counted by groups of vowels, so a single
//! word can be off by one.

use crate::Part;
use crate::language::Language;
use crate::sentences::{sentences, words};

/// Reading ease; does not apply to an answer without words.
pub fn readability_part(text: &str, language: Language) -> Part {
    let sentences = sentences(text);
    let words: Vec<&str> = sentences.iter().flat_map(|sentence| words(sentence)).collect();
    if words.is_empty() {
        return Part::NONE;
    }
    let syllables: usize = words.iter().map(|word| syllables(word, language)).sum();
    let per_sentence = words.len() as f64 / sentences.len() as f64;
    let per_word = syllables as f64 / words.len() as f64;
    Part::score(match language {
        Language::English => 206.835 - 1.015 * per_sentence - 84.6 * per_word,
        Language::German => 180.0 - per_sentence - 58.5 * per_word,
    })
}

/// Syllables of a word, at least 1.
pub fn syllables(word: &str, language: Language) -> usize {
    let word: Vec<char> = word.to_lowercase().chars().collect();
    let count = match language {
        Language::German => german(&word),
        Language::English => english(&word),
    };
    count.max(1)
}

/// Vowel groups. Two vowels are one syllable only if they are a diphthong or a long vowel: `Rei-se`, but `The-a-ter`.
fn german(word: &[char]) -> usize {
    const JOINED: [&str; 14] = ["ai", "au", "äu", "ei", "eu", "ey", "ay", "oi", "ui", "aa", "ee", "oo", "ie", "ou"];
    let is_vowel = |c: char| "aeiouyäöüéèàâôûî".contains(c);
    let (mut count, mut at) = (0, 0);
    while at < word.len() {
        let starts_word = at == 0 && word[0] == 'y' && word.get(1).is_some_and(|next| is_vowel(*next));
        let after_q = at > 0 && word[at - 1] == 'q' && word[at] == 'u';
        if !is_vowel(word[at]) || starts_word || after_q {
            at += 1;
            continue;
        }
        count += 1;
        let joined = word
            .get(at + 1)
            .is_some_and(|next| JOINED.contains(&[word[at], *next].iter().collect::<String>().as_str()));
        at += if joined { 2 } else { 1 };
    }
    count
}

/// Vowel groups, without a silent `e` at the end and the `e` of `-es` and `-ed` that is not spoken.
fn english(word: &[char]) -> usize {
    let is_vowel = |c: char| "aeiouyé".contains(c);
    let groups =
        word.iter().enumerate().filter(|(at, c)| is_vowel(**c) && (*at == 0 || !is_vowel(word[at - 1]))).count();
    let text: String = word.iter().collect();
    let stem = text.trim_end_matches("'s").trim_end_matches("’s");
    // `i-a`, `i-o` after other letters than c, g, s, t, x: `me-di-a`, but `na-tion`.
    let apart = word.windows(3).filter(|window| {
        "ai".contains(window[1]) == (window[1] == 'i')
            && window[1] == 'i'
            && "ao".contains(window[2])
            && !"cgstxaeiou".contains(window[0])
    });
    let apart = apart.count();
    let silent = match stem {
        _ if stem.len() < 3 => false,
        _ if stem.ends_with("le") => stem.chars().rev().nth(2).is_some_and(is_vowel),
        _ if stem.ends_with('e') => !stem.ends_with("ee") && stem.chars().rev().nth(1).is_some_and(|c| !is_vowel(c)),
        _ if stem.ends_with("es") => {
            !["ses", "zes", "xes", "ches", "shes", "ges", "ces"].iter().any(|end| stem.ends_with(end))
                && stem.chars().rev().nth(2).is_some_and(|c| !is_vowel(c))
        }
        _ if stem.ends_with("ed") => {
            !["ted", "ded"].iter().any(|end| stem.ends_with(end))
                && stem.chars().rev().nth(2).is_some_and(|c| !is_vowel(c))
        }
        _ => false,
    };
    (groups + apart).saturating_sub(usize::from(silent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syllables_of_german_words() {
        for (word, count) in [
            ("Haus", 1),
            ("Häuser", 2),
            ("Theater", 3),
            ("Lieferung", 3),
            ("Reise", 2),
            ("Bestellung", 3),
            ("Quelle", 2),
            ("Verträge", 3),
            ("Büro", 2),
            ("See", 1),
            ("Italien", 3),
            ("pst", 1),
            ("Beere", 2),
            ("neue", 2),
            ("Yoga", 2),
        ] {
            assert_eq!(syllables(word, Language::German), count, "{word}");
        }
    }

    #[test]
    fn syllables_of_english_words() {
        for (word, count) in [
            ("cat", 1),
            ("parcel", 2),
            ("delivery", 4),
            ("make", 1),
            ("table", 2),
            ("whole", 1),
            ("boxes", 2),
            ("times", 1),
            ("wanted", 2),
            ("asked", 1),
            ("the", 1),
            ("reading", 2),
            ("media", 3),
            ("nation", 2),
            ("customer's", 3),
            ("tree", 1),
        ] {
            assert_eq!(syllables(word, Language::English), count, "{word}");
        }
    }

    #[test]
    fn scores_follow_the_formulas() {
        // 6 words, 1 sentence, 6 syllables.
        let english = readability_part("The cat sat on the mat.", Language::English);
        assert!((english.numerator - (206.835 - 1.015 * 6.0 - 84.6)).abs() < 1e-9, "{english:?}");
        // 5 words, 2 sentences, 8 syllables.
        let german = readability_part("Die Gäste kommen. Gute Reise!", Language::German);
        assert!((german.numerator - (180.0 - 2.5 - 58.5 * 9.0 / 5.0)).abs() < 1e-9, "{german:?}");
        assert_eq!(readability_part("…", Language::German), Part::NONE);
    }
}
