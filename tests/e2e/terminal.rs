//! The dashboard on a real terminal (tmux).
//!
//! `.ci/run terminal` runs these tests. For `cargo test` they are ignored, because not every machine has tmux.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

use crate::program::{run, tonfall, wait_until};
use crate::tiny_model::Workshop;

/// A tmux session with a shell.
struct Tmux {
    socket: String,
    home: PathBuf,
}

impl Tmux {
    fn new(home: &Path, environment: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let socket = format!("tonfall-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let tmux = Self { socket, home: home.to_owned() };
        let shell = format!(
            "cd '{}' && exec env -i HOME=. PATH=/usr/bin:/bin TERM=tmux-256color LANG=C.UTF-8 HF_HUB_OFFLINE=1 \
             tonfall='{}' {environment} PS1='ready> ' sh",
            home.display(),
            env!("CARGO_BIN_EXE_tonfall"),
        );
        tmux.command(&["new-session", "-d", "-x", "80", "-y", "24", &shell]);
        tmux.waits_for("ready>");
        tmux
    }

    fn command(&self, args: &[&str]) -> String {
        let output = Command::new("tmux").args(["-L", &self.socket, "-f", "/dev/null"]).args(args).output();
        let output = output.expect("tmux is needed: apt-get install tmux");
        assert!(output.status.success(), "tmux {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn types(&self, text: &str) {
        self.command(&["send-keys", "-l", text]);
    }

    fn enters(&self, line: &str) {
        self.types(line);
        self.command(&["send-keys", "Enter"]);
    }

    fn screen(&self) -> String {
        self.command(&["capture-pane", "-p"])
    }

    fn waits_for(&self, text: &str) -> String {
        wait_until(&format!("{text:?} on the terminal"), || self.screen().contains(text));
        self.screen()
    }

    fn resize(&self, width: u16, height: u16) {
        self.command(&["resize-window", "-x", &width.to_string(), "-y", &height.to_string()]);
    }

    /// The terminal is restored for the shell: its screen, its settings, its cursor.
    fn is_restored(&self, settings: &str) {
        assert_eq!(self.settings(), settings);
        let state = self.command(&["display-message", "-p", "#{alternate_on} #{cursor_flag} #{mouse_any_flag}"]);
        assert_eq!(state.trim(), "0 1 0", "no alternate screen, a cursor, no mouse");
    }

    /// The output of `stty`.
    fn settings(&self) -> String {
        let file = self.home.join("settings");
        self.enters("stty -g > settings.new; clear; mv settings.new settings");
        wait_until("the settings", || file.exists());
        let settings = fs::read_to_string(&file).unwrap();
        fs::remove_file(file).unwrap();
        settings
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        // The server may have ended already.
        let _ = Command::new("tmux").args(["-L", &self.socket, "kill-server"]).stderr(Stdio::null()).status();
    }
}

/// A terminal and its settings.
fn terminal(home: &Path) -> (Tmux, String) {
    let tmux = Tmux::new(home, "");
    let settings = tmux.settings();
    (tmux, settings)
}

/// A run that takes minutes. Dropping it kills it.
struct LongRun {
    workshop: Workshop,
    child: Child,
}

impl LongRun {
    fn start() -> Self {
        let workshop = long();
        let mut command = tonfall(workshop.home());
        command.args(["--progress", "none", "train", "recipe.toml", "--run-name", "long"]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let log = workshop.path("runs/long/events.jsonl");
        wait_until("a step", || fs::read_to_string(&log).is_ok_and(|text| text.contains(r#""kind":"step""#)));
        Self { workshop, child }
    }
}

impl Drop for LongRun {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn long() -> Workshop {
    let workshop = Workshop::new();
    workshop.edit("recipe.toml", "epochs = 1\n", "epochs = 5000\n");
    workshop.edit("recipe.toml", "save_every = 2", "save_every = 500");
    workshop
}

fn finished() -> Workshop {
    let workshop = Workshop::new();
    run(workshop.home(), &["--progress", "none", "train", "recipe.toml", "--run-name", "short"]).expect(0);
    workshop
}

/// The state of the only run.
fn state(home: &Path) -> Value {
    let listed = run(home, &["runs", "--json"]).expect(0).stdout;
    serde_json::from_str(listed.lines().next().unwrap()).unwrap()
}

#[test]
#[ignore = "needs tmux: `.ci/run terminal`"]
fn a_live_run_and_its_kill_are_shown() {
    let mut long = LongRun::start();
    let (tmux, settings) = terminal(long.workshop.home());
    tmux.enters("$tonfall watch long");
    // The last text of the frame: tmux may return a screen that is drawn in part.
    let first = tmux.waits_for("tok/s");
    assert!(first.contains("RUNNING") && first.contains("eta"), "{first}");
    let step = |screen: &str| screen.split("step ").nth(1).and_then(|rest| rest.split('/').next()?.parse::<u64>().ok());
    wait_until("later steps", || step(&tmux.screen()) > step(&first));
    long.child.kill().unwrap();
    let last = tmux.waits_for("killed, no end logged");
    assert!(last.contains("INTERRUPTED") && !last.contains("eta"), "{last}");
    tmux.types("q");
    tmux.waits_for("ready>");
    tmux.is_restored(&settings);
}

#[test]
#[ignore = "needs tmux: `.ci/run terminal`"]
fn a_finished_run_is_shown_in_any_size() {
    let workshop = finished();
    let (tmux, settings) = terminal(workshop.home());
    tmux.enters("$tonfall watch");
    tmux.waits_for("FINISHED");
    assert!(!tmux.screen().contains("learning rate"));
    tmux.resize(130, 45);
    tmux.waits_for("learning rate");
    tmux.resize(210, 50);
    tmux.waits_for("data and gate");
    tmux.resize(44, 5);
    wait_until("one line", || tmux.screen().trim_end().lines().count() == 1);
    tmux.resize(80, 24);
    tmux.waits_for("┌ now ");
    tmux.types("?");
    tmux.waits_for("leave; the run goes on");
    tmux.types("?");
    tmux.command(&["send-keys", "C-c"]);
    tmux.waits_for("ready>");
    tmux.is_restored(&settings);
}

#[test]
#[ignore = "needs tmux: `.ci/run terminal`"]
fn two_viewers_at_once_and_a_typed_stop() {
    let mut long = LongRun::start();
    let (one, _) = terminal(long.workshop.home());
    let (two, _) = terminal(long.workshop.home());
    for tmux in [&one, &two] {
        tmux.enters("$tonfall watch");
        tmux.waits_for("RUNNING");
    }
    one.types("q");
    one.waits_for("ready>");
    assert!(two.screen().contains("RUNNING"));
    two.types("X");
    two.waits_for("stop the run?");
    two.enters("sto");
    two.waits_for("was not asked to stop");
    assert!(long.child.try_wait().unwrap().is_none());
    two.types("X");
    two.waits_for("stop the run?");
    two.enters("stop");
    assert_eq!(long.child.wait().unwrap().code(), Some(130));
    two.waits_for("INTERRUPTED");
    assert_eq!(state(long.workshop.home())["state"], "interrupted");
}

#[test]
#[ignore = "needs tmux: `.ci/run terminal`"]
fn no_color_means_no_color() {
    let workshop = finished();
    let coloured = |environment: &str| {
        let tmux = Tmux::new(workshop.home(), environment);
        tmux.enters("$tonfall watch");
        tmux.waits_for("FINISHED");
        let screen = tmux.command(&["capture-pane", "-e", "-p"]);
        screen.split("\x1b[").skip(1).any(|code| {
            let numbers = code.split('m').next().unwrap_or_default();
            numbers
                .split(';')
                .filter_map(|number| number.parse::<u8>().ok())
                .any(|number| matches!(number, 30..=38 | 40..=48 | 90..=107))
        })
    };
    assert!(coloured(""));
    assert!(!coloured("NO_COLOR=1"));
}

#[test]
#[ignore = "needs tmux: `.ci/run terminal`"]
fn a_light_background_gets_dark_colours() {
    let workshop = finished();
    let (tmux, settings) = terminal(workshop.home());
    // The colour of the curve among the 256 colours: blue on light, sky blue on dark.
    let curve = |number: u8| {
        let screen = tmux.command(&["capture-pane", "-e", "-p"]);
        screen.contains(&format!("38;5;{number}m"))
    };
    for (style, option, number) in
        [("fg=black,bg=white", "", 25), ("fg=white,bg=black", "", 74), ("fg=black,bg=white", "--background dark", 74)]
    {
        tmux.command(&["set-option", "-g", "window-style", style]);
        tmux.enters(&format!("$tonfall watch {option}"));
        tmux.waits_for("FINISHED");
        assert!(curve(number), "{style} {option}");
        tmux.types("b");
        wait_until("the other colours", || curve(99 - number));
        tmux.types("q");
        tmux.waits_for("ready>");
    }
    tmux.is_restored(&settings);
}

#[test]
#[ignore = "needs tmux: `.ci/run terminal`"]
fn a_panic_restores_the_terminal() {
    let workshop = finished();
    let (tmux, settings) = terminal(workshop.home());
    let viewer: PathBuf = Path::new(env!("CARGO_BIN_EXE_tonfall")).with_file_name("examples").join("panicking_viewer");
    tmux.enters(&format!("{} runs/short", viewer.display()));
    let screen = tmux.waits_for("the clock is broken");
    assert!(screen.contains("ready>"), "the message stands on the shell's own screen: {screen}");
    tmux.is_restored(&settings);
}

#[test]
#[ignore = "needs tmux: `.ci/run terminal`"]
fn training_continues_after_its_dashboard_is_closed() {
    let workshop = long();
    let (tmux, settings) = terminal(workshop.home());
    tmux.enters("$tonfall train recipe.toml --run-name long --watch");
    tmux.waits_for("RUNNING");
    tmux.types("q");
    tmux.waits_for("the run continues");
    tmux.is_restored(&settings);
    let before = state(workshop.home());
    assert_eq!(before["state"], "running");
    wait_until("more steps", || state(workshop.home())["step"].as_u64() > before["step"].as_u64());

    tmux.enters("sh -c 'echo $$ > viewer; exec $tonfall watch'");
    tmux.waits_for("RUNNING");
    let viewer = fs::read_to_string(workshop.path("viewer")).unwrap();
    let viewer = Path::new("/proc").join(viewer.trim());
    assert!(viewer.exists());
    drop(tmux);
    wait_until("the end of a viewer without a terminal", || !viewer.exists());
    let before = state(workshop.home());
    wait_until("steps without a terminal", || state(workshop.home())["step"].as_u64() > before["step"].as_u64());
    fs::write(workshop.path("runs/long/stop.request"), "").unwrap();
    wait_until("the end", || state(workshop.home())["state"] == "interrupted");
}

#[test]
#[ignore = "needs tmux: `.ci/run terminal`"]
fn faults_of_a_recipe_are_printed_before_the_dashboard_opens() {
    let workshop = Workshop::new();
    workshop.edit("recipe.toml", "rank = 4", "rnak = 4");
    let (tmux, settings) = terminal(workshop.home());
    tmux.enters("$tonfall train recipe.toml --watch; echo code:$?");
    let screen = tmux.waits_for("code:3");
    assert!(screen.contains("did you mean `rank`"), "{screen}");
    tmux.is_restored(&settings);
}
