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
/// blocks but, beside an adapter, each one's last product, which is not done again (it is where it has no adapter of its own
/// or a bias; that is not counted). The products of attention, which grow with the length, are not counted either.
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
