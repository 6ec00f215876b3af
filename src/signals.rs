//! Signals while a run is training.
//!
//! Responsible for: turning SIGINT, SIGTERM and SIGHUP into a request to stop after the optimizer step, and for leaving
//! at once when that is asked for or takes too long.
//! Must not depend on: the trainer; it only asks [`Signals::received`].

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
    /// Listens from now on. The first signal only sets a mark; a SIGINT after it leaves at once; after a SIGTERM or
    /// SIGHUP the process leaves when `grace` is over, since whoever sent it kills soon.
    pub(crate) fn install(grace: Duration) -> io::Result<Self> {
        let received = Arc::new(AtomicI32::new(0));
        let mark = Arc::clone(&received);
        let mut signals = iterator::Signals::new([SIGINT, SIGTERM, SIGHUP])?;
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            let mut deadline_set = false;
            for signal in signals.forever() {
                let first = mark.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst).is_ok();
                if !first && signal == SIGINT {
                    output::note("stopping now; the last checkpoint stays valid");
                    low_level::exit(exit_code(signal));
                }
                if first {
                    output::note(announcement(signal, grace).as_str());
                }
                if signal != SIGINT && !deadline_set {
                    deadline_set = true;
                    thread::spawn(move || {
                        thread::sleep(grace);
                        output::note("the time of --grace is over; the last checkpoint stays valid");
                        low_level::exit(exit_code(signal));
                    });
                }
            }
        })?;
        Ok(Self { received })
    }

    /// The number of the first signal, if one has arrived.
    pub(crate) fn received(&self) -> Option<i32> {
        Some(self.received.load(Ordering::SeqCst)).filter(|signal| *signal != 0)
    }
}

/// The shell's convention for a process that a signal ended.
pub(crate) fn exit_code(signal: i32) -> i32 {
    128 + signal
}

fn announcement(signal: i32, grace: Duration) -> String {
    match signal {
        SIGINT => "finishing this step, then saving; press Ctrl-C again to leave at once".to_owned(),
        _ => format!("finishing this step, then saving, within {} s", grace.as_secs()),
    }
}
