//! End-to-end tests of the binary.
//!
//! Responsible for: exit codes, texts and files, as a user of a shell sees them. All tests run in temporary
//! directories, without network, GPU or Python.
#![expect(clippy::unwrap_used, reason = "a test panics on purpose")]
#![expect(clippy::disallowed_methods, reason = "tests write their own files")]

mod bad_data;
mod bad_input;
mod calibration;
mod changed_inputs;
mod command_line;
mod data_cache;
mod docs;
mod evaluating;
mod exporters;
mod exports;
mod first_minutes;
mod graph;
mod hub;
mod inspect;
mod learning;
mod merging;
mod nightly;
mod old_runs;
mod parquet_file;
mod processes;
mod program;
mod recipes;
mod report;
mod run_dirs;
mod serving;
mod terminal;
mod tiny_model;
mod train;
