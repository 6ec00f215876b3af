//! An optimizer step over many tensors in a few launches. An adapter has hundreds of small tensors, for which a launch takes
//! longer than the kernel.
//!
//! Responsible for: tables of addresses, for as many tensors per launch as a kernel's arguments can hold (as
//! `multi_tensor_apply` in NVIDIA's apex), and the kernels that read them.

use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;

use super::program::{Argument, Launch, Program};
use super::stream::enqueue;
use crate::adamw::Coefficients;
use crate::cube::tensors::{empty, len, reshaped, upload};
use crate::index32::index;

/// Tensors per launch: their table and the other arguments fit into 4 KiB.
const MOST: usize = 60;
/// 64-bit words per tensor in the table.
const WORDS: usize = 8;
/// Threads per block.
const THREADS: usize = 256;
/// Partial sums of squares per tensor; one block computes each.
const PARTS: usize = 32;

const PROGRAM: Program<'static> =
    Program { source: include_str!("multi_tensor.cu"), definitions: &[("MOST", MOST), ("THREADS", THREADS)] };

/// A parameter with its gradient and optimizer state: contiguous, of one length, f32 except for the copy, which is bf16. All
/// but the gradient are changed, so no other tensor shares their memory.
pub(in crate::cube) struct Update {
    pub(in crate::cube) gradient: CubeTensor,
    pub(in crate::cube) parameter: CubeTensor,
    pub(in crate::cube) first: CubeTensor,
    pub(in crate::cube) second: CubeTensor,
    pub(in crate::cube) copy: Option<CubeTensor>,
    /// Whether weight decay applies.
    pub(in crate::cube) decays: bool,
}

impl Update {
    fn tensors(&self) -> impl Iterator<Item = &CubeTensor> {
        [&self.gradient, &self.parameter, &self.first, &self.second].into_iter().chain(&self.copy)
    }

    /// The fields of its table entry other than addresses.
    fn entry(&self, decay: f32) -> Entry {
        assert!(
            self.tensors().all(|tensor| len(tensor) == len(&self.gradient)),
            "the tensors of an update have one length"
        );
        assert!(self.copy.as_ref().is_none_or(|copy| copy.dtype == DType::BF16), "a copy is bf16");
        let decay = if self.decays { f64::from(decay) } else { 1.0 };
        Entry { elements: len(&self.gradient), copied: self.copy.is_some(), decay }
    }
}

#[derive(Clone, Copy)]
struct Entry {
    elements: usize,
    copied: bool,
    decay: f64,
}

/// Updates all parameters, with gradients clipped to the global norm `max_norm`. Returns the partial sums of the gradients'
/// squares, a vector. If the norm is not finite or a gradient could not be computed, no parameter changes. Errors surface when
/// the returned vector is read.
pub(in crate::cube) fn update(updates: &[Update], c: &Coefficients, max_norm: f64) -> CubeTensor {
    let like = &updates[0].parameter;
    let count = updates.len() * PARTS;
    // Uploaded zeros are initialised even under the CI's stub driver, which runs no kernels.
    let parts = CubeTensor { dtype: DType::F32, ..upload(like, &vec![0; count]) };
    let scale = empty(like, [1], DType::F32);
    let entries: Vec<Entry> = updates.iter().map(|update| update.entry(c.decay)).collect();
    let read: Vec<&CubeTensor> = updates.iter().flat_map(Update::tensors).chain([&scale]).collect();
    let numbers = [c.beta1_rest, c.beta2, c.beta2_rest, c.step_size, c.inverse_correction2, c.epsilon];
    enqueue(&read, &[&parts], move |stream, addresses| {
        let [tensors @ .., scale, parts] = addresses else { unreachable!("one of each tensor") };
        let tables = tables(&entries, tensors, *parts);
        let [scale, parts] = [*scale, *parts].map(Argument::Address);
        let over = |kernel, table: &Table, blocks, more: &[Argument<'_>]| {
            let arguments: Vec<Argument<'_>> = [&[Argument::Structure(&table.words)], more].concat();
            let launch = Launch { grid: [blocks, table.tensors, 1], threads: THREADS as u32, shared: 0 };
            PROGRAM.launch(kernel, &launch, &arguments, stream)
        };
        for table in &tables {
            over("square_sums", table, PARTS as u32, &[])?;
        }
        let launch = Launch { grid: [1; 3], threads: THREADS as u32, shared: 0 };
        let most = [Argument::Word(index(count)), Argument::Float(max_norm as f32)];
        PROGRAM.launch("clip", &launch, &[parts, scale, most[0], most[1]], stream)?;
        let numbers: Vec<Argument<'_>> = [scale].into_iter().chain(numbers.map(Argument::Float)).collect();
        tables.iter().try_for_each(|table| over("adamw", table, table.blocks, &numbers))
    });
    reshaped(parts, [count])
}

/// `Table` in the CUDA source, with its launch dimensions.
struct Table {
    words: [u64; MOST * WORDS],
    tensors: u32,
    /// Blocks per tensor: eight elements per thread of the longest tensor, at most 1,024 blocks.
    blocks: u32,
}

/// The tables of all entries. `addresses` lists the tensors of the entries in order.
fn tables(entries: &[Entry], addresses: &[u64], parts: u64) -> Vec<Table> {
    let mut addresses = addresses.iter().copied();
    let mut parts = (parts..).step_by(PARTS * size_of::<f32>());
    let table = |entries: &[Entry]| {
        let longest = entries.iter().map(|entry| entry.elements).max().unwrap_or(0);
        let blocks = longest.div_ceil(8 * THREADS).clamp(1, 1024) as u32;
        let mut words = [0; MOST * WORDS];
        for (words, (entry, part)) in words.chunks_exact_mut(WORDS).zip(entries.iter().zip(&mut parts)) {
            let tensors = 4 + usize::from(entry.copied);
            words.iter_mut().zip(addresses.by_ref().take(tensors)).for_each(|(word, address)| *word = address);
            words[5..].copy_from_slice(&[part, entry.elements as u64, entry.decay.to_bits()]);
        }
        Table { words, tensors: index(entries.len()), blocks }
    };
    entries.chunks(MOST).map(table).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_entries_hold_the_addresses_of_their_tensors() {
        let entry = |elements, copied| Entry { elements, copied, decay: 0.5 };
        let entries: Vec<Entry> = (0..MOST + 2).map(|place| entry(1 + place * 300, place % 2 == 0)).collect();
        let addresses: Vec<u64> = (1..=entries.iter().map(|entry| 4 + u64::from(entry.copied)).sum()).collect();
        let tables = tables(&entries, &addresses, 1 << 20);
        assert_eq!(tables.iter().map(|table| table.tensors).collect::<Vec<_>>(), [MOST as u32, 2]);
        let half = 0.5_f64.to_bits();
        assert_eq!(tables[0].words[..WORDS], [1, 2, 3, 4, 5, 1 << 20, 1, half]);
        assert_eq!(tables[0].words[WORDS..2 * WORDS], [6, 7, 8, 9, 0, (1 << 20) + 128, 301, half]);
        let last = addresses.len() as u64;
        let part = (1 << 20) + 128 * (MOST as u64 + 1);
        let elements = 1 + (MOST as u64 + 1) * 300;
        assert_eq!(tables[1].words[WORDS..2 * WORDS], [last - 3, last - 2, last - 1, last, 0, part, elements, half]);
        assert_eq!((tables[1].blocks, tables[1].words[2 * WORDS]), (9, 0));
    }
}
