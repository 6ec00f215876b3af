//! Examples that are the same, or almost.
//!
//! Responsible for: fingerprints of texts and finding pairs among them, within the trained examples and across the split.
//! Must not depend on: what the texts are about.
//!
//! Near-duplicates by MinHash (Broder, "On the resemblance and containment of documents", 1997) over shingles of three
//! words, with banding (Indyk and Motwani, 1998): 8 bands of 4 hashes. Two texts count as almost the same when 5 of 8
//! bands agree, which texts with 95 % common shingles do with a probability of 0.96, with 80 % of 0.19.

use std::hash::{Hash, Hasher};

use crate::stable_hash::{StableHasher, stable_hash};

const BANDS: usize = 8;
const ROWS: usize = 4;
const AGREE: usize = 5;
const SHINGLE: usize = 3;
/// Texts with fewer words are compared exactly only: a word more or less is all the difference there is.
const WORDS: usize = 12;
/// More long texts than this are compared exactly only; the report says so. Each takes 36 bytes, the others 8.
const COMPARED: usize = 2_000_000;

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
    let mut exact = StableHasher::new();
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
    let band = |rows: &[u32]| stable_hash(rows) as u32;
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
    pub(crate) example: u32,
    pub(crate) of: u32,
    pub(crate) exact: bool,
}

/// The fingerprints of all examples.
#[derive(Debug, Default)]
pub(crate) struct Fingerprints {
    exact: Vec<u64>,
    /// Example and bands, of long texts.
    banded: Vec<(u32, [u32; BANDS])>,
    /// Long texts beyond [`COMPARED`].
    pub(crate) not_compared: u64,
}

impl Fingerprints {
    /// Adds the next example's.
    pub(crate) fn push(&mut self, fingerprint: Fingerprint) {
        let example = self.exact.len() as u32;
        self.exact.push(fingerprint.exact);
        match fingerprint.bands {
            Some(bands) if self.banded.len() < COMPARED => self.banded.push((example, bands)),
            Some(_) => self.not_compared += 1,
            None => {}
        }
    }

    /// Each example that repeats an earlier one, once, in order.
    pub(crate) fn repeats(self) -> Vec<Repeat> {
        let Self { exact, mut banded, .. } = self;
        let mut found = Vec::new();
        let mut order: Vec<u32> = (0..exact.len() as u32).collect();
        order.sort_unstable_by_key(|example| (exact[*example as usize], *example));
        for same in order.chunk_by(|left, right| exact[*left as usize] == exact[*right as usize]) {
            found.extend(same[1..].iter().map(|example| Repeat { example: *example, of: same[0], exact: true }));
        }
        found.sort_unstable();
        banded.retain(|(example, _)| found.binary_search_by_key(example, |repeat| repeat.example).is_err());
        // In the place of each hash, the first example that has it: what repeats any of a run nearly repeats that one.
        let mut run_of: Vec<u32> = (0..banded.len() as u32).collect();
        for band in 0..BANDS {
            run_of.sort_unstable_by_key(|place| (banded[*place as usize].1[band], *place));
            let mut first: Option<(u32, u32)> = None;
            for place in &run_of {
                let (example, bands) = &mut banded[*place as usize];
                let hash = bands[band];
                let (_, example) = *first.insert(first.filter(|(run, _)| *run == hash).unwrap_or((hash, *example)));
                bands[band] = example;
            }
        }
        for (example, firsts) in banded {
            let agree = |of: &&u32| **of != example && firsts.iter().filter(|first| first == of).count() >= AGREE;
            found.extend(firsts.iter().find(agree).map(|of| Repeat { example, of: *of, exact: false }));
        }
        found.sort_unstable();
        found
    }
}

#[cfg(test)]
mod tests {
    use super::{Fingerprints, Repeat, fingerprint};

    #[test]
    fn the_same_and_almost_the_same_are_found() {
        let long: String = (0..200).map(|word| format!("word{word} ")).collect();
        let changed = long.replace("word30", "other");
        let different: String = (0..200).map(|word| format!("term{word} ")).collect();
        let texts = [long.as_str(), &different, &changed, &long, "short text", "short texts", "short text"];
        let mut prints = Fingerprints::default();
        texts.iter().for_each(|text| prints.push(fingerprint(std::iter::once(*text))));
        assert_eq!(
            prints.repeats(),
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
