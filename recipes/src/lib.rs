//! The declaration of a run, as plain data.
//!
//! Responsible for: turning the text of a recipe into a validated, immutable, hashed [`Plan`].
//! Must not depend on: run directories, tensors, data frames, terminals.

mod counted;
pub mod diagnostics;
mod entries;
mod overrides;
pub mod plan;
pub mod printable;
pub mod recipe;
pub mod recipe_text;
mod rules;
pub mod schema;
mod settings;
pub mod suggest;
mod synonyms;
mod values;

pub use counted::{counted, grouped};
pub use diagnostics::{Diagnostic, Diagnostics, Severity};
pub use plan::Plan;
pub use recipe::RecipeFile;
