//! Servers of every kind and with every fault, played by a small server on the loopback interface.
#![expect(clippy::unwrap_used, reason = "a test panics on purpose")]

mod fake;
mod faults;
mod kinds;
mod real;
mod recorded;
mod switching;
