//! Threads that share loops, and look out for the next one awake.
//!
//! Responsible for: handing the indices of a loop to all threads within a microsecond. A training step is thousands of short
//! loops with some work of one thread between them; threads that sleep in between spend a good part of it on being woken.
//! Must not depend on: what a loop computes.
#![expect(unsafe_code, reason = "threads borrow the task of the one that waits for them")]

use std::any::Any;
use std::cell::UnsafeCell;
use std::hint::spin_loop;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// How long a thread looks out for the next loop before it sleeps: longer than what lies between two loops of a step.
const LOOK_OUT: Duration = Duration::from_micros(200);
/// Looks before others may have the processor.
const LOOKS: usize = 256;

/// Parts of [`SpinPool::gate`]: how many helpers are at the loop, whether more may come, and the loop's number.
const INSIDE: usize = OPEN - 1;
const OPEN: usize = 1 << 16;
const NUMBER: usize = OPEN << 1;

type Task<'a> = &'a (dyn Fn(usize) + Sync);

/// Threads that work on one loop at a time: the one whose loop it is, which leads, and helpers.
pub(super) struct SpinPool {
    /// Held by the leader.
    lead: Mutex<()>,
    gate: AtomicUsize,
    /// The task and how many indices it has. Written by the leader while the gate is shut and nobody inside, read by those
    /// inside.
    current: UnsafeCell<(Task<'static>, usize)>,
    /// The next index to be taken.
    next: AtomicUsize,
    /// What a task panicked with.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    helpers: OnceLock<Vec<Helper>>,
}

struct Helper {
    thread: Thread,
    asleep: Arc<AtomicBool>,
}

// SAFETY: `current` is read and written as is said there.
unsafe impl Sync for SpinPool {}

impl SpinPool {
    pub(super) const fn new() -> Self {
        Self {
            lead: Mutex::new(()),
            gate: AtomicUsize::new(0),
            current: UnsafeCell::new((&|_| (), 0)),
            next: AtomicUsize::new(0),
            panic: Mutex::new(None),
            helpers: OnceLock::new(),
        }
    }

    /// Calls `task` for every index below `tasks`, on this thread and up to `helpers` others; on this one alone when the team
    /// has a loop already. The number of helpers is that of the first call. A task that panics ends the loop, and the panic
    /// goes on here.
    pub(super) fn each(&'static self, helpers: usize, tasks: usize, task: Task<'_>) {
        let Ok(leading) = self.lead.try_lock() else { return (0..tasks).for_each(task) };
        let helpers = self.helpers.get_or_init(|| (0..helpers).filter_map(|_| self.hire().ok()).collect());
        // SAFETY: nobody reads it now, and nobody does once this function returns: it shuts the gate and waits for those inside.
        unsafe { *self.current.get() = (std::mem::transmute::<Task<'_>, Task<'static>>(task), tasks) };
        self.next.store(0, Relaxed);
        let number = self.gate.load(Relaxed) / NUMBER + 1;
        self.gate.store((number * NUMBER) | OPEN, SeqCst);
        for helper in helpers.iter().take(tasks.saturating_sub(1)).filter(|helper| helper.asleep.load(SeqCst)) {
            helper.thread.unpark();
        }
        self.work(task, tasks);
        self.gate.fetch_and(!OPEN, AcqRel);
        while look(|| (self.gate.load(Acquire) & INSIDE == 0).then_some(())).is_none() {}
        let panic = self.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(leading);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// Takes indices until there are no more.
    fn work(&self, task: Task<'_>, tasks: usize) {
        let indices = || std::iter::repeat_with(|| self.next.fetch_add(1, Relaxed)).take_while(|index| *index < tasks);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| indices().for_each(task))) {
            self.next.store(tasks, Relaxed);
            *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
        }
    }

    /// A helper; one that the system has no thread for is done without.
    fn hire(&'static self) -> io::Result<Helper> {
        let asleep = Arc::new(AtomicBool::new(false));
        let own = asleep.clone();
        let helping = thread::Builder::new().name("kernels".to_owned()).spawn(move || self.help(&own))?;
        Ok(Helper { thread: helping.thread().clone(), asleep })
    }

    fn help(&self, asleep: &AtomicBool) {
        let mut last = 0;
        loop {
            let gate = self.wait(last, asleep);
            if self.gate.compare_exchange(gate, gate + 1, AcqRel, Relaxed).is_ok() {
                last = gate / NUMBER;
                // SAFETY: this thread is inside.
                let (task, tasks) = unsafe { *self.current.get() };
                self.work(task, tasks);
                self.gate.fetch_sub(1, Release);
            }
        }
    }

    /// Waits for a loop after the `last` one that can be joined; returns the gate as it was then.
    fn wait(&self, last: usize, asleep: &AtomicBool) -> usize {
        let open = || Some(self.gate.load(SeqCst)).filter(|gate| gate & OPEN != 0 && gate / NUMBER != last);
        loop {
            let begun = Instant::now();
            while begun.elapsed() < LOOK_OUT {
                if let Some(gate) = look(open) {
                    return gate;
                }
            }
            asleep.store(true, SeqCst);
            if open().is_none() {
                thread::park();
            }
            asleep.store(false, SeqCst);
        }
    }
}

/// Looks for something for a while, then lets others have the processor.
fn look<T>(found: impl Fn() -> Option<T>) -> Option<T> {
    for _ in 0..LOOKS {
        let found = found();
        if found.is_some() {
            return found;
        }
        spin_loop();
    }
    thread::yield_now();
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    static POOL: SpinPool = SpinPool::new();

    /// How often each index was called.
    fn calls(tasks: usize) -> Vec<u64> {
        let calls: Vec<AtomicU64> = (0..tasks).map(|_| AtomicU64::new(0)).collect();
        POOL.each(3, tasks, &|index| {
            calls[index].fetch_add(1, Relaxed);
        });
        calls.into_iter().map(AtomicU64::into_inner).collect()
    }

    #[test]
    fn every_index_is_called_once_also_by_threads_that_slept() {
        for round in 0..2_000 {
            assert!(calls(2 + round % 7).iter().all(|calls| *calls == 1));
            if round % 100 == 0 {
                thread::sleep(2 * LOOK_OUT);
            }
        }
    }

    #[test]
    fn others_lead_meanwhile_and_loops_lie_within_loops() {
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        POOL.each(3, 5, &|_| assert_eq!(calls(3), [1, 1, 1]));
                    }
                });
            }
        });
    }

    #[test]
    fn a_panic_goes_on_where_the_loop_was_begun_and_the_next_loop_runs() {
        for culprit in 0..8 {
            let panicked = catch_unwind(|| POOL.each(3, 8, &|index| assert_ne!(index, culprit, "the culprit")));
            let text = panicked.expect_err("a panic").downcast::<String>().expect("a text");
            assert!(text.contains("the culprit"));
            assert_eq!(calls(8), [1; 8]);
        }
    }
}
