//! Did you mean?
//!
//! Responsible for: the key or the word that somebody probably meant.
//! Must not depend on: where it is asked.

use strsim::damerau_levenshtein;

use crate::schema;

/// The known key that `path` was probably meant to be: a similar name in its table, the same name in another table, a
/// similar one there, or the same name in a table of a similar name.
pub(crate) fn key(path: &str) -> Option<&'static str> {
    let (table, name) = path.rsplit_once('.').unwrap_or(("", path));
    let keys = schema::KEYS.iter();
    let ranked = keys.filter_map(|key| {
        let (other_table, other_name) = key.split();
        let distance = distance(name, other_name)?;
        let elsewhere = if table == other_table { 0 } else { 1 + damerau_levenshtein(table, other_table).min(9) };
        // A key that is right in itself is more likely misplaced than one that is similar is misspelt.
        let rank = match (elsewhere, distance) {
            (0, distance) => distance,
            (elsewhere, 0) => 3 + elsewhere,
            (elsewhere, distance) => 20 + 10 * distance + elsewhere,
        };
        Some((rank, key.path))
    });
    ranked.min().map(|(_, path)| path)
}

/// The one of `words` that `word` was probably meant to be.
pub(crate) fn word<'a>(word: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let ranked = words.into_iter().filter_map(|other| Some((distance(word, other)?, other)));
    ranked.min().map(|(_, other)| other)
}

/// How many slips of a finger lie between two words, when that is few for their length. Case and the kind of dash are no
/// difference, nor is being a part of a longer word (`lr` is not found so, `steps` in `max_steps` is).
fn distance(word: &str, other: &str) -> Option<usize> {
    let word = word.to_lowercase().replace('-', "_");
    // Nothing that is meant is that long, and the comparison takes time by the product of lengths.
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
