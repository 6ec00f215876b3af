//! Operations for training Llama-like decoders with LoRA and QLoRA, each with its own backward pass.
//!
//! Responsible for: the mathematics of single operations on one device, fast and in little memory. Activations are
//! matrices `[tokens, features]`: f32 on the CPU, bf16 or f32 on a GPU. The heads of a token are adjacent columns; sequences
//! follow one another without padding. Frozen weights stay in the bytes of their file ([`FrozenMatrix`]).
//! Must not depend on: models, files, training loops.
//!
//! One file per operation: the public function with its contract, the trait that dispatches to a backend, the CPU
//! implementation, the backward pass and the tests. Shapes that don't fit are a bug in the caller, so they panic. Data from
//! files is checked before it reaches this crate.

mod adamw;
mod adamw8;
mod all_reduce;
mod attention;
mod bias;
mod buffer;
mod cotangent;
mod cpu;
mod cross_entropy;
#[cfg(feature = "cube")]
mod cube;
pub mod decode;
mod dropout;
mod embedding;
mod flex;
#[doc(hidden)]
pub mod forward_backward;
mod frozen;
mod glu;
mod host_stack;
mod host_table;
#[cfg(any(test, feature = "cube"))]
mod index32;
mod linear;
mod lora;
mod op;
pub mod philox;
mod rematerialize;
mod resident;
mod rms_norm;
mod rope;
mod soft_cap;
mod square_sums;
#[cfg(test)]
mod testing;
mod trainable_linear;
mod update;

pub use adamw::AdamW;
pub use adamw8::{BLOCK as MOMENT_BLOCK, Moment8};
pub use all_reduce::{Communicator, GroupId, all_reduce};
pub use attention::{AttentionLayout, FUSED_HEAD_DIMS, Segment, attention};
pub use buffer::release_idle;
pub use cotangent::with_cotangent;
pub use cpu::level::cpu_level;
pub use cross_entropy::{Head, HeadWeight, IGNORED, held_tokens, linear_cross_entropy, logits, token_losses};
pub use dropout::Dropout;
pub use embedding::{embedding, trainable_embedding};
pub use frozen::{FrozenMatrix, MatrixLayout};
pub use glu::{Activation, glu};
pub use host_stack::HostStack;
pub use host_table::HostTable;
pub use linear::linear;
pub use lora::{Adapter, lora_linear, lora_linear_with_cotangent};
pub use rematerialize::Rematerialized;
pub use resident::resident;
pub use rms_norm::{rms_norm, rms_norm_heads};
pub use rope::{RopeTable, rope};
pub use soft_cap::soft_cap;
pub use square_sums::{norm, square_sums};
pub use tonfall_blocks::Format;
pub use trainable_linear::trainable_linear;
pub use update::{Moments, Update, copied, update};
