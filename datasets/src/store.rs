//! Prepared examples: tokens in one long row, in memory or mapped from a file.
//!
//! Responsible for: the form of a token (its id, and a bit for "trained"), which examples lie where, and giving them out.
//! Must not depend on: how they were made, what is computed with them.

use std::sync::Arc;

use memmap2::Mmap;
use serde::{Deserialize, Serialize};

use crate::batch::{Example, Source};
use crate::mask::IGNORED;

/// The bit of a token that is trained. Ids are below a vocabulary's size, which fits in 31 bits.
const TRAINED: u32 = 1 << 31;

/// Where an example lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// Of its first token.
    pub(crate) start: u64,
    pub(crate) tokens: u32,
    pub(crate) trained: u32,
    /// Index among the files of all sources.
    pub(crate) file: u32,
    pub(crate) row: u64,
}

/// The tokens of all examples.
#[derive(Debug)]
pub(crate) enum Tokens {
    Memory(Vec<u32>),
    Mapped(Mmap),
}

impl Default for Tokens {
    fn default() -> Self {
        Self::Memory(Vec::new())
    }
}

impl Tokens {
    fn words(&self) -> &[u32] {
        match self {
            Self::Memory(words) => words,
            // A map begins at a page, and its length was checked; on another byte order the cache has another key.
            Self::Mapped(map) => bytemuck::try_cast_slice(map).unwrap_or_default(),
        }
    }
}

/// A token and whether it is trained, as one word.
pub(crate) fn word(id: u32, label: i32) -> u32 {
    if label == IGNORED { id } else { id | TRAINED }
}

/// Examples in an order; one may come several times.
#[derive(Clone, Debug, Default)]
pub struct Examples {
    tokens: Arc<Tokens>,
    entries: Arc<[Entry]>,
    order: Arc<[u32]>,
}

impl Examples {
    pub(crate) fn new(tokens: Arc<Tokens>, entries: Arc<[Entry]>, order: Vec<u32>) -> Self {
        Self { tokens, entries, order: order.into() }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    fn entry(&self, index: usize) -> Option<&Entry> {
        self.entries.get(*self.order.get(index)? as usize)
    }

    /// The example at `index`.
    pub fn get(&self, index: usize) -> Option<Example> {
        let entry = self.entry(index)?;
        let words = self.tokens.words().get(entry.start as usize..)?.get(..entry.tokens as usize)?;
        let label = |word: &u32| if word & TRAINED == 0 { IGNORED } else { (word & !TRAINED) as i32 };
        Some(Example {
            input_ids: words.iter().map(|word| word & !TRAINED).collect(),
            labels: words.iter().map(label).collect(),
            source: Source { file: entry.file as usize, row: entry.row },
        })
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = Example> + '_ {
        (0..self.len()).filter_map(|index| self.get(index))
    }

    /// Tokens of each.
    pub fn lengths(&self) -> Vec<usize> {
        (0..self.len()).filter_map(|index| Some(self.entry(index)?.tokens as usize)).collect()
    }

    /// Tokens of each that the model is trained to predict.
    pub fn trained_lengths(&self) -> Vec<usize> {
        (0..self.len()).filter_map(|index| Some(self.entry(index)?.trained as usize)).collect()
    }
}

impl FromIterator<Example> for Examples {
    fn from_iter<T: IntoIterator<Item = Example>>(examples: T) -> Self {
        let (mut words, mut entries) = (Vec::new(), Vec::new());
        for example in examples {
            entries.push(Entry {
                start: words.len() as u64,
                tokens: example.input_ids.len() as u32,
                trained: example.trained_tokens() as u32,
                file: example.source.file as u32,
                row: example.source.row,
            });
            words.extend(example.input_ids.iter().zip(&example.labels).map(|(id, label)| word(*id, *label)));
        }
        let order = (0..entries.len() as u32).collect();
        Self::new(Arc::new(Tokens::Memory(words)), entries.into(), order)
    }
}
