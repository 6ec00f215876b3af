//! Decoding on the CPU: the operations of a forward pass over slices, without autodiff, tensors and allocations.
//!
//! Responsible for: rows of activations, weights shared with the tensors of a model, and the operations on them. A product
//! with a few rows ([`Kernel::FewRows`]) and attention of single queries compute each row like a row alone, to the bit.
//! Must not depend on: models, training. The other operations have the tensor versions.

mod attend;
mod host_matrix;
mod project;
mod row_operations;
mod rows;

pub use attend::{Step, attend_chunk, attend_steps};
pub use host_matrix::{HostMatrix, host_vector};
pub use project::{Kernel, Lora, Projection, project};
pub use row_operations::{add, embed, glu, rms_norm, rms_norm_heads, rotate, soft_cap};
pub use rows::Rows;

/// Most rows of a product with [`Kernel::FewRows`].
pub const MAX_ROWS: usize = crate::cpu::few_rows::MAX_ROWS;
