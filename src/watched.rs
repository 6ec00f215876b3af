//! `tonfall train --watch`: the dashboard, and the trainer in a process of its own.
//!
//! Responsible for: signals and time for the dashboard, and starting the trainer so that the dashboard can't affect it: it
//! has its own process group, and writing to a closed pipe does not end it.
//! Must not depend on: what is drawn, training.

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

/// The last lines of the trainer's output; they are printed if it fails.
const LINES: usize = 200;
/// How long a dashboard may take to end after its terminal was closed.
const FAREWELL: Duration = Duration::from_secs(2);
/// How long a trainer may take to end after its last event.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Time and signals.
pub(crate) struct Person {
    since: Instant,
    leave: Arc<AtomicBool>,
}

impl Person {
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

impl Host for Person {
    fn now(&self) -> f64 {
        self.since.elapsed().as_secs_f64()
    }

    fn should_leave(&self) -> bool {
        self.leave.load(Ordering::Relaxed)
    }
}

/// Trains in another process and shows the run. Returns the trainer's exit code when it has ended by the time the
/// dashboard is left.
pub(crate) fn train(args: &Train, global: &Global) -> Result<i32> {
    look::need_terminal("without --watch training needs no terminal")?;
    // Faults of the recipe are printed before the dashboard opens and would hide them.
    let (_, plan) = quickstart::plan(&args.recipe)?;
    let id = args.run_name.clone().unwrap_or_else(|| RunDir::free_id(&plan));
    let path = plan.output_dir.join(&id);
    let look = LookArgs { background: Background::Auto, symbols: SymbolSet::Auto };
    let look = look::of_terminal(&look, global);
    let what = What { runs: vec![path.clone()], directory: Some(plan.output_dir.clone()), look };
    let person = Person::new()?;
    let trainer = Trainer::start(args, &id)?;
    let host = Attended { person, trainer: Mutex::new(trainer), path: path.clone() };
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

/// The dashboard's view of a run that was just started.
struct Attended {
    person: Person,
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
        self.person.now()
    }

    /// Also when the trainer failed before it made a run.
    fn should_leave(&self) -> bool {
        let gone =
            || !self.path.join("run.json").exists() && self.trainer(|trainer| trainer.code().is_some()) == Some(true);
        self.person.should_leave() || gone()
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
            // Before a `--`: after it nothing is an option.
            let end = arguments.iter().position(|argument| argument == "--").unwrap_or(arguments.len());
            arguments.splice(end..end, ["--run-name".into(), id.into()]);
        }
        let mut command = Command::new(std::env::current_exe()?);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Ctrl-C and SIGHUP go to the foreground group, which is the dashboard's.
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
                // Text before a read error is still printed.
                let _ = stdout.read_to_string(&mut text);
                text
            })
        });
        Ok(Self { child, lines, result, talk })
    }

    /// The exit code, once the process has ended; that of the shell for signals.
    fn code(&mut self) -> Option<i32> {
        let status = self.child.try_wait().ok().flatten()?;
        #[cfg(unix)]
        let signal = std::os::unix::process::ExitStatusExt::signal(&status);
        #[cfg(not(unix))]
        let signal: Option<i32> = None;
        Some(status.code().or(signal.map(signals::exit_code)).unwrap_or(ExitCode::Unexpected.number()))
    }

    /// The exit code. A trainer that made no run gets [`LAST_WORDS`] to end.
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
            // A thread that panicked has no lines.
            let _ = talk.join();
        }
        let result = self.result.take().and_then(|result| result.join().ok()).unwrap_or_default();
        if code != ExitCode::Done.number()
            && let Ok(lines) = self.lines.lock()
        {
            // The trainer has escaped its output, and coloured it if asked to.
            lines.iter().for_each(|line| output::painted_note(line));
        }
        if !result.trim().is_empty() {
            output::painted(result.trim_end())?;
        }
        Ok(())
    }
}
