//! The dashboard on a terminal, and single frames as text.
//!
//! Responsible for: the loop of reading, drawing and waiting for keys.
//! Must not depend on: panels, key bindings.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{self, Event};
use thiserror::Error;
use tonfall_runs::follow::Polled;

use crate::app::App;
use crate::feed::Feeds;
use crate::input::Effect;
use crate::screen::Screen;
use crate::theme::Look;
use crate::update::{Message, update};
use crate::view::view;

/// Interval between polls.
const INTERVAL: Duration = Duration::from_millis(250);
/// Seconds after which the screen is drawn again without news, for countdowns.
const REDRAW: f64 = 1.0;

/// Why the dashboard can't be shown.
#[derive(Debug, Error)]
pub enum WatchError {
    #[error("the terminal can't be used: {0}")]
    Terminal(#[from] io::Error),
}

/// The runs on the dashboard, and its look.
#[derive(Clone, Debug)]
pub struct Watch {
    /// Run directories, the selected one first. They need not exist yet. Several are compared.
    pub runs: Vec<PathBuf>,
    /// Directory with more runs for the table.
    pub directory: Option<PathBuf>,
    pub look: Look,
}

/// The clock and signals of a dashboard.
pub trait Host {
    /// Time in seconds; only differences count.
    fn now(&self) -> f64;

    /// Whether the dashboard must close, for example after a signal.
    fn should_leave(&self) -> bool {
        false
    }

    /// A message for the user.
    fn news(&self) -> Option<String> {
        None
    }
}

/// Shows runs on the terminal until the user quits. The runs are not affected.
///
/// # Errors
/// If the terminal can't be used. Logs that can't be read are reported on the screen.
pub fn watch(what: &Watch, host: &dyn Host) -> Result<(), WatchError> {
    let (mut app, mut feeds) = begin(what);
    let mut screen = Screen::take()?;
    let mut drawn = f64::NEG_INFINITY;
    let mut input = true;
    loop {
        let now = host.now();
        update(&mut app, Message::Tick(now));
        if host.should_leave() {
            return Ok(());
        }
        if let Some(news) = host.news() {
            update(&mut app, Message::Notice(news));
        }
        let polled = if app.frozen.is_some() { Polled::default() } else { feeds.poll(&mut app) };
        let size = screen.terminal.size()?;
        if (size.width, size.height) != (app.size.width, app.size.height) {
            update(&mut app, Message::Resize(size.width, size.height));
            input = true;
        }
        if polled.changed || input || now - drawn >= REDRAW {
            screen.terminal.draw(|frame| view(&app, frame))?;
            drawn = now;
        }
        input = event::poll(if polled.more { Duration::ZERO } else { INTERVAL })?;
        let mut waiting = input;
        while waiting {
            let message = match event::read()? {
                Event::Key(key) => Message::Key(key),
                Event::Mouse(mouse) => Message::Mouse(mouse),
                Event::Resize(width, height) => Message::Resize(width, height),
                _ => break,
            };
            match update(&mut app, message) {
                Some(Effect::Quit) => return Ok(()),
                Some(Effect::RequestStop { run }) => drop(update(&mut app, feeds.request_stop(run))),
                None => {}
            }
            waiting = event::poll(Duration::ZERO)?;
        }
    }
}

/// A snapshot of runs, which can be drawn as text.
#[derive(Debug)]
pub struct Still {
    app: App,
}

impl Still {
    /// Reads the logs to their ends. Errors are shown in the frame.
    pub fn read(what: &Watch) -> Self {
        let (mut app, mut feeds) = begin(what);
        while feeds.poll(&mut app).more {}
        Self { app }
    }

    /// One frame as text, at most `width` × `height` characters.
    pub fn draw(&mut self, width: u16, height: u16) -> String {
        text(&self.frame(width, height))
    }

    /// One frame with its colours.
    pub fn frame(&mut self, width: u16, height: u16) -> Buffer {
        update(&mut self.app, Message::Resize(width, height));
        draw(&self.app, width, height)
    }
}

fn begin(what: &Watch) -> (App, Feeds) {
    let mut app = App::new(what.look);
    let feeds = Feeds::new(&what.runs, what.directory.clone(), &mut app);
    app.compare = app.runs.len() > 1;
    app.runs.iter_mut().for_each(|run| run.marked = true);
    (app, feeds)
}

/// Draws a frame in memory.
pub(crate) fn draw(app: &App, width: u16, height: u16) -> Buffer {
    let Ok(mut terminal) = Terminal::new(TestBackend::new(width, height));
    let Ok(_) = terminal.draw(|frame| view(app, frame));
    terminal.backend().buffer().clone()
}

/// The characters of a frame, without colours and without spaces at line ends.
pub(crate) fn text(buffer: &Buffer) -> String {
    let width = usize::from(buffer.area.width).max(1);
    let row = |cells: &[ratatui::buffer::Cell]| cells.iter().map(|cell| cell.symbol()).collect::<String>();
    let lines = buffer.content.chunks(width).map(|cells| row(cells).trim_end().to_owned());
    lines.collect::<Vec<_>>().join("\n").trim_end().to_owned()
}
