//! Reads run directories and sends messages to the dashboard.
//!
//! Responsible for: the list of followed runs, the order of polling, and stop requests.
//! Must not depend on: terminals, drawing, reading a run (that is [`tonfall_runs::follow`]).

use std::fs;
use std::path::{Path, PathBuf};

use tonfall_runs::RunDir;
use tonfall_runs::follow::{Follower, Polled};
use tonfall_runs::numbers::counted;

use crate::app::App;
use crate::update::{Message, update};

/// Rounds between two polls of a run that is only a row of the table, and between two listings of the directory.
const SLOW: u64 = 16;

/// All runs of a dashboard, with the same indices as in the state.
pub(crate) struct Feeds {
    sources: Vec<Follower>,
    directory: Option<PathBuf>,
    rounds: u64,
}

impl Feeds {
    /// Follows `runs`, which need not exist yet, and all other runs in `directory`.
    pub(crate) fn new(runs: &[PathBuf], directory: Option<PathBuf>, app: &mut App) -> Self {
        let mut feeds = Self { sources: Vec::new(), directory, rounds: 0 };
        for path in runs {
            feeds.add(path, app);
        }
        feeds
    }

    fn add(&mut self, path: &Path, app: &mut App) {
        let id = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        update(app, Message::Found(id));
        self.sources.push(Follower::new(path));
    }

    /// Polls every run once and reads a piece of its log.
    pub(crate) fn poll(&mut self, app: &mut App) -> Polled {
        let slow_round = self.rounds.is_multiple_of(SLOW);
        self.rounds += 1;
        let mut all = Polled { changed: slow_round && self.list(app), more: false };
        for index in 0..self.sources.len() {
            let wanted = app.wants(index);
            if wanted || slow_round || all.more {
                let mut tell = |news| {
                    update(app, Message::News(index, news));
                };
                let polled = self.sources[index].poll(wanted, &mut tell);
                all = Polled { changed: all.changed || polled.changed, more: all.more || polled.more };
            }
            // The displayed runs are read first.
            if all.more && wanted {
                break;
            }
        }
        all
    }

    fn list(&mut self, app: &mut App) -> bool {
        let Some(directory) = &self.directory else { return false };
        let found = match RunDir::list(directory) {
            Ok(found) => found,
            Err(error) => {
                update(app, Message::Notice(error.to_string()));
                return true;
            }
        };
        if let Some(damaged) = found.damaged.first() {
            update(
                app,
                Message::Notice(format!("{} can't be read: {damaged}", counted(found.damaged.len() as u64, "run"))),
            );
        }
        let known = self.sources.len();
        for run in &found.runs {
            if !self.knows(run.path()) {
                self.add(run.path(), app);
            }
        }
        self.sources.len() > known || !found.damaged.is_empty()
    }

    /// Whether a run is followed, possibly under another path.
    fn knows(&self, path: &Path) -> bool {
        // Equal paths need no call to the file system.
        self.sources.iter().any(|source| source.path() == path)
            || fs::canonicalize(path).is_ok_and(|whole| {
                self.sources.iter().any(|source| fs::canonicalize(source.path()).is_ok_and(|other| other == whole))
            })
    }

    /// Writes a stop request.
    pub(crate) fn request_stop(&self, index: usize) -> Message {
        let run = self.sources.get(index).and_then(Follower::run);
        let text = match run.map(RunDir::request_stop) {
            Some(Ok(())) => "stop requested; the run saves after its current step".to_owned(),
            Some(Err(error)) => error.to_string(),
            None => "the directory of the run does not exist".to_owned(),
        };
        Message::Notice(text)
    }
}
