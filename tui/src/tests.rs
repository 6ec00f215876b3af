//! Frames of every state in every size. No log and no input may cause a panic.

mod frames;
mod nonsense;
mod stories;
