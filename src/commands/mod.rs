//! One file per command. Commands don't import each other; code that several commands need is in the parent module.

pub(crate) mod chat;
pub(crate) mod check;
pub(crate) mod completions;
pub(crate) mod data;
pub(crate) mod doctor;
pub(crate) mod estimate;
pub(crate) mod eval;
pub(crate) mod export;
pub(crate) mod init;
pub(crate) mod inspect;
pub(crate) mod man;
pub(crate) mod merge;
pub(crate) mod metrics;
pub(crate) mod nightly;
pub(crate) mod plot;
pub(crate) mod publish;
pub(crate) mod report;
pub(crate) mod resume;
pub(crate) mod rollback;
pub(crate) mod runs;
pub(crate) mod store;
pub(crate) mod train;
pub(crate) mod verify;
pub(crate) mod watch;
