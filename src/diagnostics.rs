//! Errors as people see them, and the exit code of each.
//!
//! Responsible for: the one mapping from every library's errors to exit codes, and the one place that prints errors.
//! Must not depend on: commands.

use std::error::Error;
use std::io::{self, ErrorKind};

use tonfall_adapters::merge::MergeError;
use tonfall_adapters::peft::PeftError;
use tonfall_adapters::save_model::SaveError;
use tonfall_adapters::{BaseError, CheckpointError as WeightsError, TokenizerError};
use tonfall_datasets::{DataError, TemplateError, TokenizerError as TextError};
use tonfall_durable::DurableError;
use tonfall_recipes::Diagnostics;
use tonfall_runs::events::EventReadError;
use tonfall_runs::{CheckpointError, LockError, RunDirError};
use tonfall_trainer::{DeviceError, DistributedEnvError, GroupError, TrainError};
use tonfall_tui::picture::PictureError;

use crate::hub::HubError;

pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// How a command ended. 4 is kept for the quality gate; interrupted runs end with 128 + the signal's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExitCode {
    Done = 0,
    Unexpected = 1,
    Usage = 2,
    /// Recipe or data invalid.
    Invalid = 3,
    /// NaN or Inf.
    Diverged = 5,
    /// Not enough memory.
    Memory = 6,
    /// The run is held by another process.
    Busy = 7,
    /// Disk full, I/O, network.
    Io = 8,
    /// A file is corrupt or refused.
    Refused = 9,
}

impl ExitCode {
    pub(crate) fn number(self) -> i32 {
        self as i32
    }
}

/// What went wrong: at least one report.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: ExitCode,
    reports: Vec<Report>,
}

#[derive(Debug)]
enum Report {
    /// A message, and lines such as `hint: …` below it.
    Message(String),
    /// Faults that point into a recipe.
    Recipe(Diagnostics),
}

impl Failure {
    pub(crate) fn new(code: ExitCode, message: impl Into<String>) -> Self {
        Self { code, reports: vec![Report::Message(message.into())] }
    }

    /// Several failures as one: all reports, the code of the first.
    pub(crate) fn all(failures: Vec<Self>) -> Option<Self> {
        let code = failures.first()?.code;
        Some(Self { code, reports: failures.into_iter().flat_map(|failure| failure.reports).collect() })
    }

    /// What stands first, on one line.
    pub(crate) fn message(&self) -> String {
        let text = match self.reports.first() {
            Some(Report::Message(text)) => text.as_str(),
            Some(Report::Recipe(diagnostics)) => diagnostics.items.first().map_or("", |item| &item.message),
            None => "",
        };
        text.lines().next().unwrap_or_default().to_owned()
    }

    /// The text that is printed, without a line's end behind it.
    pub(crate) fn render(&self, color: bool) -> String {
        let texts = self.reports.iter().map(|report| match report {
            Report::Message(text) => paint(text, color),
            Report::Recipe(diagnostics) => diagnostics.render(color).trim_end().to_owned(),
        });
        texts.collect::<Vec<_>>().join("\n\n")
    }
}

impl<E: Error + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        match (&error as &dyn Error).downcast_ref::<Diagnostics>() {
            Some(faults) => Self { code: ExitCode::Invalid, reports: vec![Report::Recipe(faults.clone())] },
            None => Self::new(exit_code(&error), error.to_string()),
        }
    }
}

/// The exit code of any error of the workspace.
fn exit_code(error: &(dyn Error + 'static)) -> ExitCode {
    if let Some(error) = error.downcast_ref::<TrainError>() {
        return of_training(error);
    }
    if error.is::<DeviceError>() || error.is::<DistributedEnvError>() {
        return ExitCode::Usage;
    }
    if let Some(error) = error.downcast_ref::<GroupError>() {
        return match error {
            GroupError::Differs { .. } => ExitCode::Invalid,
            GroupError::OutOfMemory { .. } => ExitCode::Memory,
            _ => ExitCode::Io,
        };
    }
    if error.is::<DurableError>() {
        return ExitCode::Io;
    }
    if let Some(error) = error.downcast_ref::<LockError>() {
        return if matches!(error, LockError::Busy { .. }) { ExitCode::Busy } else { ExitCode::Io };
    }
    if let Some(error) = error.downcast_ref::<RunDirError>() {
        return match error {
            RunDirError::Exists { .. } | RunDirError::Name(_) | RunDirError::NotFound { .. } => ExitCode::Invalid,
            RunDirError::Format { .. } | RunDirError::Newer { .. } | RunDirError::Damaged { .. } => ExitCode::Refused,
            RunDirError::Lock(error) => exit_code(error),
            RunDirError::Read { .. } | RunDirError::Durable(_) => ExitCode::Io,
        };
    }
    if let Some(error) = error.downcast_ref::<HubError>() {
        return match error {
            HubError::Name(_) | HubError::NotCached { .. } | HubError::Offline { .. } => ExitCode::Invalid,
            HubError::Api { .. } | HubError::Io { .. } => ExitCode::Io,
            HubError::Answer { .. } | HubError::NoSafetensors { .. } | HubError::Size { .. } => ExitCode::Refused,
        };
    }
    if let Some(CheckpointError::Durable(_) | CheckpointError::Read { .. }) = error.downcast_ref() {
        return ExitCode::Io;
    }
    match input_output(error) {
        // A file that the recipe names and that is not there is the recipe's fault.
        Some(ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory) => return ExitCode::Invalid,
        Some(_) => return ExitCode::Io,
        None => {}
    }
    if let Some(error) = error.downcast_ref::<DataError>() {
        return match error {
            DataError::MissingExample { .. } => ExitCode::Refused,
            _ => ExitCode::Invalid,
        };
    }
    match error.downcast_ref::<BaseError>() {
        Some(
            BaseError::NotFound { .. }
            | BaseError::NotAModel { .. }
            | BaseError::NoConfig { .. }
            | BaseError::Config(_)
            | BaseError::Checkpoint(WeightsError::NoWeights { .. })
            | BaseError::Tokenizer(TokenizerError::NoTokenizer { .. } | TokenizerError::NotInVocabulary { .. }),
        ) => return ExitCode::Invalid,
        Some(_) => return ExitCode::Refused,
        None => {}
    }
    if error.is::<TemplateError>()
        || error.is::<TextError>()
        || matches!(error.downcast_ref(), Some(PictureError::Empty))
    {
        return ExitCode::Invalid;
    }
    match is_about_a_file(error) {
        true => ExitCode::Refused,
        false => ExitCode::Unexpected,
    }
}

/// Whether the error is of a type that says what is wrong with a weight file, an adapter or a checkpoint.
fn is_about_a_file(error: &(dyn Error + 'static)) -> bool {
    error.is::<PeftError>()
        || error.is::<MergeError>()
        || error.is::<SaveError>()
        || error.is::<CheckpointError>()
        || error.is::<WeightsError>()
        || error.is::<TokenizerError>()
        || error.is::<EventReadError>()
}

fn of_training(error: &TrainError) -> ExitCode {
    match error {
        TrainError::Diverged { .. } => ExitCode::Diverged,
        TrainError::Durable(error) => exit_code(error),
        TrainError::Checkpoint(error) => exit_code(error),
        TrainError::Base(error) => exit_code(error),
        TrainError::Adapter(error) => exit_code(error),
        TrainError::Merge(error) => exit_code(error),
        TrainError::Save(error) => exit_code(error),
        TrainError::Data(error) => exit_code(error),
        TrainError::TargetModules { .. }
        | TrainError::AdapterOnTrainable(_)
        | TrainError::AdapterOnHead { .. }
        | TrainError::AdapterModules { .. }
        | TrainError::AdapterShape { .. }
        | TrainError::Warmup { .. }
        | TrainError::LearningRate { .. }
        | TrainError::HeldOutPrompt { .. }
        | TrainError::BeyondEnd { .. }
        | TrainError::Context { .. }
        | TrainError::Prompt { .. } => ExitCode::Invalid,
        TrainError::Group(error) => exit_code(error),
        TrainError::Processes { .. } => ExitCode::Invalid,
        TrainError::CheckpointMismatch { .. } | TrainError::NotFinite { .. } => ExitCode::Refused,
        TrainError::Device(_) => ExitCode::Unexpected,
        TrainError::DeviceMemory(_) | TrainError::OutOfMemory { .. } => ExitCode::Memory,
    }
}

/// The kind of the I/O error at the bottom, if there is one.
fn input_output(error: &(dyn Error + 'static)) -> Option<ErrorKind> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Some(error.kind());
        }
        cause = error.source();
    }
    None
}

/// A message with its mark, and with colours if they are wanted; the same look as [`Diagnostics::render`].
fn paint(text: &str, color: bool) -> String {
    let (error, hint, reset) = if color { ("\x1b[1;31m", "\x1b[36m", "\x1b[0m") } else { ("", "", "") };
    let mut lines = text.lines();
    let mut painted = format!("{error}error{reset}: {}", lines.next().unwrap_or_default());
    for line in lines {
        painted.push('\n');
        match line.strip_prefix("hint:") {
            Some(rest) => painted += &format!("{hint}hint{reset}:{rest}"),
            None => painted += line,
        }
    }
    painted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_change_nothing_but_colours() {
        let failure = Failure::new(ExitCode::Invalid, "no run at x\nhint: `tonfall runs` lists them");
        assert_eq!(failure.render(false), "error: no run at x\nhint: `tonfall runs` lists them");
        let painted = failure.render(true);
        assert!(painted.starts_with("\x1b[1;31merror\x1b[0m: no run"));
        let plain = ["\x1b[1;31m", "\x1b[36m", "\x1b[0m"].iter().fold(painted, |text, code| text.replace(code, ""));
        assert_eq!(plain, failure.render(false));
    }

    #[test]
    fn causes_decide_the_exit_code() {
        let failure = |error: io::Error| Failure::from(error).code;
        assert_eq!(failure(ErrorKind::StorageFull.into()), ExitCode::Io);
        assert_eq!(failure(ErrorKind::NotFound.into()), ExitCode::Invalid);
        assert_eq!(Failure::from(HubError::Name("x".to_owned())).code, ExitCode::Invalid);
        assert_eq!(Failure::from(LockError::Busy { run: "x".into() }).code, ExitCode::Busy);
        assert_eq!(Failure::from(PeftError::Empty { path: "x".into() }).code, ExitCode::Refused);
        assert_eq!(Failure::from(std::fmt::Error).code, ExitCode::Unexpected, "of an unknown error nothing is known");
    }

    #[test]
    fn several_failures_become_one_with_all_texts() {
        let all = Failure::all(vec![Failure::new(ExitCode::Refused, "one"), Failure::new(ExitCode::Invalid, "two")]);
        let all = all.expect("two failures");
        assert_eq!((all.code, all.message()), (ExitCode::Refused, "one".to_owned()));
        assert_eq!(all.render(false), "error: one\n\nerror: two");
        assert!(Failure::all(Vec::new()).is_none());
    }
}
