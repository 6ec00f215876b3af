//! tonfall-kernels
