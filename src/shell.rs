//! Commands of users, such as hooks and notifications.
//!
//! Responsible for: running `sh -c` with a time limit, and returning what the command printed.
//! Must not depend on: what the command is for.

use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes of the output that are kept, from the end of the output on.
const KEPT: usize = 16 << 10;
/// A command may leave a process in the background that holds its output open. So the program waits only this long for the output.
const OUTPUT: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(20);

/// A command.
pub(crate) struct Shell<'a> {
    pub(crate) command: &'a str,
    /// Added to the environment of this process.
    pub(crate) environment: Vec<(&'static str, String)>,
    pub(crate) stdin: String,
    pub(crate) limit: Duration,
}

/// What the command printed on stdout and stderr.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Printed(pub(crate) Vec<String>);

impl Shell<'_> {
    /// Runs the command.
    ///
    /// # Errors
    /// A text if the command can't be started, does not exit with 0, or takes too long; it is killed in that case.
    pub(crate) fn run(self) -> Result<Printed, (String, Printed)> {
        let mut command = Command::new("sh");
        command.arg("-c").arg(self.command).envs(self.environment);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Its own process group, so that it can be killed with everything that it started.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn().map_err(|error| (format!("can't start sh: {error}"), Printed(Vec::new())))?;
        let (stdout, stderr) = (reading(child.stdout.take()), reading(child.stderr.take()));
        if let Some(mut stdin) = child.stdin.take() {
            let text = self.stdin;
            // A command that doesn't read its input is no error.
            thread::spawn(move || stdin.write_all(text.as_bytes()).ok());
        }
        let ended = wait(&mut child, self.limit);
        let mut lines = Vec::new();
        for output in [stdout, stderr] {
            let bytes = output.recv_timeout(OUTPUT).unwrap_or_default();
            let start = bytes.len().saturating_sub(KEPT);
            if start > 0 {
                lines.push(format!("[{start} bytes left out]"));
            }
            lines.extend(String::from_utf8_lossy(&bytes[start..]).lines().map(str::to_owned));
        }
        let printed = Printed(lines);
        match ended {
            Ok(status) if status.success() => Ok(printed),
            Ok(status) => Err((status.to_string(), printed)),
            Err(why) => Err((why, printed)),
        }
    }
}

fn reading(pipe: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    if let Some(mut pipe) = pipe {
        thread::spawn(move || {
            let (mut last, mut buffer) = (Vec::new(), [0; 8192]);
            while let Ok(read @ 1..) = pipe.read(&mut buffer) {
                last.extend_from_slice(&buffer[..read]);
                // Endless output must not fill the memory.
                if last.len() > 64 * KEPT {
                    last.drain(..last.len() - KEPT);
                }
            }
            sender.send(last).ok();
        });
    }
    receiver
}

fn wait(child: &mut Child, limit: Duration) -> Result<ExitStatus, String> {
    let deadline = Instant::now() + limit;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Ok(None) if Instant::now() < deadline => thread::sleep(PAUSE),
            Ok(None) => {
                let group = format!("-{}", child.id());
                Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status().ok();
                child.kill().and_then(|()| child.wait()).ok();
                return Err(format!("not finished within {} s", limit.as_secs()));
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn run(command: &str, limit: Duration) -> Result<Printed, (String, Printed)> {
        let environment = vec![("TONFALL_NAME", "style".to_owned())];
        Shell { command, environment, stdin: "in\n".to_owned(), limit }.run()
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn commands_get_environment_and_input() {
        let printed = run("echo $TONFALL_NAME; cat; echo err >&2", LONG).expect("it exits with 0");
        assert_eq!(printed.0, ["style", "in", "err"]);
        let (why, printed) = run("echo no; exit 3", LONG).expect_err("it fails");
        assert!(why.contains('3') && printed.0 == ["no"], "{why}");
        let long = run("yes | head -c 100000", LONG).expect("it exits with 0");
        assert_eq!(long.0[0], "[83616 bytes left out]");
    }

    #[test]
    fn a_command_that_takes_too_long_is_killed_with_its_children() {
        let dir = tempfile::tempdir().expect("a directory");
        let mark = dir.path().join("mark");
        let command = format!("echo first; (sleep 2; touch {}) & wait", mark.display());
        let (why, printed) = run(&command, Duration::from_millis(500)).expect_err("too long");
        assert_eq!((why.as_str(), printed.0), ("not finished within 0 s", vec!["first".to_owned()]));
        thread::sleep(Duration::from_secs(3));
        assert!(!mark.exists());
        // A process in the background doesn't delay the command.
        let start = Instant::now();
        run("sleep 30 & echo done", LONG).expect("it exits with 0");
        assert!(start.elapsed() < Duration::from_secs(20));
    }
}
