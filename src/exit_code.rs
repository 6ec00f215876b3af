//! The exit code of every error.
//!
//! Responsible for: one exhaustive table from error types to exit codes. It has no wildcard and no fallback. An error
//! type without a row can't become a [`crate::diagnostics::Failure`]. A new variant doesn't compile until it has its
//! exit code here.
//! Must not depend on: how errors are printed, commands.

use std::error::Error;
use std::io::{self, ErrorKind};

use tonfall_adapters::export::ExportError;
use tonfall_adapters::inspect::InspectError;
use tonfall_adapters::peft::PeftError;
use tonfall_adapters::{
    BaseError, BitsAndBytesError, ConfigError, GgufError, GgufTokenizerError, ImatrixError, OpenError,
    SafetensorsError, TokenizerError, WeightFilesError,
};
use tonfall_datasets::{DataError, RowFault, TokenizerError as EncoderError};
use tonfall_durable::DurableError;
use tonfall_runs::events::EventReadError;
use tonfall_runs::{CheckpointError, LockError, RunDirError, StoreError};
use tonfall_serving::ServingError;
use tonfall_trainer::{DeviceError, DistributedEnvError, GroupError, TrainError};
use tonfall_tui::WatchError;
use tonfall_tui::picture::PictureError;

use crate::hub::HubError;

/// The result of a command. Interrupted runs end with 128 + the signal's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExitCode {
    Done = 0,
    /// A bug in tonfall.
    Unexpected = 1,
    /// The command line or the environment requires something that this machine or program can't do.
    Usage = 2,
    /// Recipe or data is invalid, or a path doesn't exist.
    Invalid = 3,
    /// An artefact or a server does not answer like the trained model.
    GateFailed = 4,
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

use ExitCode::{Busy, Diverged, Invalid, Io, Memory, Refused, Unexpected, Usage};

impl ExitCode {
    pub(crate) fn number(self) -> i32 {
        self as i32
    }
}

/// An error with an exit code.
pub(crate) trait HasExitCode: Error {
    fn exit_code(&self) -> ExitCode;
}

/// A table of exit codes: a `match` over all variants of each type.
macro_rules! exit_codes {
    ($($error:ty { $($arms:tt)* })*) => {$(
        impl HasExitCode for $error {
            fn exit_code(&self) -> ExitCode {
                match self { $($arms)* }
            }
        }
    )*};
}

exit_codes! {
    TrainError {
        Self::Diverged { .. } | Self::LogitsNotFinite { .. } => Diverged,
        Self::Durable(error) => error.exit_code(),
        Self::Checkpoint(error) => error.exit_code(),
        Self::Base(error) => error.exit_code(),
        Self::Adapter(error) => error.exit_code(),
        Self::Export(error) => error.exit_code(),
        Self::Data(error) => error.exit_code(),
        Self::Group(error) => error.exit_code(),
        Self::TargetModules { .. }
        | Self::AdapterOnTrainable(_)
        | Self::AdapterOnHead { .. }
        | Self::AdapterModules { .. }
        | Self::AdapterShape { .. }
        | Self::Warmup { .. }
        | Self::LearningRate { .. }
        | Self::HeldOutPrompt { .. }
        | Self::BeyondEnd { .. }
        | Self::Context { .. }
        | Self::Prompt { .. }
        | Self::NothingToCalibrateOn
        | Self::Style { .. }
        | Self::Processes { .. } => Invalid,
        Self::CheckpointMismatch { .. } | Self::NotFinite { .. } | Self::InputsNotFinite { .. } => Refused,
        Self::Device(_) => Unexpected,
        Self::DeviceMemory(_) | Self::OutOfMemory { .. } | Self::CacheMemory { .. } => Memory,
    }
    DeviceError {
        Self::NotBuilt { .. } | Self::NotThere { .. } | Self::Instructions(_) => Usage,
    }
    DistributedEnvError {
        Self::Value { .. } | Self::Missing { .. } | Self::Rank { .. } => Usage,
    }
    GroupError {
        Self::Listen { .. } | Self::Reach { .. } | Self::Absent { .. } | Self::Gone { .. } | Self::OutOfStep { .. } => Io,
        Self::Differs { .. } => Invalid,
        Self::OutOfMemory { .. } => Memory,
    }
    DurableError {
        Self::DiskFull { .. } | Self::NoRoom { .. } | Self::Io { .. } => Io,
    }
    LockError {
        Self::Busy { .. } | Self::Taken { .. } => Busy,
        Self::NoLocks { .. } | Self::Read { .. } => Io,
        Self::Durable(error) => error.exit_code(),
    }
    StoreError {
        Self::Name(_) => Usage,
        Self::NoVersion { .. } | Self::NothingPublished { .. } | Self::NoPrevious { .. } => Invalid,
        Self::Pointer { .. } | Self::Damaged { .. } | Self::Format { .. } | Self::FileName { .. } => Refused,
        Self::Hook { .. } | Self::Read { .. } => Io,
        Self::Switch { source, .. } => source.exit_code(),
        Self::Record(error) => error.exit_code(),
        Self::Lock(error) => error.exit_code(),
        Self::Durable(error) => error.exit_code(),
    }
    RunDirError {
        Self::Exists { .. } | Self::Name(_) | Self::NotFound { .. } => Invalid,
        Self::Format { .. } | Self::Newer { .. } | Self::Damaged { .. } => Refused,
        Self::Lock(error) => error.exit_code(),
        Self::Read { .. } => Io,
        Self::Durable(error) => error.exit_code(),
    }
    CheckpointError {
        Self::Damaged { .. } | Self::NotAFile { .. } => Refused,
        Self::Read { .. } => Io,
        Self::Durable(error) => error.exit_code(),
    }
    EventReadError {
        Self::Io { source, .. } => of_io(source),
        Self::Shrunk { .. } => Refused,
    }
    HubError {
        Self::Name(_)
        | Self::NotCached { .. }
        | Self::Incomplete { .. }
        | Self::NoTokenizer { .. }
        | Self::Offline { .. } => Invalid,
        Self::Api { .. } | Self::Io { .. } => Io,
        Self::Answer { .. }
        | Self::NoSafetensors { .. }
        | Self::TwoModels { .. }
        | Self::Hash { .. }
        | Self::Size { .. } => Refused,
    }
    DataError {
        Self::Io { source, .. } => of_io(source),
        Self::Cache(error) => error.exit_code(),
        Self::Enough => Unexpected,
        Self::MissingExample { .. } => Refused,
        Self::Changed { .. }
        | Self::NoTask { .. }
        | Self::Terms(_) => Invalid,
        Self::UnknownKind { .. }
        | Self::Empty { .. }
        | Self::NoFiles { .. }
        | Self::MissingColumn { .. }
        | Self::UnknownField { .. }
        | Self::Filter { .. }
        | Self::BadRows { .. }
        | Self::Audit { .. }
        | Self::UnknownFormat { .. }
        | Self::AmbiguousFormat { .. }
        | Self::Unreadable { .. }
        | Self::TooLong { .. }
        | Self::NothingLeft { .. }
        | Self::Split { .. }
        | Self::Template(_) => Invalid,
        Self::Row { fault: RowFault::Tokenizer(error), .. } => error.exit_code(),
        Self::Row { .. } => Invalid,
        Self::Tokenizer(error) => error.exit_code(),
    }
    EncoderError {
        Self::Misfit { .. } | Self::UnknownSpecial { .. } => Invalid,
        Self::Parse(_) | Self::Encode(_) | Self::Decode(_) => Refused,
    }
    BaseError {
        Self::Open(error) => error.exit_code(),
        Self::WeightFiles(error) => error.exit_code(),
        Self::Config(error) => error.exit_code(),
        Self::Gguf(error) => error.exit_code(),
        Self::BitsAndBytes(error) => error.exit_code(),
        Self::Tokenizer(error) => error.exit_code(),
        Self::NotFound { .. } | Self::NotAModel { .. } | Self::NoConfig { .. } => Invalid,
        Self::MissingTensor { .. }
        | Self::UnknownTensor { .. }
        | Self::TensorShape { .. }
        | Self::TensorType { .. }
        | Self::TiedHeadDiffers { .. }
        | Self::NoSuchWeight { .. } => Refused,
    }
    ConfigError {
        Self::Architecture { .. }
        | Self::Missing { .. }
        | Self::Type { .. }
        | Self::Unsupported { .. }
        | Self::UnknownKey { .. }
        | Self::Sizes { .. } => Invalid,
    }
    TokenizerError {
        Self::File(error) => error.exit_code(),
        Self::Gguf(error) => error.exit_code(),
        Self::NoTokenizer { .. } | Self::NotInVocabulary { .. } => Invalid,
        Self::Json { .. } => Refused,
    }
    GgufTokenizerError {
        Self::Metadata { .. } | Self::Model { .. } | Self::PreTokenizer { .. } => Refused,
    }
    OpenError {
        Self::Io { source, .. } => of_io(source),
        Self::Pickle { .. } | Self::NotRegular { .. } | Self::TooLarge { .. } => Refused,
    }
    WeightFilesError {
        Self::Safetensors(error) => error.exit_code(),
        Self::Open(error) => error.exit_code(),
        Self::NoWeights { .. } => Invalid,
        Self::Index { .. }
        | Self::ShardOutside { .. }
        | Self::TwoModels { .. }
        | Self::NotInShard { .. }
        | Self::NotInIndex { .. } => Refused,
    }
    SafetensorsError {
        Self::Open(error) => error.exit_code(),
        Self::TooShort { .. }
        | Self::HeaderLength { .. }
        | Self::Header { .. }
        | Self::Dtype { .. }
        | Self::OutOfRange { .. }
        | Self::NotContiguous { .. }
        | Self::Trailing { .. }
        | Self::Size { .. } => Refused,
    }
    GgufError {
        Self::Open(error) => error.exit_code(),
        Self::Magic { .. }
        | Self::Version { .. }
        | Self::BigEndian { .. }
        | Self::Damaged { .. }
        | Self::DuplicateKey { .. }
        | Self::Split { .. }
        | Self::Tensor { .. }
        | Self::TensorType { .. }
        | Self::Metadata { .. }
        | Self::UnknownKey { .. } => Refused,
    }
    InspectError {
        Self::Open(error) => error.exit_code(),
        Self::Safetensors(error) => error.exit_code(),
        Self::WeightFiles(error) => error.exit_code(),
        Self::Gguf(error) => error.exit_code(),
        Self::Io { source, .. } => of_io(source),
        Self::UnknownFile { .. } | Self::UnknownDirectory { .. } | Self::SeveralModels { .. } => Invalid,
        Self::Config { .. } | Self::Imatrix { .. } => Refused,
    }
    BitsAndBytesError {
        Self::Method { .. } | Self::Variant { .. } | Self::Damaged { .. } => Refused,
    }
    PeftError {
        Self::Open(error) => error.exit_code(),
        Self::Safetensors(error) => error.exit_code(),
        Self::Durable(error) => error.exit_code(),
        Self::NotAnAdapter { .. } | Self::NothingToCombine => Invalid,
        Self::Config { .. }
        | Self::Unsupported { .. }
        | Self::UnknownKey { .. }
        | Self::Tensor { .. }
        | Self::Empty { .. }
        | Self::Combine { .. }
        | Self::ReadBack { .. } => Refused,
    }
    ExportError {
        Self::Base(error) => error.exit_code(),
        Self::Adapter(error) => error.exit_code(),
        Self::Safetensors(error) => error.exit_code(),
        Self::Durable(error) => error.exit_code(),
        Self::Gguf(error) => error.exit_code(),
        Self::Open(error) => error.exit_code(),
        Self::OutputExists { .. } | Self::NeedsAdapter { .. } | Self::Target { .. } | Self::Tokenizer(_) => Invalid,
        Self::Ollama(_) | Self::Modelfile(_) | Self::NoTemplate { .. } => Invalid,
        // The commands replace this with the exit code of the signal.
        Self::Interrupted | Self::Size { .. } => Unexpected,
        Self::Memory { .. } => Memory,
        Self::Unread { source, .. } => io_cause(source.as_ref()).map_or(Refused, of_io),
        Self::NoSuchModule { .. }
        | Self::TiedHead
        | Self::Shape { .. }
        | Self::Format { .. }
        | Self::NoEffect { .. }
        | Self::BaseNotFinite { .. }
        | Self::NotFinite { .. }
        | Self::Overflow { .. }
        | Self::Values { .. }
        | Self::Lineage { .. }
        | Self::ReadBack { .. } => Refused,
    }
    ImatrixError {
        Self::Open(error) => error.exit_code(),
        Self::Gguf(error) => error.exit_code(),
        Self::Damaged { .. } | Self::Entry { .. } | Self::Empty { .. } => Refused,
        Self::OtherModel { .. } => Invalid,
    }
    ServingError {
        Self::Url { .. } | Self::ApiKey { .. } => Usage,
        Self::UnknownModel { .. } | Self::UnknownAdapter { .. } | Self::NoSlot { .. } => Invalid,
        Self::NotThere { .. }
        | Self::NoAnswer { .. }
        | Self::Broken { .. }
        | Self::Redirect { .. }
        | Self::Status { .. }
        | Self::Unauthorized { .. } => Io,
        Self::TooLarge { .. } | Self::Nonsense { .. } | Self::NoEffect { .. } => Refused,
    }
    PictureError {
        Self::Log(error) => error.exit_code(),
        Self::Empty => Invalid,
        Self::Draw(_) => Unexpected,
    }
    WatchError {
        Self::Terminal(error) => of_io(error),
    }
}

impl HasExitCode for io::Error {
    fn exit_code(&self) -> ExitCode {
        of_io(self)
    }
}

/// Results are written as JSON. That fails only if the program has a bug.
impl HasExitCode for serde_json::Error {
    fn exit_code(&self) -> ExitCode {
        Unexpected
    }
}

/// A path that doesn't exist is an error of the recipe or the command line; other errors are the machine's.
fn of_io(error: &io::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory => Invalid,
        _ => Io,
    }
}

/// The I/O error at the bottom, if there is one.
fn io_cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a io::Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref() {
            return Some(error);
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_decide_the_exit_code() {
        assert_eq!(io::Error::from(ErrorKind::StorageFull).exit_code(), Io);
        assert_eq!(io::Error::from(ErrorKind::NotFound).exit_code(), Invalid);
        assert_eq!(HubError::Name("x".to_owned()).exit_code(), Invalid);
        assert_eq!(LockError::Busy { run: "x".into() }.exit_code(), Busy);
        // In an earlier version, errors without a rule of their own counted as corrupt files.
        assert_eq!(PictureError::Empty.exit_code(), Invalid);
        assert_eq!(PictureError::Draw("x".to_owned()).exit_code(), Unexpected);
        let read = OpenError::Io { path: "x".into(), source: ErrorKind::PermissionDenied.into() };
        assert_eq!(TrainError::Base(BaseError::WeightFiles(WeightFilesError::Open(read))).exit_code(), Io);
        let unread =
            ExportError::Unread { name: "x".to_owned(), source: Box::new(io::Error::from(ErrorKind::TimedOut)) };
        assert_eq!(unread.exit_code(), Io);
    }
}
