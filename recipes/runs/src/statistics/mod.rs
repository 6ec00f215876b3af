//! Statistics of measures.
//!
//! Responsible for: confidence intervals of one model, and how sure the difference of two models is. All random choices are
//! seeded: the same parts give the same numbers on every machine.
//! Must not depend on: what is measured, rules, how numbers are shown.

mod bound;
mod difference;
mod interval;
mod random;
mod student;

pub use self::bound::lower_bound;
pub use self::difference::Difference;
pub use self::interval::interval;
#[cfg(test)]
pub(crate) use self::random::Random;
