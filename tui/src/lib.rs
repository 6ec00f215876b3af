//! The view of a run: its event log as frames on a terminal.
//!
//! Responsible for: `watch`, which follows a run directory, and `frame`, which draws it once as text.
//! Must not depend on: the trainer, Burn, polars. It reads the run directory and writes nothing into it.

mod app;
mod view;

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use thiserror::Error;
use tonfall_recipes::events::EventReadError;
use tonfall_recipes::{EventReader, RunDir, RunDirError};

use crate::app::{App, Message};

/// Why a run can't be shown.
#[derive(Debug, Error)]
pub enum WatchError {
    #[error(transparent)]
    Run(#[from] RunDirError),
    #[error(transparent)]
    Log(#[from] EventReadError),
    #[error("the terminal can't be used: {0}")]
    Terminal(#[from] io::Error),
}

/// How often the log is read.
const INTERVAL: Duration = Duration::from_millis(250);

/// Follows a run on the terminal until `q` is pressed. The run does not notice.
///
/// # Errors
/// When the log can't be read or the terminal can't be used.
pub fn watch(run: &RunDir) -> Result<(), WatchError> {
    let mut app = App::new(run.id());
    let mut reader = EventReader::new(run.events());
    let mut terminal = ratatui::try_init()?;
    let result = follow(&mut app, &mut reader, run, &mut terminal);
    ratatui::try_restore()?;
    result
}

fn follow(
    app: &mut App,
    reader: &mut EventReader,
    run: &RunDir,
    terminal: &mut ratatui::DefaultTerminal,
) -> Result<(), WatchError> {
    loop {
        read(app, reader, run)?;
        terminal.draw(|frame| view::draw(app, frame))?;
        if !event::poll(INTERVAL)? {
            continue;
        }
        if let Event::Key(key) = event::read()?
            && key.kind == KeyEventKind::Press
        {
            let interrupt = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
            if interrupt || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) {
                return Ok(());
            }
        }
    }
}

/// The run as one frame of text, `width` × `height` characters.
///
/// # Errors
/// When the log can't be read.
pub fn frame(run: &RunDir, width: u16, height: u16) -> Result<String, WatchError> {
    let mut app = App::new(run.id());
    read(&mut app, &mut EventReader::new(run.events()), run)?;
    Ok(text(&draw(&app, width, height)))
}

fn read(app: &mut App, reader: &mut EventReader, run: &RunDir) -> Result<(), WatchError> {
    app.update(Message::Events(reader.poll()?));
    app.update(Message::State(run.state()?));
    Ok(())
}

/// Draws into memory.
fn draw(app: &App, width: u16, height: u16) -> Buffer {
    let Ok(mut terminal) = Terminal::new(TestBackend::new(width, height)).map_err(never);
    let Ok(_) = terminal.draw(|frame| view::draw(app, frame)).map_err(never);
    terminal.backend().buffer().clone()
}

fn never(error: Infallible) -> Infallible {
    error
}

fn text(buffer: &Buffer) -> String {
    let width = usize::from(buffer.area.width).max(1);
    let row = |cells: &[ratatui::buffer::Cell]| cells.iter().map(|cell| cell.symbol()).collect::<String>();
    let lines = buffer.content.chunks(width).map(|cells| row(cells).trim_end().to_owned());
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use tonfall_recipes::{EventKind, RunState};

    use super::*;

    fn step(step: u64, loss: f64) -> EventKind {
        EventKind::Step {
            step,
            epoch: step as f64 / 50.0,
            loss,
            lr: 2e-4,
            grad_norm: 0.71,
            tokens: 512,
            trained_tokens: 400,
            tokens_per_second: 3100.0,
            seconds: 0.165,
            peak_rss_bytes: Some(432_013_312),
        }
    }

    fn start(from_step: u64) -> EventKind {
        EventKind::AttemptStarted { from_step, total_steps: 100, plan_hash: String::new(), trainable_parameters: 1 }
    }

    fn app(kinds: Vec<EventKind>, state: RunState) -> App {
        let mut app = App::new("nightly-7f3a".to_owned());
        let event = |(seq, kind)| tonfall_recipes::Event { v: 1, seq, attempt: 1, t: 60.0 * seq as f64, kind };
        app.update(Message::Events((0..).zip(kinds).map(event).collect()));
        app.update(Message::State(state));
        app
    }

    fn run(state: RunState) -> App {
        let data = EventKind::Data {
            train_examples: 288,
            eval_examples: 60,
            dropped: BTreeMap::new(),
            tokens: 31_000,
            trained_tokens: 18_000,
        };
        let mut kinds = vec![start(0), data, EventKind::Eval { step: 0, loss: 2.9, tokens: 900 }];
        kinds.extend((1..=60).map(|n| step(n, 2.6 * (-(n as f64) / 25.0).exp() + 0.4)));
        kinds.push(EventKind::Eval { step: 60, loss: 0.71, tokens: 900 });
        kinds.push(EventKind::Checkpoint { step: 60, path: "step-000060".to_owned() });
        app(kinds, state)
    }

    #[test]
    fn a_frame_shows_the_run() {
        insta::assert_snapshot!(text(&draw(&run(RunState::Running), 80, 24)));
    }

    #[test]
    fn a_narrow_terminal_gets_one_line() {
        assert_eq!(
            text(&draw(&run(RunState::Interrupted), 59, 1)),
            "nightly-7f3a INTERRUPTED step 60/100 loss 0.6359 eval 0.710"
        );
    }

    #[test]
    fn an_interrupted_run_has_no_eta() {
        let shown = |state| text(&draw(&run(state), 80, 24));
        assert!(shown(RunState::Running).contains("eta") && !shown(RunState::Interrupted).contains("eta"));
    }

    #[test]
    fn a_later_attempt_supersedes_steps() {
        let app =
            app(vec![start(0), step(1, 9.0), step(2, 8.0), step(3, 7.0), start(1), step(2, 6.0)], RunState::Running);
        assert_eq!(app.losses, [(1.0, 9.0), (2.0, 6.0)]);
    }

    proptest! {
        #[test]
        fn no_size_and_no_numbers_panic(
            width in 1u16..300,
            height in 1u16..100,
            losses in proptest::collection::vec(proptest::num::f64::ANY, 0..80),
            name in "\\PC{0,40}",
        ) {
            let mut kinds = vec![start(0), EventKind::Notice { message: name.clone() }];
            kinds.extend((1..).zip(&losses).map(|(n, loss)| step(n, *loss)));
            kinds.extend((1..).zip(&losses).map(|(n, loss)| EventKind::Eval { step: n, loss: *loss, tokens: 1 }));
            let mut app = app(kinds, RunState::Running);
            app.id = name;
            prop_assert_eq!(draw(&app, width, height).area.width, width);
        }
    }
}
