//! The allocator of the program: mimalloc.
//!
//! Responsible for: the settings of mimalloc, and returning freed memory to the system.
//! Must not depend on: who allocates the memory.
#![expect(unsafe_code, reason = "mimalloc's functions are C")]

use libmimalloc_sys::{mi_collect, mi_option_set, mi_option_t};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` in mimalloc.h: delay in milliseconds before freed pages are returned, 1,000 by default.
const PURGE_DELAY: mi_option_t = 15;

/// Returns freed pages after 100 ms instead of 1,000 ms, so that memory freed after loading and saving is not held
/// during training. Runs of SmolLM2-135M used 10 to 20 MiB less and were not measurably slower. With 10 ms they seemed
/// slower.
pub(crate) fn keep_less() {
    // SAFETY: sets a number.
    unsafe { mi_option_set(PURGE_DELAY, 100) };
}

/// Returns the memory to the system that this thread and ended threads have freed.
pub(crate) fn give_back() {
    // SAFETY: callable at any time.
    unsafe { mi_collect(true) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn purge_delay_is_the_option_of_this_mimalloc_version() {
        // SAFETY: reads a number.
        let milliseconds = unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY) };
        assert_eq!(milliseconds, 1000, "mimalloc's default");
    }
}
