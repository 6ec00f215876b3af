//! The engine on any device, with the operations of training.
//!
//! Responsible for: keys and values of all slots in one preallocated tensor per layer, and one pass for all slots.
//! Must not depend on: scheduling, sampling.

use burn::tensor::Tensor;
use tonfall_kernels::Segment;

use super::memory::MAX_SLOTS;
use super::scheduler::{Engine, Next};
use crate::error::TrainError;
use crate::lora::values;
use crate::model::{Decoder, Placement, SlotCache};

/// A decoder with the sequences of its slots.
pub(super) struct TensorEngine<'a> {
    model: &'a Decoder,
    with_adapter: bool,
    cache: SlotCache,
    capacity: usize,
    logits: Vec<f32>,
}

impl<'a> TensorEngine<'a> {
    /// An engine with `slots` slots for sequences of at most `capacity` tokens.
    pub(super) fn new(model: &'a Decoder, with_adapter: bool, slots: usize, capacity: usize) -> Self {
        // Rows without a slot attend to one more position, which stays zero.
        let cache = model.slot_cache(slots * capacity + 1);
        Self { model, with_adapter, cache, capacity, logits: Vec::new() }
    }

    fn predict(&mut self, hidden: Tensor<2>) -> Result<(), TrainError> {
        self.logits = values(&self.model.project(hidden))?;
        Ok(())
    }
}

impl Engine for TensorEngine<'_> {
    fn prefill(&mut self, slot: usize, start: usize, tokens: &[u32], last: bool) -> Result<(), TrainError> {
        let first = slot * self.capacity;
        let segment = Segment { q_start: 0, q_len: tokens.len(), k_start: first, k_len: start + tokens.len() };
        let positions: Vec<u32> = (start..start + tokens.len()).map(|position| position as u32).collect();
        let place =
            Placement { positions: &positions, segments: &[segment], writes: &[first + start], chunk: tokens.len() };
        let hidden = self.model.advance_slots(tokens, &place, &mut self.cache, self.with_adapter);
        match last {
            true => self.predict(hidden.narrow(0, tokens.len() - 1, 1)),
            false => Ok(()),
        }
    }

    /// Every pass has the same number of rows: matrix products of other sizes may use other kernels, and a row's result
    /// would depend on the number of slots in use.
    fn decode(&mut self, next: &[Next]) -> Result<(), TrainError> {
        let spare = self.cache.positions() - 1;
        let mut ids = [0; MAX_SLOTS];
        let mut positions = [0; MAX_SLOTS];
        let mut writes = [0; MAX_SLOTS];
        let mut segments = std::array::from_fn::<Segment, MAX_SLOTS, _>(|row| Segment {
            q_start: row,
            q_len: 1,
            k_start: spare,
            k_len: 1,
        });
        for (row, Next { slot, token, position }) in next.iter().enumerate() {
            let first = slot * self.capacity;
            (ids[row], positions[row], writes[row]) = (*token, *position as u32, first + position);
            segments[row] = Segment { q_start: row, q_len: 1, k_start: first, k_len: position + 1 };
        }
        let place = Placement { positions: &positions, segments: &segments, writes: &writes[..next.len()], chunk: 1 };
        let hidden = self.model.advance_slots(&ids, &place, &mut self.cache, self.with_adapter);
        self.predict(hidden)
    }

    fn logits(&self, row: usize) -> &[f32] {
        let vocab_size = self.model.description.vocab_size;
        &self.logits[row * vocab_size..][..vocab_size]
    }
}
