//! tonfall-tui
