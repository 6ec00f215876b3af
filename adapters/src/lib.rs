//! tonfall-adapters
