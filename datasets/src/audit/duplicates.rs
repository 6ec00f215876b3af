//! Examples that are the same, or almost.
//!
//! Responsible for: fingerprints of texts and finding pairs among them, within the trained examples and across the split.
//! Must not depend on: what the texts are about.
//!
//! Near-duplicates by MinHash (Broder, "On the resemblance and containment of documents", 1997) over shingles of three
//! words, with banding (Indyk and Motwani, 1998): 8 bands of 4 hashes. Two texts count as almost the same when 5 of 8
//! bands agree, which texts with 95 % common shingles do with a probability of 0.96, with 80 % of 0.19.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

const BANDS: usize = 8;
const ROWS: usize = 4;
const AGREE: usize = 5;
const SHINGLE: usize = 3;
/// Texts with fewer words are compared exactly only: a word more or less is all the difference there is.
const WORDS: usize = 12;
/// More examples than this are compared exactly only; the report says so.
pub(crate) const COMPARED: usize = 2_000_000;

/// What is kept of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    /// Of the whole text.
    exact: u64,
    /// Of each band; `None` for a short text.
    bands: Option<[u32; BANDS]>,
}

/// The fingerprint of what is said in a sample.
pub(crate) fn fingerprint<'a>(texts: impl Iterator<Item = &'a str>) -> Fingerprint {
    let mut exact = DefaultHasher::new();
    let (mut minima, mut window, mut words) = ([u32::MAX; BANDS * ROWS], [0_u64; SHINGLE], 0);
    for text in texts {
        text.hash(&mut exact);
        for word in text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
            window.rotate_left(1);
            window[SHINGLE - 1] = word_hash(word);
            words += 1;
            if words >= SHINGLE {
                let shingle = window.iter().fold(0_u64, |sum, word| sum.rotate_left(21) ^ word);
                for (index, minimum) in minima.iter_mut().enumerate() {
                    // A family of multiply-shift hashes (Dietzfelbinger et al. 1997): odd factors from SplitMix64.
                    *minimum = (*minimum).min((shingle.wrapping_mul(factor(index as u64)) >> 32) as u32);
                }
            }
        }
    }
    let band = |rows: &[u32]| {
        let mut hasher = DefaultHasher::new();
        rows.hash(&mut hasher);
        hasher.finish() as u32
    };
    let bands = (words >= WORDS).then(|| std::array::from_fn(|index| band(&minima[index * ROWS..][..ROWS])));
    Fingerprint { exact: exact.finish(), bands }
}

/// Of a word in lower case; a multiplication a character, since this is done for every word of all data.
fn word_hash(word: &str) -> u64 {
    let mix = |hash: u64, c: char| (hash.rotate_left(5) ^ u64::from(c)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let hash = match word.is_ascii() {
        true => word.bytes().fold(0, |hash, byte| mix(hash, byte.to_ascii_lowercase().into())),
        false => word.chars().flat_map(char::to_lowercase).fold(0, mix),
    };
    hash ^ (hash >> 32)
}

fn factor(index: u64) -> u64 {
    let mut state = (index + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    state = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    state = (state ^ (state >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    (state ^ (state >> 31)) | 1
}

/// A pair: an example, and an earlier one that it repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Repeat {
    pub(crate) example: usize,
    pub(crate) of: usize,
    pub(crate) exact: bool,
}

/// Each example that repeats an earlier one, once, in order.
pub(crate) fn repeats(fingerprints: &[Fingerprint]) -> Vec<Repeat> {
    let mut found: HashMap<usize, Repeat> = HashMap::new();
    let mut first: HashMap<u64, usize> = HashMap::with_capacity(fingerprints.len());
    for (example, fingerprint) in fingerprints.iter().enumerate() {
        let of = *first.entry(fingerprint.exact).or_insert(example);
        if of != example {
            found.insert(example, Repeat { example, of, exact: true });
        }
    }
    let mut agreeing: HashMap<(u32, u32), usize> = HashMap::new();
    let compared = &fingerprints[..fingerprints.len().min(COMPARED)];
    for band in 0..BANDS {
        let banded = compared.iter().enumerate().filter(|(example, _)| !found.contains_key(example));
        let mut hashes: Vec<(u32, u32)> =
            banded.filter_map(|(example, print)| Some((print.bands?[band], example as u32))).collect();
        hashes.sort_unstable();
        for run in hashes.chunk_by(|left, right| left.0 == right.0) {
            // The first of a run stands for it: what repeats any of them nearly repeats that one.
            for (_, example) in &run[1..] {
                *agreeing.entry((run[0].1, *example)).or_default() += 1;
            }
        }
    }
    for ((of, example), bands) in agreeing {
        if bands >= AGREE {
            let (of, example) = (of as usize, example as usize);
            let repeat = Repeat { example, of, exact: false };
            found.entry(example).and_modify(|earlier| *earlier = (*earlier).min(repeat)).or_insert(repeat);
        }
    }
    let mut repeats: Vec<Repeat> = found.into_values().collect();
    repeats.sort_unstable();
    repeats
}

#[cfg(test)]
mod tests {
    use super::{Repeat, fingerprint, repeats};

    #[test]
    fn the_same_and_almost_the_same_are_found() {
        let long: String = (0..200).map(|word| format!("word{word} ")).collect();
        let changed = long.replace("word30", "other");
        let different: String = (0..200).map(|word| format!("term{word} ")).collect();
        let texts = [long.as_str(), &different, &changed, &long, "short text", "short texts", "short text"];
        let prints: Vec<_> = texts.iter().map(|text| fingerprint(std::iter::once(*text))).collect();
        assert_eq!(
            repeats(&prints),
            [
                Repeat { example: 2, of: 0, exact: false },
                Repeat { example: 3, of: 0, exact: true },
                Repeat { example: 6, of: 4, exact: true },
            ]
        );
    }

    #[test]
    fn the_border_between_texts_counts() {
        let print = |texts: [&str; 2]| fingerprint(texts.into_iter());
        assert_ne!(print(["ab", "c"]), print(["a", "bc"]));
    }
}
