//! Terms in text: the one matcher of audit, evaluation and dashboard.
//!
//! Responsible for: finding terms as whole words, inflected and in any Unicode normal form, with offsets into the original
//! text; replacing one term by another; codes and names of languages.
//! Must not depend on: any other crate of this workspace; where terms come from, or what a hit means.

mod inflection;
pub mod language;
mod matcher;
mod normal;
mod replace;

pub use matcher::{Case, Hit, Matcher, Term, TermsError, uncovered};
pub use normal::normalized;
pub use replace::Replacer;
