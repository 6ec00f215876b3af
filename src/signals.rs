//! Signals while a run is training.
//!
//! Responsible for: turning SIGINT, SIGTERM and SIGHUP into a request to stop after the optimizer step, and for exiting
//! immediately on a second SIGINT or after the grace period.
//! Must not depend on: the trainer, which polls [`Signals::received`].

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator;
use signal_hook::low_level;

use crate::output;

/// The first signal that arrived since [`Signals::install`].
pub(crate) struct Signals {
    received: Arc<AtomicI32>,
}

impl Signals {
    /// Starts to handle signals. The first signal is stored. A later SIGINT ends the process immediately. After SIGTERM
    /// or SIGHUP the process ends when `grace` is over, because a supervisor sends SIGKILL next.
    pub(crate) fn install(grace: Duration) -> io::Result<Self> {
        let received = Arc::new(AtomicI32::new(0));
        let mark = Arc::clone(&received);
        let mut signals = iterator::Signals::new([SIGINT, SIGTERM, SIGHUP])?;
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            let mut deadline_set = false;
            for signal in signals.forever() {
                let first = mark.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst).is_ok();
                if !first && signal == SIGINT {
                    output::note("exiting now; the last checkpoint is still valid");
                    low_level::exit(exit_code(signal));
                }
                if first {
                    output::note(announcement(signal, grace).as_str());
                }
                if signal != SIGINT && !deadline_set {
                    deadline_set = true;
                    thread::spawn(move || {
                        thread::sleep(grace);
                        output::note("exiting: the time of --grace is over; the last checkpoint is still valid");
                        low_level::exit(exit_code(signal));
                    });
                }
            }
        })?;
        Ok(Self { received })
    }

    /// For work that polls between its pieces and removes its output when it stops. The first signal is stored. A
    /// second one ends the process immediately.
    pub(crate) fn stop_early() -> io::Result<Self> {
        let received = Arc::new(AtomicI32::new(0));
        let mark = Arc::clone(&received);
        let mut signals = iterator::Signals::new([SIGINT, SIGTERM, SIGHUP])?;
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for signal in signals.forever() {
                if mark.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst).is_err() {
                    low_level::exit(exit_code(signal));
                }
            }
        })?;
        Ok(Self { received })
    }

    /// The number of the first signal, if there was one.
    pub(crate) fn received(&self) -> Option<i32> {
        Some(self.received.load(Ordering::SeqCst)).filter(|signal| *signal != 0)
    }
}

/// The shell's exit code for a process that was ended by a signal.
pub(crate) fn exit_code(signal: i32) -> i32 {
    128 + signal
}

fn announcement(signal: i32, grace: Duration) -> String {
    match signal {
        SIGINT => "finishing this step and saving a checkpoint; press Ctrl-C again to exit at once".to_owned(),
        _ => format!("finishing this step and saving a checkpoint, within {} s", grace.as_secs()),
    }
}
