//! Tests of the crate's public API: fixtures, files damaged on purpose, and files written and read back.
#![expect(clippy::unwrap_used, reason = "a test panics on purpose")]
#![expect(clippy::disallowed_methods, reason = "tests damage files as they like")]
#![expect(unreachable_pub, reason = "the modules of one program")]

mod base_models;
mod bitsandbytes;
mod damaged_directories;
mod damaged_gguf;
mod exporting_gguf;
mod files;
mod gguf_models;
mod inspecting;
mod merging;
mod peft_files;
mod resuming;
mod saving;
mod tokenizers;
