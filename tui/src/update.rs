//! Changing the state.
//!
//! Responsible for: `update`, which applies news, keys and mouse events to the state. Pure: no clock, files or
//! terminal.
//! Must not depend on: the source of news.

use ratatui::crossterm::event::{KeyEvent, KeyEventKind, MouseEvent};
use ratatui::layout::Rect;
use tonfall_runs::Summary;
use tonfall_runs::follow::{News, ReadProgress};
use tonfall_runs::printable::escaped;

use crate::app::{App, Run};
use crate::input::{self, Effect};

/// Seconds for which a message is displayed.
const NOTICE_SECONDS: f64 = 8.0;

/// An input to the dashboard.
#[derive(Debug)]
pub(crate) enum Message {
    /// The time in seconds; only differences count.
    Tick(f64),
    /// A run was found. Its index is the number of runs found before it.
    Found(String),
    /// News of a run, by index.
    News(usize, News),
    /// A message for the footer.
    Notice(String),
    Key(KeyEvent),
    Mouse(MouseEvent),
    Resize(u16, u16),
}

/// Applies a message to the state. Returns a request to the caller, if any.
pub(crate) fn update(app: &mut App, message: Message) -> Option<Effect> {
    match message {
        Message::Tick(clock) => {
            app.clock = clock;
            app.notice = app.notice.take().filter(|(since, _)| clock - since < NOTICE_SECONDS);
        }
        Message::Found(id) => app.runs.push(Run { id, heard: app.clock, ..Run::default() }),
        Message::News(run, news) => {
            let clock = app.clock;
            if let Some(run) = app.runs.get_mut(run) {
                learn(run, news, clock);
            }
        }
        Message::Notice(text) => app.notice = Some((app.clock, escaped(&text).into_owned())),
        Message::Resize(width, height) => app.size = Rect::new(0, 0, width, height),
        Message::Key(key) if key.kind == KeyEventKind::Release => {}
        Message::Key(key) => return input::key(app, key),
        Message::Mouse(event) => input::mouse(app, event),
    }
    None
}

fn learn(run: &mut Run, news: News, clock: f64) {
    match news {
        News::Opened { created } => run.created = created,
        News::Restart { whole } => {
            (run.summary, run.read) = (Summary::default(), ReadProgress::default());
            run.data = whole.then(Box::default);
        }
        News::Forget => run.data = None,
        News::Events(events) => {
            if !events.is_empty() {
                run.heard = clock;
            }
            for event in events {
                run.summary.observe(&event);
                if let Some(data) = &mut run.data {
                    data.observe(event);
                }
            }
        }
        News::Read(read) => run.read = read,
        News::Held { held, stop_requested } => (run.held, run.stop_requested) = (held, stop_requested),
        News::Fault(fault) => run.fault = fault,
    }
}
