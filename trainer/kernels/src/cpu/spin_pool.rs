//! A thread pool whose workers spin briefly before they sleep.
//!
//! Responsible for: dispatching the indices of a loop to all threads within a microsecond. A training step consists of thousands
//! of short loops with single-threaded work between them. Waking sleeping threads would take a large part of that time.
//! Must not depend on: what a loop computes.
#![expect(unsafe_code, reason = "workers borrow the task of the thread that waits for them")]

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

/// How long a worker spins before it sleeps. It is longer than the time between two loops of a training step.
const SPIN_TIME: Duration = Duration::from_micros(200);
/// Checks of a condition before the thread yields the processor.
const SPINS_PER_YIELD: usize = 256;

/// Bits of [`SpinPool::gate`]: the number of workers in the loop, whether more may join, and the loop's number.
const INSIDE: usize = OPEN - 1;
const OPEN: usize = 1 << 16;
const NUMBER: usize = OPEN << 1;

type Task<'a> = &'a (dyn Fn(usize) + Sync);

/// Runs one loop at a time, on the calling thread (the owner of the loop) and on workers.
pub(super) struct SpinPool {
    /// Locked by the owner of the current loop.
    owner: Mutex<()>,
    gate: AtomicUsize,
    /// The task and its number of indices. The owner writes it while the gate is closed and no worker is inside. Workers inside
    /// read it.
    current: UnsafeCell<(Task<'static>, usize)>,
    /// The next index to run.
    next: AtomicUsize,
    /// The payload of a task's panic.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    workers: OnceLock<Vec<Worker>>,
}

struct Worker {
    thread: Thread,
    asleep: Arc<AtomicBool>,
}

// SAFETY: `current` is never read and written at the same time, as its comment explains.
unsafe impl Sync for SpinPool {}

impl SpinPool {
    pub(super) const fn new() -> Self {
        Self {
            owner: Mutex::new(()),
            gate: AtomicUsize::new(0),
            current: UnsafeCell::new((&|_| (), 0)),
            next: AtomicUsize::new(0),
            panic: Mutex::new(None),
            workers: OnceLock::new(),
        }
    }

    /// Calls `task` for every index below `tasks`, on this thread and up to `workers` others. If the pool is running another loop,
    /// this thread runs all tasks. The first call sets the number of workers. A panic in a task ends the loop and is resumed on
    /// this thread.
    pub(super) fn each(&'static self, workers: usize, tasks: usize, task: Task<'_>) {
        let Ok(owned) = self.owner.try_lock() else { return (0..tasks).for_each(task) };
        let workers = self.workers.get_or_init(|| (0..workers).filter_map(|_| self.spawn_worker().ok()).collect());
        // SAFETY: no worker is inside, so none reads it. Before this function returns, it closes the gate and waits until all
        // workers have left, so the task outlives its use.
        unsafe { *self.current.get() = (std::mem::transmute::<Task<'_>, Task<'static>>(task), tasks) };
        self.next.store(0, Relaxed);
        let number = self.gate.load(Relaxed) / NUMBER + 1;
        self.gate.store((number * NUMBER) | OPEN, SeqCst);
        for worker in workers.iter().take(tasks.saturating_sub(1)).filter(|worker| worker.asleep.load(SeqCst)) {
            worker.thread.unpark();
        }
        self.work(task, tasks);
        self.gate.fetch_and(!OPEN, AcqRel);
        while spin(|| (self.gate.load(Acquire) & INSIDE == 0).then_some(())).is_none() {}
        let panic = self.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(owned);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// Runs indices until there are no more.
    fn work(&self, task: Task<'_>, tasks: usize) {
        let indices = || std::iter::repeat_with(|| self.next.fetch_add(1, Relaxed)).take_while(|index| *index < tasks);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| indices().for_each(task))) {
            self.next.store(tasks, Relaxed);
            *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
        }
    }

    /// Spawns a worker. If the operating system refuses the thread, the pool has one worker less.
    fn spawn_worker(&'static self) -> io::Result<Worker> {
        let asleep = Arc::new(AtomicBool::new(false));
        let own = asleep.clone();
        let spawned = thread::Builder::new().name("kernels".to_owned()).spawn(move || self.run(&own))?;
        Ok(Worker { thread: spawned.thread().clone(), asleep })
    }

    fn run(&self, asleep: &AtomicBool) {
        let mut last = 0;
        loop {
            let gate = self.wait(last, asleep);
            if self.gate.compare_exchange(gate, gate + 1, AcqRel, Relaxed).is_ok() {
                last = gate / NUMBER;
                // SAFETY: this worker is inside, so the owner doesn't write.
                let (task, tasks) = unsafe { *self.current.get() };
                self.work(task, tasks);
                self.gate.fetch_sub(1, Release);
            }
        }
    }

    /// Waits for an open loop other than `last`. Returns the value of the gate.
    fn wait(&self, last: usize, asleep: &AtomicBool) -> usize {
        let open = || Some(self.gate.load(SeqCst)).filter(|gate| gate & OPEN != 0 && gate / NUMBER != last);
        loop {
            let begun = Instant::now();
            while begun.elapsed() < SPIN_TIME {
                if let Some(gate) = spin(open) {
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

/// Polls a condition up to [`SPINS_PER_YIELD`] times, then yields the processor.
fn spin<T>(found: impl Fn() -> Option<T>) -> Option<T> {
    for _ in 0..SPINS_PER_YIELD {
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
    fn every_index_runs_once_with_spinning_and_sleeping_workers() {
        for round in 0..2_000 {
            assert!(calls(2 + round % 7).iter().all(|calls| *calls == 1));
            if round % 100 == 0 {
                thread::sleep(2 * SPIN_TIME);
            }
        }
    }

    #[test]
    fn concurrent_and_nested_loops_run_every_index() {
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
    fn a_panic_resumes_on_the_calling_thread_and_the_next_loop_runs() {
        for culprit in 0..8 {
            let panicked = catch_unwind(|| POOL.each(3, 8, &|index| assert_ne!(index, culprit, "the culprit")));
            let text = panicked.expect_err("a panic").downcast::<String>().expect("a text");
            assert!(text.contains("the culprit"));
            assert_eq!(calls(8), [1; 8]);
        }
    }
}
