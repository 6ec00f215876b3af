//! Prepared examples: columns of tokens, positions and order, in memory or mapped from files.
//!
//! Responsible for: the storage of a token (its id and a bit for "has loss"), and access to examples by index.
//! Must not depend on: how examples are prepared, how they are trained.

use std::marker::PhantomData;
use std::ops::{Deref, Range};
use std::sync::Arc;

use bytemuck::{Pod, Zeroable};
use memmap2::Mmap;

use crate::error::DataError;
use crate::label::mask::IGNORED;
use crate::prepare::batch::{Example, Source};

/// Set in the word of a token with loss. Token ids are below the vocabulary size, which fits in 31 bits.
const TRAINED: u32 = 1 << 31;

/// One example in the token column, as stored in files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Entry {
    /// Index of the example's first token.
    pub(crate) start: u64,
    pub(crate) row: u64,
    pub(crate) tokens: u32,
    /// Number of tokens with loss. The first token never has loss, because no token precedes it.
    pub(crate) trained: u32,
    /// Index of the file among the files of all sources.
    pub(crate) file: u64,
}

impl Entry {
    /// `words` are the example's words, and `start` is the index of the first one.
    pub(crate) fn new(words: &[u32], start: u64, source: Source) -> Self {
        let trained = words.iter().skip(1).filter(|word| *word & TRAINED != 0).count();
        Self { start, row: source.row, tokens: words.len() as u32, trained: trained as u32, file: source.file as u64 }
    }
}

/// A column of values of one type, in memory or mapped from a file.
#[derive(Debug)]
pub(crate) enum Column<T> {
    Memory(Vec<T>),
    Mapped(Mmap, PhantomData<T>),
}

impl<T> Default for Column<T> {
    fn default() -> Self {
        Self::Memory(Vec::new())
    }
}

impl<T: Pod> Deref for Column<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Self::Memory(values) => values,
            // A map starts at a page boundary, and `is_consistent` checked the lengths. Another byte order has another
            // key.
            Self::Mapped(map, _) => bytemuck::try_cast_slice(map).unwrap_or_default(),
        }
    }
}

/// All prepared data.
#[derive(Debug, Default)]
pub(crate) struct Columns {
    /// The tokens of all examples, in the order of `entries`.
    pub(crate) tokens: Column<u32>,
    pub(crate) entries: Column<Entry>,
    /// Indexes of examples: first those of an epoch, then the held-out ones.
    pub(crate) order: Column<u32>,
}

impl Columns {
    /// Whether every index of the order is valid, and every example is within the tokens.
    pub(crate) fn is_consistent(&self) -> bool {
        let is_inside = |entry: &Entry| {
            entry.start.checked_add(u64::from(entry.tokens)).is_some_and(|end| end <= self.tokens.len() as u64)
        };
        let count = self.entries.len();
        self.entries.iter().all(is_inside) && self.order.iter().all(|index| (*index as usize) < count)
    }
}

/// A token id and its "has loss" bit, as one word.
pub(crate) fn word(id: u32, label: i32) -> u32 {
    if label == IGNORED { id } else { id | TRAINED }
}

/// A sequence of examples. An example may occur several times.
#[derive(Clone, Debug, Default)]
pub struct Examples {
    columns: Arc<Columns>,
    /// The part of the order that belongs to this sequence.
    range: Range<usize>,
}

impl Examples {
    pub(crate) fn new(columns: Arc<Columns>, range: Range<usize>) -> Self {
        Self { columns, range }
    }

    /// Number of examples.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    fn entry(&self, index: usize) -> Option<&Entry> {
        let order = self.columns.order.get(self.range.clone())?;
        self.columns.entries.get(*order.get(index)? as usize)
    }

    fn words(&self, entry: &Entry) -> Option<&[u32]> {
        self.columns.tokens.get(entry.start as usize..)?.get(..entry.tokens as usize)
    }

    /// The example at `index`.
    ///
    /// # Errors
    /// If `index` is out of range.
    pub fn get(&self, index: usize) -> Result<Example, DataError> {
        let found = self.entry(index).and_then(|entry| Some((entry, self.words(entry)?)));
        let (entry, words) = found.ok_or(DataError::MissingExample { index, count: self.len() })?;
        let label = |word: &u32| if word & TRAINED == 0 { IGNORED } else { (word & !TRAINED) as i32 };
        Ok(Example {
            input_ids: words.iter().map(|word| word & !TRAINED).collect(),
            labels: words.iter().map(label).collect(),
            source: Source { file: entry.file as usize, row: entry.row },
        })
    }

    /// Iterates over all examples. [`Columns::is_consistent`] checks columns when they are opened, so none is missing.
    pub fn iter(&self) -> impl Iterator<Item = Example> + '_ {
        (0..self.len()).filter_map(|index| self.get(index).ok())
    }

    /// Number of tokens of each example.
    pub fn lengths(&self) -> Vec<usize> {
        (0..self.len()).filter_map(|index| Some(self.entry(index)?.tokens as usize)).collect()
    }

    /// Number of tokens with loss of each example.
    pub fn trained_lengths(&self) -> Vec<usize> {
        (0..self.len()).filter_map(|index| Some(self.entry(index)?.trained as usize)).collect()
    }
}

impl FromIterator<Example> for Examples {
    fn from_iter<T: IntoIterator<Item = Example>>(examples: T) -> Self {
        let (mut words, mut entries) = (Vec::new(), Vec::new());
        for example in examples {
            let start = words.len();
            words.extend(example.input_ids.iter().zip(&example.labels).map(|(id, label)| word(*id, *label)));
            entries.push(Entry::new(&words[start..], start as u64, example.source));
        }
        let range = 0..entries.len();
        let order = Column::Memory((0..entries.len() as u32).collect());
        let columns = Columns { tokens: Column::Memory(words), entries: Column::Memory(entries), order };
        Self::new(Arc::new(columns), range)
    }
}
