//! The allocator of the program: mimalloc.
//!
//! Responsible for: its settings, and returning freed memory to the system.
//! Must not depend on: what the memory is for.
#![expect(unsafe_code, reason = "mimalloc's functions are C")]

use libmimalloc_sys::{mi_collect, mi_option_set, mi_option_t};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` in mimalloc.h: milliseconds for which freed pages are kept, 1,000 unless set.
const PURGE_DELAY: mi_option_t = 15;

/// Returns freed pages after 100 milliseconds instead of 1,000, so that memory freed by loading and saving is not held while
/// training. Runs of SmolLM2-135M took 10 to 20 MiB less and were not measurably slower; with 10 milliseconds they seemed
/// slower.
pub(crate) fn keep_less() {
    // SAFETY: sets a number.
    unsafe { mi_option_set(PURGE_DELAY, 100) };
}

/// Returns memory to the system that this thread, or a thread that has ended, has freed.
pub(crate) fn give_back() {
    // SAFETY: callable at any time.
    unsafe { mi_collect(true) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_the_option_is_that_of_this_version() {
        // SAFETY: reads a number.
        let milliseconds = unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY) };
        assert_eq!(milliseconds, 1000, "mimalloc's default");
    }
}
