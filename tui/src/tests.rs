//! Frames of every state in every size, and that nothing a log or a person does ends in a panic.

mod frames;
mod nonsense;
mod stories;
