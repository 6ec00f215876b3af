//! Memory of a pass over a micro-batch, without the weights.
//!
//! Responsible for: the memory of `micro_batch` and the operations that it calls: activations saved for the backward
//! pass, the peak of that pass, and the memory of an evaluation. If these change, this file must change too;
//! `.ci/run reference` compares it with measurements.
//! Must not depend on: recipes, data, files.

use tonfall_adapters::ModelDescription;
use tonfall_datasets::Largest;
use tonfall_kernels::{FUSED_HEAD_DIMS, held_tokens};

use super::Part;
use crate::device::DeviceKind;
use crate::generation::Memory;
use crate::micro_batch::Activations;

/// Bytes of an f32.
const F32: u64 = 4;
/// Maximum size of the panels that one thread packs for a matrix product, in bytes.
const PANELS: u64 = 512 << 10;
/// Queries per block of attention scores on the CPU.
const QUERIES: u64 = 64;
/// Maximum number of attention scores allocated at once on a GPU with blockwise attention.
const GPU_SCORES: u64 = 32 << 20;
/// Workspace of a cuBLASLt matrix product, in bytes.
const CUBLASLT: u64 = 32 << 20;
/// The page size of a GPU's memory pools is the size of the largest buffer so far, rounded up to a multiple of this.
const PAGE_UNIT: u64 = 1 << 20;

/// The linear layers of a block that are trained or have an adapter, in the order of
/// [`super::linear_shapes`]: q, k, v, o, gate, up, down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sites(pub(super) [bool; 7]);

/// The description of a pass.
#[derive(Clone, Copy, Debug)]
pub(super) struct PassMemory<'a> {
    pub(super) model: &'a ModelDescription,
    pub(super) device: DeviceKind,
    pub(super) threads: usize,
    pub(super) sites: Sites,
    /// Rank of the adapter; `None` in full training.
    pub(super) rank: Option<usize>,
    /// Number of trained values.
    pub(super) trained: u64,
    pub(super) batch: Largest,
    /// Elements of the largest weight that is dequantized as a whole for a matrix product.
    pub(super) dense_copy: u64,
}

impl PassMemory<'_> {
    fn hidden(&self) -> u64 {
        self.model.hidden_size as u64
    }

    fn ff(&self) -> u64 {
        self.model.intermediate_size as u64
    }

    fn q(&self) -> u64 {
        (self.model.num_attention_heads * self.model.head_dim) as u64
    }

    fn kv(&self) -> u64 {
        (self.model.num_key_value_heads * self.model.head_dim) as u64
    }

    fn layers(&self) -> u64 {
        self.model.num_hidden_layers as u64
    }

    fn vocab(&self) -> u64 {
        self.model.vocab_size as u64
    }

    /// Bytes per activation value.
    fn width(&self) -> u64 {
        self.device.dtype().size() as u64
    }

    /// Bytes of `numbers` activation values per token.
    fn tokens(&self, numbers: u64) -> u64 {
        self.batch.tokens as u64 * numbers * self.width()
    }

    /// Bytes of a block's activations that are saved for the backward pass. With `rematerialize`, LoRA inputs computed
    /// by RMSNorm and SwiGLU are recomputed instead of saved.
    fn kept(&self, rematerialize: bool) -> u64 {
        let Sites([q, k, v, o, gate, up, down]) = self.sites;
        let when = |wanted: bool, numbers: u64| if wanted { numbers } else { 0 };
        // Inputs of both norms; queries, keys, values and attention output; gate and up.
        let always = 2 * self.hidden() + 2 * self.q() + 2 * self.kv() + 2 * self.ff();
        let inputs = when(q || k || v, self.hidden()) + when(gate || up, self.hidden()) + when(down, self.ff());
        let inputs = when(!rematerialize || self.rank.is_none(), inputs);
        let norms = when(self.model.qk_norm, self.q() + self.kv()) + when(self.model.output_norms, 2 * self.hidden());
        let sites = [q, k, v, o, gate, up, down].into_iter().filter(|site| *site).count();
        let low_rank = self.rank.map_or(0, |rank| (sites * rank) as u64);
        let normalisers = (self.batch.tokens * self.model.num_attention_heads) as u64 * F32;
        self.tokens(always + inputs + norms + low_rank) + normalisers
    }

    /// Bytes of the gradients in the backward pass of a block's MLP: the incoming gradient and the gradients of gate
    /// and up. The gradient of the gated product reuses the product's memory. A norm after the MLP adds one more.
    fn mlp_gradients(&self) -> u64 {
        let normed = if self.model.output_norms { self.hidden() } else { 0 };
        self.tokens(self.hidden() + normed + 2 * self.ff())
    }

    /// Tokens whose logits are allocated at once.
    fn held(&self) -> u64 {
        held_tokens(self.batch.trained, self.model.vocab_size, self.device != DeviceKind::Cpu) as u64
    }

    /// The logits of a chunk of tokens with their inputs, and their gradients in training.
    fn logits(&self, gradients: bool) -> u64 {
        let (held, logits, inputs) = (self.held(), F32 * self.vocab(), self.width() * self.hidden());
        let turned = if self.rank.is_none() && gradients { logits } else { 0 };
        match (self.device, gradients) {
            (DeviceKind::Cpu, true) => held * (logits + turned + 2 * inputs),
            (DeviceKind::Cpu, false) => held * (logits + inputs),
            (_, true) => held * (logits + self.width() * self.vocab() + 2 * inputs),
            (_, false) => held * (logits + inputs),
        }
    }

    /// Scratch memory of matrix products and attention; on a GPU also the dense copy of the largest weight.
    pub(super) fn workspace(&self) -> u64 {
        let keys = self.batch.example as u64;
        match self.device {
            DeviceKind::Cpu => {
                // Scores and their gradients, and the derivatives of soft-capping.
                let attention = 2 + u64::from(self.model.attn_logit_softcapping.is_some());
                let logits = self.model.final_logit_softcapping.map_or(0, |_| self.vocab() * F32);
                self.threads as u64 * (PANELS + attention * QUERIES * (keys + 16) * F32 + logits)
            }
            _ => {
                let fused = self.device == DeviceKind::Cuda && FUSED_HEAD_DIMS.contains(&self.model.head_dim);
                let scores = (self.model.num_attention_heads as u64 * keys.min(512) * keys).min(GPU_SCORES);
                let product = if self.device == DeviceKind::Cuda { CUBLASLT } else { 0 };
                (self.dense_copy + if fused { 0 } else { 2 * scores }) * self.width() + product
            }
        }
    }

    /// The memory of a training step; `accumulates` if a step has several micro-batches. The peak is the highest of
    /// three moments: the loss, the backward pass of the last block, the end of the backward pass. Between them,
    /// gradients are allocated while activations are freed, and activations are larger.
    pub(super) fn training(&self, activations: Activations, accumulates: bool) -> Vec<Part> {
        let summed = if accumulates { F32 * self.trained } else { 0 };
        let head = if self.rank.is_none() { F32 * self.vocab() * self.hidden() } else { 0 };
        let (layers, own_input) = (self.layers(), self.tokens(self.hidden()));
        let block = self.kept(!activations.again());
        let (kept, in_block) = match activations {
            // The current block also has its recomputed activations.
            Activations::Kept => (layers * block, self.kept(false) - block),
            // The current block's input is one of the saved inputs.
            Activations::Recomputed => (layers * own_input, block - own_input),
            // One input in transfer to or from the host, and the input of the current block.
            Activations::Offloaded => (layers.min(2) * own_input, block - own_input),
        };
        // Input and output of the final norm, and the gradient of its output.
        let loss = [summed + head, kept + self.tokens(3 * self.hidden()), self.logits(true)];
        let backward = [summed + head, kept + in_block + self.mlp_gradients(), 0];
        // With a tied head, the gradient of the embeddings is added at the end.
        let tied = if self.model.tie_word_embeddings { head } else { 0 };
        let end = [summed + F32 * self.trained + tied, 0, 0];
        let [gradients, activations, logits] =
            [loss, backward, end].into_iter().max_by_key(|moment| moment.iter().sum::<u64>()).unwrap_or_default();
        let workspace = self.workspace();
        vec![
            Part::new("gradients", gradients),
            Part::new("activations", activations),
            Part::new("logits", logits),
            Part::new("workspace", workspace),
            Part::new("unused parts of pages", self.unused(gradients + activations + logits + workspace)),
        ]
    }

    /// Unused bytes of a GPU's memory pools. Buffers are parts of pages, and a page is as large as the largest buffer.
    fn unused(&self, used: u64) -> u64 {
        if self.device == DeviceKind::Cpu {
            return 0;
        }
        let page = (self.largest_buffer() + PAGE_UNIT).next_multiple_of(PAGE_UNIT);
        used.next_multiple_of(page) - used
    }

    /// The largest buffer of a training step, in bytes.
    pub(super) fn largest_buffer(&self) -> u64 {
        let logits = self.held() * self.vocab() * F32;
        logits.max(self.tokens(self.ff())).max(self.dense_copy * self.width())
    }

    /// A pass without gradients.
    pub(super) fn evaluation(&self) -> Vec<Part> {
        let mlp = self.tokens(self.hidden() + 3 * self.ff());
        let attention = self.tokens(2 * self.hidden() + 2 * self.q() + 2 * self.kv());
        let (blocks, loss) = (mlp.max(attention), self.tokens(self.hidden()));
        let logits = self.logits(false);
        let (activations, logits) = if blocks > loss + logits { (blocks, 0) } else { (loss, logits) };
        vec![
            Part::new("activations", activations),
            Part::new("logits", logits),
            Part::new("workspace", self.workspace()),
        ]
    }

    /// The memory of a generation with `slots` slots; `batch` is the longest prompt.
    pub(super) fn generating(&self, memory: Memory, slots: usize) -> Vec<Part> {
        vec![
            Part::new("key and value cache", slots as u64 * memory.cache),
            Part::new("activations", slots as u64 * memory.rows + memory.fixed),
            Part::new("workspace", self.workspace()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonfall_adapters::{Family, Sizes};

    use crate::generation::Lengths;

    /// Two layers, hidden size 4, intermediate size 8, two heads of size 2 with one shared key/value head, 16 tokens.
    fn model() -> ModelDescription {
        let sizes = Sizes {
            vocab_size: 16,
            hidden_size: 4,
            intermediate_size: 8,
            num_hidden_layers: 2,
            num_attention_heads: 2,
            num_key_value_heads: 1,
            head_dim: 2,
        };
        ModelDescription { tie_word_embeddings: true, ..ModelDescription::plain(Family::Llama, sizes) }
    }

    fn pass(model: &ModelDescription, sites: [bool; 7]) -> PassMemory<'_> {
        let batch = Largest { tokens: 10, trained: 6, example: 5 };
        PassMemory {
            model,
            device: DeviceKind::Cpu,
            threads: 1,
            sites: Sites(sites),
            rank: Some(2),
            trained: 100,
            batch,
            dense_copy: 0,
        }
    }

    fn bytes(parts: &[Part]) -> Vec<u64> {
        parts.iter().map(|part| part.bytes).collect()
    }

    #[test]
    fn a_step_has_the_size_computed_by_hand() {
        let model = model();
        let pass = pass(&model, [true; 7]);
        // Per token and block, in f32: 4 × hidden, 2 × q, 2 × kv, 3 × ff, 7 × r, and the softmax normalizers of two
        // heads. Of these, 2 × hidden and 1 × ff can be recomputed.
        let (all, block) = (10 * (4 * (16 + 8 + 4 + 24 + 14) + 4 * 2), 10 * (4 * (8 + 8 + 4 + 16 + 14) + 4 * 2));
        assert_eq!((pass.kept(false), pass.kept(true)), (all, block));
        let scratch = pass.workspace();
        let logits = 6 * (4 * 16 + 2 * 4 * 4);
        // The peak is the backward pass of the last block: all of its activations, some of them recomputed, and
        // gradients of hidden, gate and up.
        let backward = block + all + 10 * 4 * 20;
        assert!(backward > 2 * block + 10 * 4 * 12 + logits);
        assert_eq!(bytes(&pass.training(Activations::Kept, false)), [0, backward, 0, scratch, 0]);
        assert_eq!(bytes(&pass.training(Activations::Kept, true)), [400, backward, 0, scratch, 0]);
        // With recomputation, the peak is the same moment: inputs of both blocks (one is the current block's own), its
        // activations, and gradients of hidden, gate and up.
        let again = 2 * 10 * 4 * 4 + all - 10 * 4 * 4 + 10 * 4 * 20;
        assert_eq!(bytes(&pass.training(Activations::Recomputed, false)), [0, again, 0, scratch, 0]);
        // With offloading, two inputs are on the device, for any number of blocks.
        assert_eq!(bytes(&pass.training(Activations::Offloaded, false)), [0, again, 0, scratch, 0]);
        // In an evaluation, the peak is the last block's MLP: its input, gate, up and their product.
        assert_eq!(bytes(&pass.evaluation()), [10 * 4 * (4 + 24), 0, scratch]);
        // Three sequences of 12 tokens: keys and values of one head of size 2 in both layers.
        let lengths = Lengths { prompts: 5, longest: 10, capacity: 12 };
        let parts = pass.generating(Memory::of(&model, DeviceKind::Cpu, lengths), 3);
        // Each has logits and a row of activations; a chunk of 10 tokens has rows, packed queries and attended values.
        let row = 4 * (3 * 4 + 2 * 4 + 2 * 2 + 3 * 8);
        let rest = 3 * (row + 16 * 4) + 10 * (row + 2 * 4 * 4) + 16 * 4;
        assert_eq!(bytes(&parts), [3 * 2 * 12 * 2 * 2 * 4, rest, scratch]);
    }

    #[test]
    fn norms_after_both_halves_save_their_inputs() {
        let plain = model();
        let normed = ModelDescription { output_norms: true, ..model() };
        let (plain, normed) = (pass(&plain, [true; 7]), pass(&normed, [true; 7]));
        assert_eq!(normed.kept(true) - plain.kept(true), 10 * 4 * (2 * 4));
        assert_eq!(normed.mlp_gradients() - plain.mlp_gradients(), 10 * 4 * 4);
    }

    #[test]
    fn caps_take_scratch_memory() {
        let plain = model();
        let capped =
            ModelDescription { attn_logit_softcapping: Some(50.0), final_logit_softcapping: Some(30.0), ..model() };
        let (plain, capped) = (pass(&plain, [true; 7]), pass(&capped, [true; 7]));
        // The derivatives for the scores of 64 queries, and for a row of logits.
        assert_eq!(capped.workspace() - plain.workspace(), 64 * (5 + 16) * 4 + 16 * 4);
    }

    #[test]
    fn layer_inputs_are_saved_if_an_adapter_needs_them() {
        let model = model();
        let kept = |sites| pass(&model, sites).kept(false);
        let none = kept([false; 7]);
        let q_alone = kept([true, false, false, false, false, false, false]);
        assert_eq!(q_alone - none, 10 * 4 * (4 + 2));
        assert_eq!(kept([true, true, true, false, false, false, false]) - q_alone, 10 * 4 * 4);
        assert_eq!(kept([false, false, false, false, false, false, true]) - none, 10 * 4 * (8 + 2));
    }
}
