//! Calls into crates that panic on damaged files.
//!
//! Responsible for: turning such a panic into a value, without a message on the terminal.
//! Must not depend on: the crates that are called.

use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Parts of the source paths of these crates. They may panic in threads of their own.
const CRATES: [&str; 3] = ["polars", "tokenizers", "spm_precompiled"];

/// How many threads run [`caught`].
static RUNNING: AtomicUsize = AtomicUsize::new(0);

/// The result of `run`, or `None` if it panicked.
pub(crate) fn caught<T>(run: impl FnOnce() -> T) -> Option<T> {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |panic| {
            let is_foreign = |file: &str| CRATES.iter().any(|name| file.contains(name));
            let expected = RUNNING.load(Ordering::Relaxed) > 0;
            if !(expected && panic.location().is_some_and(|location| is_foreign(location.file()))) {
                before(panic);
            }
        }));
    });
    RUNNING.fetch_add(1, Ordering::Relaxed);
    let result = catch_unwind(AssertUnwindSafe(run));
    RUNNING.fetch_sub(1, Ordering::Relaxed);
    result.ok()
}
