//! Suggestions for misspelt keys and words ("did you mean").
//!
//! Responsible for: finding the most similar known key or word.
//! Must not depend on: where suggestions are printed.

use strsim::damerau_levenshtein;

use crate::schema;

/// The known key that is most similar to `path`: a similar name in the same table, the same name in another table, a
/// similar name in another table, or the same name in a table with a similar name.
pub(crate) fn key(path: &str) -> Option<&'static str> {
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

/// The edit distance of two words, if it is small for their length. Case and the kind of dash don't count. A word that
/// is part of a longer word has distance 0 (`steps` in `max_steps`; `lr` is too short for that).
fn distance(word: &str, other: &str) -> Option<usize> {
    let word = word.to_lowercase().replace('-', "_");
    // No key is that long, and the comparison takes time proportional to the product of the lengths.
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
    fn keys_are_found_where_they_belong() {
        assert_eq!(key("lora.rnak"), Some("lora.rank"));
        assert_eq!(key("lora.Rank"), Some("lora.rank"));
        assert_eq!(key("learning_rate"), Some("training.learning_rate"));
        assert_eq!(key("training.rank"), Some("lora.rank"));
        assert_eq!(key("training.learning-rate"), Some("training.learning_rate"));
        assert_eq!(key("training.leraning_rate"), Some("training.learning_rate"));
        assert_eq!(key("trainig.learning_rate"), Some("training.learning_rate"));
        assert_eq!(key("data.batch"), Some("training.micro_batch_size"));
        assert_eq!(key("lora.zzzzzz"), None);
    }

    #[test]
    fn words() {
        assert_eq!(word("cosin", ["linear", "cosine"]), Some("cosine"));
        assert_eq!(word("quadratic", ["linear", "cosine"]), None);
    }
}
