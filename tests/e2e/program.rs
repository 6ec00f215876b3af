//! Runs the binary in a clean environment.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The binary with a clean environment: no colours, no Hub, no home directory.
pub(crate) fn tonfall(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tonfall"));
    command.env_clear().env("HOME", home).env("TERM", "dumb").env("HF_HUB_OFFLINE", "1").current_dir(home);
    command.stdin(Stdio::null());
    command
}

/// Exit code and output of a finished program.
pub(crate) struct Finished {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Finished {
    /// Returns the result if the exit code is `code`, otherwise panics with the whole output.
    pub(crate) fn expect(self, code: i32) -> Self {
        let Self { code: found, stdout, stderr } = &self;
        assert_eq!(*found, code, "exit code\n--- stdout\n{stdout}\n--- stderr\n{stderr}");
        self
    }
}

impl From<Output> for Finished {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Runs the binary in `home` to its end.
pub(crate) fn run(home: &Path, args: &[&str]) -> Finished {
    tonfall(home).args(args).output().unwrap().into()
}

/// Waits until `done` returns true, for at most a minute.
pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(60), "waited a minute for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
