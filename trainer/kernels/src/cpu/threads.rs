//! Work spread over rayon's threads.
//!
//! Responsible for: how much work is worth a second thread. Tasks write to disjoint places and every value is computed
//! by one task in one order, so results don't depend on the number of threads.

use rayon::prelude::*;

/// Elements below which a loop over them stays on the calling thread: waking another one costs some microseconds.
const SERIAL_ELEMENTS: usize = 16 * 1024;

/// Makes the calling thread, which outlives the others, one of rayon's. What it spreads over threads then starts on itself
/// at once; from outside it would wake another thread, sleep, and be woken. Where rayon is in use already, nothing changes;
/// nor on a machine of one thread, where this one's waiting would be everybody's.
pub fn join_threads() {
    let asked = std::env::var("RAYON_NUM_THREADS").ok().and_then(|threads| threads.parse::<usize>().ok());
    let threads = asked.filter(|&threads| threads > 0).or(std::thread::available_parallelism().ok().map(usize::from));
    if threads.is_some_and(|threads| threads > 1) {
        let _ = rayon::ThreadPoolBuilder::new().use_current_thread().build_global();
    }
}

/// Number of threads that [`each`] spreads over.
pub(crate) fn count() -> usize {
    rayon::current_num_threads()
}

/// Calls `task` for every index below `tasks`, on any threads, in any order.
pub(crate) fn each(tasks: usize, task: impl Fn(usize) + Sync + Send) {
    if tasks <= 1 || count() == 1 {
        (0..tasks).for_each(task);
    } else {
        (0..tasks).into_par_iter().with_max_len(1).for_each(task);
    }
}

/// Rows in a piece when `rows` rows of `row_len` elements are spread over the threads: about two pieces a thread, one
/// piece alone when the whole is small.
pub(crate) fn rows_per_piece(rows: usize, row_len: usize) -> usize {
    if rows * row_len < SERIAL_ELEMENTS { rows.max(1) } else { rows.div_ceil(2 * count()).max(1) }
}
