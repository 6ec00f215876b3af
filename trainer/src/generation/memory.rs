//! The memory of a generation, and the number of slots that fits.
//!
//! Responsible for: one account of an engine's buffers, which the estimate of a run and the generation itself use.
//! Must not depend on: tensors.

use tonfall_adapters::ModelDescription;

use super::scheduler::CHUNK;
use crate::device::DeviceKind;
use crate::error::TrainError;

/// Most slots that share a pass: the most rows of the product with few rows.
pub(crate) const MAX_SLOTS: usize = tonfall_kernels::decode::MAX_ROWS;
/// Part of the free memory that stays free.
const RESERVE: u64 = 10;
/// Bytes for a cache on a device whose free memory is unknown.
const UNKNOWN: u64 = 512 << 20;
/// Bytes of an f32.
const F32: u64 = 4;

/// The lengths of a generation's sequences.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lengths {
    pub prompts: usize,
    /// Tokens of the longest prompt.
    pub longest: usize,
    /// Most tokens of a sequence whose keys and values are kept.
    pub capacity: usize,
}

impl Lengths {
    /// The lengths for prompts of these numbers of tokens, followed by up to `new` tokens.
    pub(crate) fn of(prompts: impl ExactSizeIterator<Item = usize>, new: usize, context: usize) -> Self {
        let count = prompts.len();
        let longest = prompts.max().unwrap_or(0);
        // The last token of an answer has no successor.
        Self { prompts: count, longest, capacity: (longest + new.saturating_sub(1)).min(context) }
    }
}

/// Bytes of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Keys and values of one slot.
    pub cache: u64,
    /// Logits and activations of one slot.
    pub rows: u64,
    /// Activations of a chunk of a prompt, and the other buffers that don't depend on the number of slots.
    pub fixed: u64,
}

impl Memory {
    pub(crate) fn of(model: &ModelDescription, device: DeviceKind, lengths: Lengths) -> Self {
        let (hidden, ff, vocabulary) = (model.hidden_size, model.intermediate_size, model.vocab_size as u64);
        let (q, kv) = (model.num_attention_heads * model.head_dim, model.num_key_value_heads * model.head_dim);
        let width = device.dtype().size() as u64;
        let heads = if model.qk_norm { q + kv } else { 0 };
        let row = (3 * hidden + 2 * q + 2 * kv + heads + 3 * ff) as u64 * width;
        let chunk = lengths.longest.min(CHUNK) as u64;
        let cache = |layers: u64| layers * lengths.capacity as u64 * 2 * kv as u64 * width;
        let layers = model.num_hidden_layers as u64;
        match device {
            DeviceKind::Cpu => Self {
                cache: cache(layers),
                rows: row + vocabulary * F32,
                // Packed queries and attended values of a chunk; ids of the choice.
                fixed: chunk * (row + 2 * q as u64 * F32) + vocabulary * F32,
            },
            // Every pass has all rows. The logits are on the device and on the host.
            DeviceKind::Cuda | DeviceKind::Vulkan => Self {
                cache: cache(layers + 1),
                rows: 0,
                fixed: chunk.max(MAX_SLOTS as u64) * row + MAX_SLOTS as u64 * vocabulary * width,
            },
        }
    }

    /// Bytes of a generation with `slots` slots.
    pub(crate) fn bytes(&self, slots: usize) -> u64 {
        slots as u64 * (self.cache + self.rows) + self.fixed
    }

    /// The most slots, up to [`MAX_SLOTS`] and one per prompt, whose generation needs at most `available` bytes.
    pub(crate) fn slots_within(&self, lengths: Lengths, available: u64) -> usize {
        (1..=lengths.prompts.min(MAX_SLOTS)).rev().find(|slots| self.bytes(*slots) <= available).unwrap_or(0)
    }
}

/// The slots of a generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slots {
    pub count: usize,
    /// Why there are fewer than there could be.
    pub notice: Option<String>,
}

impl Slots {
    /// The slots that fit in `free` bytes; `None` if the free memory is unknown.
    ///
    /// # Errors
    /// If not even one fits.
    pub(crate) fn fitting(memory: Memory, lengths: Lengths, free: Option<u64>) -> Result<Self, TrainError> {
        let available = free.map(|free| free - free / RESERVE);
        let wanted = lengths.prompts.min(MAX_SLOTS);
        let count = memory.slots_within(lengths, available.unwrap_or(UNKNOWN.max(memory.bytes(1))));
        if count == 0 && wanted > 0 {
            return Err(TrainError::CacheMemory {
                needed: memory.bytes(1),
                available: available.unwrap_or(UNKNOWN),
                tokens: lengths.capacity,
            });
        }
        Ok(Self::limited(count, wanted, lengths))
    }

    /// `count` of the `wanted` slots.
    fn limited(count: usize, wanted: usize, lengths: Lengths) -> Self {
        let notice = (count < wanted).then(|| {
            format!(
                "memory for the keys and values of {count} sequences of {} tokens at a time instead of {wanted}: \
                 generation takes longer, and its answers are the same",
                lengths.capacity
            )
        });
        Self { count, notice }
    }
}

#[cfg(test)]
mod tests {
    use tonfall_adapters::{Family, Sizes};

    use super::*;

    fn model() -> ModelDescription {
        let sizes = Sizes {
            vocab_size: 100,
            hidden_size: 32,
            intermediate_size: 64,
            num_hidden_layers: 3,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            head_dim: 8,
        };
        ModelDescription::plain(Family::Llama, sizes)
    }

    #[test]
    fn fewer_slots_fit_in_less_memory_and_none_is_an_error() {
        let lengths = Lengths::of([5, 40, 7].into_iter().cycle().take(30).collect::<Vec<_>>().into_iter(), 10, 4096);
        assert_eq!(lengths, Lengths { prompts: 30, longest: 40, capacity: 49 });
        let memory = Memory::of(&model(), DeviceKind::Cpu, lengths);
        assert_eq!(memory.cache, 3 * 49 * 2 * 16 * 4, "layers, positions, keys and values, columns, bytes");
        let fitting = |free: u64| Slots::fitting(memory, lengths, Some(free));
        let all = fitting(1 << 30).expect("enough");
        assert_eq!(all, Slots { count: 16, notice: None });
        let few = fitting(memory.bytes(5) * 10 / 9 + 10).expect("enough for five");
        assert_eq!(few.count, 5);
        let notice = few.notice.expect("a notice");
        assert!(notice.contains("5 sequences of 49 tokens") && notice.contains("16"), "{notice}");
        let fault = fitting(memory.bytes(1)).expect_err("a tenth stays free").to_string();
        assert!(fault.contains("49 tokens"), "{fault}");
        assert_eq!(Slots::fitting(memory, lengths, None).expect("unknown").count, 16);
        let none = Lengths::of([].into_iter(), 10, 4096);
        assert_eq!(Slots::fitting(memory, none, Some(0)).expect("no prompts").count, 0);
    }

    #[test]
    fn a_sequence_ends_with_the_context() {
        assert_eq!(Lengths::of([100].into_iter(), 1000, 512).capacity, 512);
        assert_eq!(Lengths::of([100].into_iter(), 0, 512).capacity, 100);
    }
}
