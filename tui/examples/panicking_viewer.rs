//! `panicking_viewer RUN`: a dashboard whose clock panics after one second. The terminal test checks that the terminal
//! is restored.

use std::cell::Cell;
use std::env;
use std::path::PathBuf;

use tonfall_tui::{Environment, Host, Look, Watch, watch};

#[derive(Default)]
struct Broken {
    asked: Cell<u32>,
}

impl Host for Broken {
    fn now(&self) -> f64 {
        self.asked.set(self.asked.get() + 1);
        assert!(self.asked.get() < 5, "the clock is broken");
        0.0
    }
}

fn main() {
    let look = Look::detect(&Environment::of_process());
    let what = Watch { runs: env::args_os().skip(1).map(PathBuf::from).collect(), directory: None, look };
    if let Err(error) = watch(&what, &Broken::default()) {
        panic!("{error}");
    }
}
