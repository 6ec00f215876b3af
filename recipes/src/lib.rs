//! What a run is *declared* to be, as plain data.
//!
//! Responsible for: recipe text → validated, immutable, hashed [`Plan`].
//! Must not depend on: run directories, tensors, data frames, terminals.

pub mod diagnostics;
mod overrides;
pub mod plan;
pub mod recipe;
pub mod recipe_text;
mod rules;
pub mod schema;
mod suggest;
mod values;

pub use diagnostics::{Diagnostic, Diagnostics, Severity};
pub use plan::Plan;
pub use recipe::RecipeFile;
