//! What a token of training costs, by arithmetic.
//!
//! Responsible for: floating-point operations a token, the numerator of MFU.
//! Must not depend on: tensors, clocks.

use tonfall_adapters::ModelDescription;

use crate::estimate::linear_shapes;

/// Floating-point operations that one token of a training step needs. `adapter` is the number of its parameters; without
/// one, all of the model is trained.
///
/// A multiplication and an addition for each parameter make 2 forward and 2 backward, towards the input. A trained one
/// costs 2 more for its own gradient, so it is 6, a frozen one 4; recomputing activations adds 2 for everything in the
/// blocks. The products of attention, which grow with the length, are not counted.
pub(crate) fn per_token(model: &ModelDescription, adapter: Option<u64>, recompute: bool) -> f64 {
    let block: usize = linear_shapes(model).iter().map(|(_, [rows, cols])| rows * cols).sum();
    let blocks = (block * model.num_hidden_layers) as f64;
    let head = (model.vocab_size * model.hidden_size) as f64;
    let beside = adapter.unwrap_or(0) as f64;
    let each = if adapter.is_some() { 4.0 } else { 6.0 };
    let again = if recompute { 2.0 * (blocks + beside) } else { 0.0 };
    each * (blocks + head) + 6.0 * beside + again
}
