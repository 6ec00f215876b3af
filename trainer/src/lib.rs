//! tonfall-trainer
