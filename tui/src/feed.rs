//! From run directories to messages.
//!
//! Responsible for: finding runs, following their logs piece by piece, asking whether they are alive. Reads only, but for
//! the request to stop, which `tonfall_recipes` writes.
//! Must not depend on: terminals, drawing.

use std::fs;
use std::path::{Path, PathBuf};

use tonfall_recipes::events::EventReadError;
use tonfall_recipes::{EventReader, RunDir, RunDirError};

use crate::app::{App, Read};
use crate::update::{Message, News, update};

/// Bytes of logs that are read before the screen is drawn again.
const PIECE: u64 = 4 << 20;
/// Runs that are only a line in the table are asked each so many rounds, and the directory is listed as often.
const SLOW: u64 = 16;

/// One run and how far it is read.
struct Source {
    path: PathBuf,
    /// `None` until its directory is there.
    run: Option<RunDir>,
    reader: EventReader,
    whole: bool,
    /// Whether it was held and asked to stop when it was asked last.
    lock: Option<(bool, bool)>,
}

/// All runs of a dashboard, numbered as the state numbers them.
pub(crate) struct Feeds {
    sources: Vec<Source>,
    directory: Option<PathBuf>,
    rounds: u64,
}

impl Feeds {
    /// Follows `runs`, whose directories need not be there yet, and what else lies in `directory`.
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
        // The log's own place is known once the directory is there.
        let path = path.to_owned();
        self.sources.push(Source { reader: EventReader::new(&path), path, run: None, whole: false, lock: None });
    }

    /// Asks every run once and reads a piece of its log. Returns whether there was news, and whether more can be read at
    /// once.
    pub(crate) fn poll(&mut self, app: &mut App) -> (bool, bool) {
        let slow_round = self.rounds.is_multiple_of(SLOW);
        self.rounds += 1;
        let mut news = slow_round && self.list(app);
        let mut more = false;
        for index in 0..self.sources.len() {
            let wanted = app.wants(index);
            if wanted || slow_round || more {
                let (changed, left) = self.sources[index].poll(index, wanted, app);
                news |= changed;
                more |= left;
            }
            // What is shown is read first.
            if more && wanted {
                break;
            }
        }
        (news, more)
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
            update(app, Message::Notice(format!("{} runs can't be read: {damaged}", found.damaged.len())));
        }
        let known = self.sources.len();
        for run in &found.runs {
            if !self.knows(run.path()) {
                self.add(run.path(), app);
            }
        }
        self.sources.len() > known || !found.damaged.is_empty()
    }

    /// Whether a run is followed, maybe under another name of its directory.
    fn knows(&self, path: &Path) -> bool {
        // Asking the file system for each pair of runs would keep it busy.
        self.sources.iter().any(|source| source.path == path)
            || fs::canonicalize(path).is_ok_and(|whole| {
                self.sources.iter().any(|source| fs::canonicalize(&source.path).is_ok_and(|other| other == whole))
            })
    }

    /// Writes the request to stop.
    pub(crate) fn request_stop(&self, index: usize) -> Message {
        let run = self.sources.get(index).and_then(|source| source.run.as_ref());
        let text = match run.map(RunDir::request_stop) {
            Some(Ok(())) => "the run is asked to stop; it saves after its step".to_owned(),
            Some(Err(error)) => error.to_string(),
            None => "the run's directory is not there".to_owned(),
        };
        Message::Notice(text)
    }
}

impl Source {
    fn poll(&mut self, index: usize, wanted: bool, app: &mut App) -> (bool, bool) {
        let known = app.runs.get(index).and_then(|run| run.fault.clone());
        let (done, fault) = match self.read(index, wanted, app) {
            Ok(done) => (done, None),
            Err(fault) => ((false, false), Some(fault)),
        };
        let changed = known != fault;
        if changed {
            update(app, Message::News(index, News::Fault(fault)));
        }
        (done.0 || changed, done.1)
    }

    fn read(&mut self, index: usize, wanted: bool, app: &mut App) -> Result<(bool, bool), String> {
        let mut tell = |news| {
            update(app, Message::News(index, news));
        };
        let mut news = false;
        if self.run.is_none() {
            match RunDir::open(&self.path) {
                Ok(run) => {
                    tell(News::Opened { created: run.info().created.clone() });
                    self.reader = EventReader::new(run.events());
                    self.run = Some(run);
                    news = true;
                }
                Err(RunDirError::NotFound { .. }) => return Ok((false, false)),
                Err(error) => return Err(error.to_string()),
            }
        }
        let Some(run) = &self.run else { return Ok((false, false)) };
        // The lock first: once it is free, the log is complete.
        let held = run.is_held().map_err(|error| error.to_string())?;
        let stop_requested = held && run.stop_requested();
        if wanted != self.whole {
            // What was dropped is in the log; what is no longer shown need not stay in memory.
            self.whole = wanted;
            if wanted {
                self.reader = EventReader::new(run.events());
            }
            tell(if wanted { News::Restart { whole: true } } else { News::Forget });
            news = true;
        }
        let before = self.reader.offset();
        let mut events = Vec::new();
        let left = match self.reader.scan_some(PIECE, |event| events.push(event)) {
            Ok(left) => left,
            Err(EventReadError::Shrunk { .. }) => {
                self.reader = EventReader::new(run.events());
                tell(News::Restart { whole: self.whole });
                return Ok((true, true));
            }
            Err(error) => return Err(error.to_string()),
        };
        let bytes = self.reader.offset();
        let moved = bytes != before;
        if moved {
            let (damaged, unknown) = (self.reader.damaged(), self.reader.unknown());
            tell(News::Events(events));
            tell(News::Read(Read { bytes, of: bytes.saturating_add(left), damaged, unknown }));
        }
        let changed = self.lock != Some((held, stop_requested));
        if changed {
            self.lock = Some((held, stop_requested));
            tell(News::Held { held, stop_requested });
        }
        // A torn line is left as well; it moves nothing.
        Ok((news || moved || changed, moved && left > 0))
    }
}
