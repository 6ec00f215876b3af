//! `tonfall train --watch`: the dashboard, and the trainer in another process.
//!
//! Responsible for: signals and clock of the dashboard, and starting the trainer so that the dashboard can't affect it.
//! The trainer has its own process group, and writing to a closed pipe does not end it.
//! Must not depend on: drawing, training.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::{flag, low_level};
use tonfall_runs::RunDir;
use tonfall_tui::{Host, Watch as What};

use crate::args::{Background, Global, LookArgs, SymbolSet, Train};
use crate::diagnostics::{ExitCode, Result};
use crate::look;
use crate::output;
use crate::quickstart;
use crate::signals;
use crate::summary;

/// Maximum number of stored lines of the trainer's output. They are printed if the trainer fails.
const LINES: usize = 200;
/// Time that the dashboard may take to end after its terminal was closed.
const FAREWELL: Duration = Duration::from_secs(2);
/// Time that the trainer may take to end after its last event.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Signals and clock.
pub(crate) struct SignalHost {
    since: Instant,
    leave: Arc<AtomicBool>,
}

impl SignalHost {
    pub(crate) fn new() -> Result<Self> {
        let leave = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            flag::register(signal, Arc::clone(&leave))?;
        }
        // Reading keys from a closed terminal may block forever.
        let mut hang_ups = Signals::new([SIGHUP])?;
        thread::spawn(move || {
            if hang_ups.forever().next().is_some() {
                thread::sleep(FAREWELL);
                low_level::exit(signals::exit_code(SIGHUP));
            }
        });
        Ok(Self { since: Instant::now(), leave })
    }
}

impl Host for SignalHost {
    fn now(&self) -> f64 {
        self.since.elapsed().as_secs_f64()
    }

    fn should_leave(&self) -> bool {
        self.leave.load(Ordering::Relaxed)
    }
}

/// Trains in another process and shows the run. If the trainer has ended before the dashboard is closed, returns its
/// exit code.
pub(crate) fn train(args: &Train, global: &Global) -> Result<i32> {
    look::need_terminal("without --watch training needs no terminal")?;
    // Faults of the recipe are printed before the dashboard opens, because it would hide them.
    let (_, plan) = quickstart::plan(&args.recipe)?;
    let id = args.run_name.clone().unwrap_or_else(|| RunDir::free_id(&plan));
    let path = plan.output_dir.join(&id);
    let look = LookArgs { background: Background::Auto, symbols: SymbolSet::Auto };
    let look = look::of_terminal(&look, global);
    let what = What { runs: vec![path.clone()], directory: Some(plan.output_dir.clone()), look };
    let signals = SignalHost::new()?;
    let trainer = Trainer::start(args, &id)?;
    let host = Attended { signals, trainer: Mutex::new(trainer), path: path.clone() };
    let shown = tonfall_tui::watch(&what, &host);
    let mut trainer = host.trainer.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    let ended = trainer.ended(path.join("run.json").exists());
    match ended {
        Some(code) => trainer.report(code)?,
        None => output::note(&format!(
            "the run continues\nhint: `tonfall watch {}` opens the dashboard again",
            summary::in_shell(&path)
        )),
    }
    shown?;
    Ok(ended.unwrap_or(ExitCode::Done.number()))
}

/// A run that was just started, as the dashboard sees it.
struct Attended {
    signals: SignalHost,
    trainer: Mutex<Trainer>,
    path: PathBuf,
}

impl Attended {
    fn trainer<T>(&self, ask: impl FnOnce(&mut Trainer) -> T) -> Option<T> {
        self.trainer.lock().ok().map(|mut trainer| ask(&mut trainer))
    }
}

impl Host for Attended {
    fn now(&self) -> f64 {
        self.signals.now()
    }

    /// Also true if the trainer failed before it created a run.
    fn should_leave(&self) -> bool {
        let gone =
            || !self.path.join("run.json").exists() && self.trainer(|trainer| trainer.code().is_some()) == Some(true);
        self.signals.should_leave() || gone()
    }

    /// The trainer's last line, until the run has an event log.
    fn news(&self) -> Option<String> {
        let waiting = !self.path.join("events.jsonl").exists();
        waiting.then(|| self.trainer(|trainer| trainer.lines.lock().ok()?.back().cloned()).flatten()).flatten()
    }
}

/// The trainer's process.
struct Trainer {
    child: Child,
    /// The last lines of its stderr.
    lines: Arc<Mutex<VecDeque<String>>>,
    /// Its stdout, complete once it is closed.
    result: Option<thread::JoinHandle<String>>,
    talk: Option<thread::JoinHandle<()>>,
}

impl Trainer {
    fn start(args: &Train, id: &str) -> Result<Self> {
        let mut arguments: Vec<OsString> =
            std::env::args_os().skip(1).filter(|argument| argument != "--watch").collect();
        if args.run_name.is_none() {
            // Options go before a `--`: everything after it is an argument.
            let end = arguments.iter().position(|argument| argument == "--").unwrap_or(arguments.len());
            arguments.splice(end..end, ["--run-name".into(), id.into()]);
        }
        let mut command = Command::new(std::env::current_exe()?);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // The terminal sends Ctrl-C and SIGHUP to the foreground group, which is the dashboard's.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn()?;
        let lines = Arc::new(Mutex::new(VecDeque::new()));
        let talk = child.stderr.take().map(|stderr| {
            let lines = Arc::clone(&lines);
            thread::spawn(move || {
                for line in BufReader::new(stderr).lines().map_while(std::result::Result::ok) {
                    let Ok(mut lines) = lines.lock() else { return };
                    lines.push_back(line);
                    if lines.len() > LINES {
                        lines.pop_front();
                    }
                }
            })
        });
        let result = child.stdout.take().map(|mut stdout| {
            thread::spawn(move || {
                let mut text = String::new();
                // Text that was read before an error is still printed.
                let _ = stdout.read_to_string(&mut text);
                text
            })
        });
        Ok(Self { child, lines, result, talk })
    }

    /// The exit code, once the process has ended; after a signal, the shell's exit code.
    fn code(&mut self) -> Option<i32> {
        let status = self.child.try_wait().ok().flatten()?;
        #[cfg(unix)]
        let signal = std::os::unix::process::ExitStatusExt::signal(&status);
        #[cfg(not(unix))]
        let signal: Option<i32> = None;
        Some(status.code().or(signal.map(signals::exit_code)).unwrap_or(ExitCode::Unexpected.number()))
    }

    /// The exit code. A trainer without a run gets [`LAST_WORDS`] to end.
    fn ended(&mut self, has_run: bool) -> Option<i32> {
        let deadline = Instant::now() + if has_run { Duration::ZERO } else { LAST_WORDS };
        loop {
            match self.code() {
                None if Instant::now() < deadline => thread::sleep(Duration::from_millis(20)),
                code => return code,
            }
        }
    }

    /// Prints the trainer's result, and its messages if it failed.
    fn report(&mut self, code: i32) -> Result<()> {
        if let Some(talk) = self.talk.take() {
            // The lines of a thread that panicked are lost.
            let _ = talk.join();
        }
        let result = self.result.take().and_then(|result| result.join().ok()).unwrap_or_default();
        if code != ExitCode::Done.number()
            && let Ok(lines) = self.lines.lock()
        {
            // The trainer has escaped its output, and coloured it if colours were requested.
            lines.iter().for_each(|line| output::painted_note(line));
        }
        if !result.trim().is_empty() {
            output::painted(result.trim_end())?;
        }
        Ok(())
    }
}
