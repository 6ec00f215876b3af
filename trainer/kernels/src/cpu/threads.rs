//! Work spread over threads.
//!
//! Responsible for: how much work is worth a second thread. Tasks write to disjoint places and every value is computed
//! by one task in one order, so results don't depend on the number of threads.

use super::spin_pool::SpinPool;

/// Elements below which a loop over them stays on the calling thread: waking another one costs some microseconds.
const SERIAL_ELEMENTS: usize = 16 * 1024;

/// Number of threads that [`each`] spreads over: as many as rayon has, `RAYON_NUM_THREADS` where that is set.
pub(crate) fn count() -> usize {
    rayon::current_num_threads()
}

/// Calls `task` for every index below `tasks`, on any threads, in any order.
pub(crate) fn each(tasks: usize, task: impl Fn(usize) + Sync) {
    static POOL: SpinPool = SpinPool::new();
    match count() - 1 {
        helpers if helpers > 0 && tasks > 1 => POOL.each(helpers, tasks, &task),
        _ => (0..tasks).for_each(task),
    }
}

/// Rows in a piece when `rows` rows of `row_len` elements are spread over the threads: about two pieces a thread, one
/// piece alone when the whole is small.
pub(crate) fn rows_per_piece(rows: usize, row_len: usize) -> usize {
    if rows * row_len < SERIAL_ELEMENTS { rows.max(1) } else { rows.div_ceil(2 * count()).max(1) }
}
