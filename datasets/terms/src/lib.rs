//! Finds terms in texts. The audit, the evaluation and the dashboard share this matcher.
//!
//! Responsible for: finding terms as whole words or in compounds, in inflected forms and any Unicode normal form, with
//! offsets into the original text; replacing one term by another; codes and names of languages; the language of a text.
//! Must not depend on: any other crate of this workspace, the source of terms, the meaning of a hit.

mod compound;
mod inflection;
pub mod language;
mod matcher;
mod normal;
mod replace;
pub mod text_language;

pub use matcher::{Case, Hit, Matcher, Term, TermsError, uncovered};
pub use normal::normalized;
pub use replace::Replacer;
