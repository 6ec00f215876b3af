//! Detects equal and nearly equal examples.
//!
//! Responsible for: fingerprints of examples, and finding pairs of examples with matching fingerprints.
//! Must not depend on: the meaning of texts.
//!
//! Two examples are equal if their tokens and labels are equal. Near-duplicates are found by MinHash (Broder, "On the
//! resemblance and containment of documents", 1997) over shingles of three words, with banding (Indyk and Motwani,
//! 1998): 8 bands of 4 hashes, of which 5 must agree. Two texts with 95 % common shingles match with a probability of
//! 0.96, two texts with 80 % match with a probability of 0.19. The system message and the tools are hashed into each
//! shingle. Examples with different system messages or tools are therefore never near-duplicates, and a long shared
//! system message doesn't make examples similar.

use serde_json::Value;

use crate::formats::conversation::{Message, Sample};
use crate::label::mask::Labelled;
use crate::prepare::permutation::mix;
use crate::prepare::store::word;

const BANDS: usize = 8;
const ROWS: usize = 4;
const AGREE: usize = 5;
const SHINGLE: usize = 3;
/// Texts with fewer words are only compared exactly, because a single word can be the whole difference.
const WORDS: usize = 12;
/// Long texts above this number are only compared exactly, and the report counts them. Each takes 36 bytes, others 8.
const COMPARED: usize = 2_000_000;

/// The stored hashes of an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    /// Hash of tokens and labels.
    exact: u64,
    /// One hash for each band. `None` for a short text.
    bands: Option<[u32; BANDS]>,
}

impl Fingerprint {
    /// The fingerprint of a piece of a long text. Pieces are only compared exactly.
    pub(crate) fn of_tokens(labelled: &Labelled) -> Self {
        Self { exact: exact(labelled), bands: None }
    }
}

/// The hash of tokens and labels.
fn exact(labelled: &Labelled) -> u64 {
    let words = labelled.input_ids.iter().zip(&labelled.labels).map(|(id, label)| word(*id, *label));
    words.fold(0, |hash, word| mix(hash ^ u64::from(word)))
}

/// The fingerprint of a labelled sample.
pub(crate) fn fingerprint(sample: &Sample, labelled: &Labelled) -> Fingerprint {
    let mut texts: Vec<&str> = Vec::new();
    let mut context = 0;
    match sample {
        Sample::Text(text) => texts.push(text),
        Sample::PromptCompletion { prompt, completion } => texts.extend([prompt.as_str(), completion]),
        Sample::Conversation(conversation) => {
            for message in &conversation.messages {
                match message.role.as_str() {
                    "system" => context = mix(context ^ word_hash(&message.content)),
                    _ => said(message, &mut texts),
                }
            }
            if let Some(tools) = &conversation.tools {
                context = mix(context ^ word_hash(&tools.to_string()));
            }
        }
    }
    Fingerprint { exact: exact(labelled), bands: bands(&texts, context) }
}

/// The texts of a message: its content, then the texts in all other keys, such as reasoning and tool calls.
fn said<'a>(message: &'a Message, texts: &mut Vec<&'a str>) {
    fn leaves<'a>(value: &'a Value, texts: &mut Vec<&'a str>) {
        match value {
            Value::String(text) => texts.push(text),
            Value::Array(items) => items.iter().for_each(|item| leaves(item, texts)),
            Value::Object(fields) => fields.values().for_each(|field| leaves(field, texts)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
    texts.push(&message.content);
    let others = message.fields.iter().filter(|(key, _)| *key != "content");
    others.for_each(|(_, value)| leaves(value, texts));
}

/// The band hashes of texts. `None` if there are too few words.
fn bands(texts: &[&str], context: u64) -> Option<[u32; BANDS]> {
    let (mut minima, mut window, mut words) = ([u32::MAX; BANDS * ROWS], [0_u64; SHINGLE], 0);
    for word in texts.iter().flat_map(|text| text.split(|c: char| !c.is_alphanumeric())).filter(|word| !word.is_empty())
    {
        window.rotate_left(1);
        window[SHINGLE - 1] = word_hash(word);
        words += 1;
        if words >= SHINGLE {
            let shingle = window.iter().fold(context, |sum, word| sum.rotate_left(21) ^ word);
            for (index, minimum) in minima.iter_mut().enumerate() {
                // A family of multiply-shift hashes (Dietzfelbinger et al. 1997), with odd factors from SplitMix64.
                *minimum = (*minimum).min((shingle.wrapping_mul(factor(index as u64)) >> 32) as u32);
            }
        }
    }
    let band = |rows: &[u32]| rows.iter().fold(0, |hash, row| mix(hash ^ u64::from(*row))) as u32;
    (words >= WORDS).then(|| std::array::from_fn(|index| band(&minima[index * ROWS..][..ROWS])))
}

/// The hash of a word in lower case. Uses one multiplication for each character, because every word of the data is
/// hashed.
fn word_hash(word: &str) -> u64 {
    let mix = |hash: u64, c: char| (hash.rotate_left(5) ^ u64::from(c)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let hash = match word.is_ascii() {
        true => word.bytes().fold(0, |hash, byte| mix(hash, byte.to_ascii_lowercase().into())),
        false => word.chars().flat_map(char::to_lowercase).fold(0, mix),
    };
    hash ^ (hash >> 32)
}

/// An odd factor. The function is `const`, so factors are computed at compile time.
const fn factor(index: u64) -> u64 {
    mix(index.wrapping_mul(0x9E37_79B9_7F4A_7C15)) | 1
}

/// An example that repeats an earlier one.
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
    /// Long texts: the index of the example, and its bands.
    banded: Vec<(u32, [u32; BANDS])>,
    /// Number of long texts above [`COMPARED`].
    pub(crate) not_compared: u64,
}

impl Fingerprints {
    /// Adds the fingerprint of the next example.
    pub(crate) fn push(&mut self, fingerprint: Fingerprint) {
        let example = self.exact.len() as u32;
        self.exact.push(fingerprint.exact);
        match fingerprint.bands {
            Some(bands) if self.banded.len() < COMPARED => self.banded.push((example, bands)),
            Some(_) => self.not_compared += 1,
            None => {}
        }
    }

    /// Every example that repeats an earlier one. Each occurs once, in order.
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
        // Replaces each band hash by the first example with the same hash in this band.
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
    use crate::formats::conversation::{Conversation, Message, Sample};
    use crate::label::mask::Labelled;

    /// An example with one token for each byte.
    fn labelled(text: &str) -> Labelled {
        let ids = text.bytes().map(u32::from);
        Labelled { labels: ids.clone().map(|id| id as i32).collect(), input_ids: ids.collect(), ..Labelled::default() }
    }

    fn repeats(samples: impl IntoIterator<Item = (Sample, Labelled)>) -> Vec<Repeat> {
        let mut prints = Fingerprints::default();
        samples.into_iter().for_each(|(sample, labelled)| prints.push(fingerprint(&sample, &labelled)));
        prints.repeats()
    }

    #[test]
    fn equal_and_nearly_equal_examples_are_found() {
        let long: String = (0..200).map(|word| format!("word{word} ")).collect();
        let changed = long.replace("word30", "other");
        let different: String = (0..200).map(|word| format!("term{word} ")).collect();
        let texts = [long.as_str(), &different, &changed, &long, "short text", "short texts", "short text"];
        let found = repeats(texts.map(|text| (Sample::Text(text.to_owned()), labelled(text))));
        assert_eq!(
            found,
            [
                Repeat { example: 2, of: 0, exact: false },
                Repeat { example: 3, of: 0, exact: true },
                Repeat { example: 6, of: 4, exact: true },
            ]
        );
    }

    #[test]
    fn examples_with_other_labels_or_system_messages_are_not_equal() {
        let long: String = (0..200).map(|word| format!("word{word} ")).collect();
        let talk = |system: &str| {
            let messages = [("system", system), ("user", "?"), ("assistant", long.as_str())];
            let messages = messages.map(|(role, content)| Message::new(role, content)).to_vec();
            (Sample::Conversation(Conversation { messages, tools: None }), labelled(&format!("{system}?{long}")))
        };
        assert!(repeats([talk("a"), talk("b")]).is_empty());
        assert_eq!(repeats([talk("a"), talk("a")]), [Repeat { example: 1, of: 0, exact: true }]);
        let (sample, mut other) = talk("a");
        other.labels[0] = crate::IGNORED;
        assert_eq!(repeats([talk("a"), (sample, other)]), [Repeat { example: 1, of: 0, exact: false }]);
    }
}
