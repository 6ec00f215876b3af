//! Floating-point operations of training.
//!
//! Responsible for: floating-point operations per token, the numerator of MFU.
//! Must not depend on: tensors, clocks.

use tonfall_adapters::ModelDescription;

use crate::estimate::linear_shapes;

/// Floating-point operations per token of a training step. `adapter` is the adapter's number of parameters; `None` in
/// full training.
///
/// Each parameter needs a multiplication and an addition in the forward pass, and the same for the gradient of the
/// input in the backward pass: 4 operations. A trained parameter needs 2 more for its own gradient, 6 in total.
/// Recomputation adds 2 for each parameter of the blocks. With an adapter, the last matrix product of each block is not
/// recomputed. Two things are not counted: that product if its layer has a bias or no adapter, and the matrix products
/// of attention, which grow with the sequence length.
pub(crate) fn per_token(model: &ModelDescription, adapter: Option<u64>, recompute: bool) -> f64 {
    let shapes = linear_shapes(model);
    let of = |shapes: &[(&str, [usize; 2])]| -> f64 {
        (shapes.iter().map(|(_, [rows, cols])| rows * cols).sum::<usize>() * model.num_hidden_layers) as f64
    };
    let head = (model.vocab_size * model.hidden_size) as f64;
    let (each, beside, repeated) = match adapter {
        Some(adapter) => (4.0, adapter as f64, &shapes[..shapes.len() - 1]),
        None => (6.0, 0.0, &shapes[..]),
    };
    let again = if recompute { 2.0 * (of(repeated) + beside) } else { 0.0 };
    each * (of(&shapes) + head) + 6.0 * beside + again
}
