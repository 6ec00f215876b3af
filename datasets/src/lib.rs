//! tonfall-datasets
