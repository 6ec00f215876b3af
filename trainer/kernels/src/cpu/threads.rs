//! Parallel loops.
//!
//! Responsible for: how much work justifies a second thread. Tasks write disjoint parts of an output, and one task computes
//! each value in a fixed order, so results don't depend on the number of threads.

use super::spin_pool::SpinPool;

/// A loop over fewer elements stays on the calling thread, since waking another thread takes some microseconds.
const SERIAL_ELEMENTS: usize = 16 * 1024;

/// Number of threads that [`each`] uses: rayon's, which `RAYON_NUM_THREADS` sets.
pub(crate) fn count() -> usize {
    rayon::current_num_threads()
}

/// Calls `task` for every index below `tasks`, on any thread, in any order.
pub(crate) fn each(tasks: usize, task: impl Fn(usize) + Sync) {
    static POOL: SpinPool = SpinPool::new();
    match count() - 1 {
        workers if workers > 0 && tasks > 1 => POOL.each(workers, tasks, &task),
        _ => (0..tasks).for_each(task),
    }
}

/// Rows per piece when `rows` rows of `row_len` elements are split over the threads: about two pieces per thread, or one piece
/// if there are few elements.
pub(crate) fn rows_per_piece(rows: usize, row_len: usize) -> usize {
    if rows * row_len < SERIAL_ELEMENTS { rows.max(1) } else { rows.div_ceil(2 * count()).max(1) }
}
