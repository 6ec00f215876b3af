//! Suggestions for misspelt keys and words ("did you mean").
//!
//! Responsible for: finding the most similar known key or word.
//! Must not depend on: where suggestions are printed.

use strsim::damerau_levenshtein;

use crate::schema;
use crate::synonyms::{self, Meaning};

/// The probable meaning of the unknown key `path`: another trainer's name for one of our keys, or a misspelling.
pub(crate) fn key(path: &str) -> Option<Meaning> {
    let name = path.rsplit('.').next().unwrap_or(path);
    // If another table has this name, the key is ours, even if other trainers use the name too.
    let ours = schema::KEYS.iter().any(|key| key.split().1 == name);
    let synonym = if ours { None } else { synonyms::key(name) };
    synonym.or_else(|| similar(path).map(Meaning::Key))
}

/// The table whose name is most similar to `name`.
pub(crate) fn table(name: &str) -> Option<&'static str> {
    let names = schema::TABLES.iter().map(|(name, _)| *name).filter(|name| !name.is_empty());
    synonyms::table(name).or_else(|| word(name, names))
}

/// The key most similar to `path`. Candidates: a similar name in its table, the same name in another table, a similar
/// name in another table, the same name in a table of a similar name.
fn similar(path: &str) -> Option<&'static str> {
    let (table, name) = path.rsplit_once('.').unwrap_or(("", path));
    let keys = schema::KEYS.iter();
    let ranked = keys.filter_map(|key| {
        let (other_table, other_name) = key.split();
        let distance = distance(name, other_name)?;
        let elsewhere = if table == other_table { 0 } else { 1 + damerau_levenshtein(table, other_table).min(9) };
        // A correct name in the wrong table is more likely than a misspelt name in the right one.
        let rank = match (elsewhere, distance) {
            (0, distance) => distance,
            (elsewhere, 0) => 3 + elsewhere,
            (elsewhere, distance) => 20 + 10 * distance + elsewhere,
        };
        Some((rank, key.path))
    });
    ranked.min().map(|(_, path)| path)
}

/// The one of `words` that is most similar to `word`.
pub fn word<'a>(word: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let ranked = words.into_iter().filter_map(|other| Some((distance(word, other)?, other)));
    ranked.min().map(|(_, other)| other)
}

/// The edit distance between two words, if it is small for their length. Case and the kind of dash don't count. A word
/// that is part of a longer word (`steps` in `max_steps`) is similar too.
fn distance(word: &str, other: &str) -> Option<usize> {
    let word = word.to_lowercase().replace('-', "_");
    // No key is longer, and the comparison takes time proportional to the product of both lengths.
    if word.len() > 64 {
        return None;
    }
    let slips = damerau_levenshtein(&word, other);
    let allowed = (word.chars().count().max(other.chars().count()) / 3).max(1);
    let part = word.len() >= 4 && other.split('_').any(|part| part == word);
    match slips <= allowed {
        true => Some(slips),
        false => part.then_some(allowed + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggestions_name_the_right_table() {
        let key = |path| match key(path) {
            Some(Meaning::Key(key)) => key,
            other => panic!("{path}: {other:?}"),
        };
        assert_eq!(key("lora.rnak"), "lora.rank");
        assert_eq!(key("lora.Rank"), "lora.rank");
        assert_eq!(key("learning_rate"), "training.learning_rate");
        assert_eq!(key("training.rank"), "lora.rank");
        assert_eq!(key("training.learning-rate"), "training.learning_rate");
        assert_eq!(key("training.leraning_rate"), "training.learning_rate");
        assert_eq!(key("trainig.learning_rate"), "training.learning_rate");
        assert_eq!(key("data.batch"), "training.micro_batch_size");
        assert_eq!(key("training.lr"), "training.learning_rate");
        assert_eq!(key("lora.lora_alpha"), "lora.alpha");
        assert_eq!(key("max_seq_length"), "data.max_seq_len");
        assert_eq!(super::key("lora.zzzzzz"), None);
        assert_eq!((super::table("trainer"), super::table("trainig")), (Some("training"), Some("training")));
    }

    #[test]
    fn words() {
        assert_eq!(word("cosin", ["linear", "cosine"]), Some("cosine"));
        assert_eq!(word("quadratic", ["linear", "cosine"]), None);
    }
}
