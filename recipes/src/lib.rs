//! Declaration of a run, as plain data.
//!
//! Responsible for: turning the text of a recipe into a validated, immutable, hashed [`Plan`].
//! Must not depend on: run directories, tensors, data frames, terminals.

pub mod diagnostics;
mod entries;
mod overrides;
pub mod plan;
pub mod recipe;
pub mod recipe_text;
mod rules;
pub mod schema;
mod settings;
pub mod suggest;
mod values;

pub use diagnostics::{Diagnostic, Diagnostics, Severity};
pub use plan::Plan;
pub use recipe::RecipeFile;
