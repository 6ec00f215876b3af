//! A name for the exact weights of a base model, quick enough to take at every start.
//!
//! Must not depend on: what the tensors mean.

use sha2::{Digest, Sha256};
use tonfall_durable::hex;

/// Bytes of each tensor that are looked at.
const SAMPLE: usize = 4096;

/// Collects what identifies a model.
pub(crate) struct Fingerprint(Sha256);

impl Fingerprint {
    pub(crate) fn new() -> Self {
        Self(Sha256::new())
    }

    /// A part that is short enough to be taken whole: configuration, header.
    pub(crate) fn whole(&mut self, name: &str, bytes: &[u8]) {
        self.0.update((name.len() as u64).to_le_bytes());
        self.0.update(name);
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    /// A tensor: its name, its length and the first and last 4 KiB.
    pub(crate) fn sample(&mut self, name: &str, bytes: &[u8]) {
        let head = &bytes[..bytes.len().min(SAMPLE)];
        let tail = &bytes[bytes.len().saturating_sub(SAMPLE)..];
        self.whole(name, head);
        self.whole(name, tail);
        self.0.update((bytes.len() as u64).to_le_bytes());
    }

    pub(crate) fn finish(self) -> String {
        hex(&self.0.finalize())
    }
}
