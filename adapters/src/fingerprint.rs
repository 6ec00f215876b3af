//! A fingerprint of the exact weights of a base model. It is fast enough to compute at every start.
//!
//! Responsible for: hashing all bytes of small models and samples of large models, on all threads. The result doesn't
//! depend on the number of threads.
//! Must not depend on: the meaning of the tensors.
//!
//! Up to [`WHOLE`] bytes, every byte is hashed. Above this size, the samples of each tensor are its first and last 4
//! KiB, and 64 KiB of every 16 MiB: half a GiB for a model of 140 GB. A scaled, retrained or replaced tensor changes
//! its samples. A change of a few values between two samples is not detected.

use rayon::prelude::*;
use sha2::{Digest, Sha256};
use std::ops::Range;
use tonfall_durable::hex;

/// Maximum size in bytes of models that are hashed completely.
const WHOLE: u64 = 1 << 30;
/// Number of bytes at the start and at the end of a tensor that are always hashed.
const END: usize = 4 << 10;
/// Number of bytes that one thread hashes at once.
const PIECE: usize = 1 << 20;
/// Size of a sample in bytes, and distance between the starts of two samples.
const SAMPLE: usize = 64 << 10;
const DISTANCE: usize = 16 << 20;
/// Number of pieces after which the read pages are released.
const BAND: usize = 64;

/// The fingerprint of tensors (name, bytes): `sha256:…`, or `sha256-sampled:…` for a large model. `release` must
/// release the memory pages that were read so far.
pub(crate) fn of_tensors(tensors: &[(String, &[u8])], release: impl Fn()) -> String {
    of_tensors_up_to(WHOLE, tensors, release)
}

fn of_tensors_up_to(whole: u64, tensors: &[(String, &[u8])], release: impl Fn()) -> String {
    let total: u64 = tensors.iter().map(|(_, bytes)| bytes.len() as u64).sum();
    let is_whole = total <= whole;
    let pieces = |len| if is_whole { all(len) } else { samples(len) };
    let pieces: Vec<&[u8]> =
        tensors.iter().flat_map(|(_, bytes)| pieces(bytes.len()).into_iter().map(|piece| &bytes[piece])).collect();
    let mut digest = Sha256::new();
    for (name, bytes) in tensors {
        digest.update((name.len() as u64).to_le_bytes());
        digest.update(name);
        digest.update((bytes.len() as u64).to_le_bytes());
    }
    for band in pieces.chunks(BAND) {
        let hashes: Vec<_> = band.par_iter().map(Sha256::digest).collect();
        hashes.iter().for_each(|hash| digest.update(hash));
        release();
    }
    format!("{}:{}", if is_whole { "sha256" } else { "sha256-sampled" }, hex(&digest.finalize()))
}

/// The fingerprint of bytes that are hashed completely, such as a configuration or a header.
pub(crate) fn of_bytes(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

fn all(len: usize) -> Vec<Range<usize>> {
    (0..len).step_by(PIECE).map(|start| start..len.min(start + PIECE)).collect()
}

fn samples(len: usize) -> Vec<Range<usize>> {
    let ends = [0..len.min(END), len.saturating_sub(END)..len];
    ends.into_iter().chain((0..len).step_by(DISTANCE).map(|start| start..len.min(start + SAMPLE))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensors() -> [(String, Vec<u8>); 2] {
        [("a".to_owned(), vec![1; 3 << 20]), ("b".to_owned(), (0..40_u32 << 20).map(|i| (i % 251) as u8).collect())]
    }

    fn of(whole: u64, tensors: &[(String, Vec<u8>)]) -> String {
        let tensors: Vec<(String, &[u8])> =
            tensors.iter().map(|(name, bytes)| (name.clone(), bytes.as_slice())).collect();
        of_tensors_up_to(whole, &tensors, || ())
    }

    #[test]
    fn every_byte_of_a_small_model_is_hashed() {
        let before = of(WHOLE, &tensors());
        assert!(before.starts_with("sha256:"), "{before}");
        for at in [0, 1_234_567, 20 << 20, (40 << 20) - 1] {
            let mut changed = tensors();
            changed[1].1[at] ^= 1;
            assert_ne!(of(WHOLE, &changed), before, "{at}");
        }
        let [a, b] = tensors();
        assert_ne!(of(WHOLE, &[b, a]), before);
    }

    #[test]
    fn scaled_and_replaced_tensors_of_a_large_model_change_the_fingerprint() {
        let before = of(0, &tensors());
        assert!(before.starts_with("sha256-sampled:"), "{before}");
        assert_eq!(of(0, &tensors()), before);
        let mut scaled = tensors();
        scaled[1].1.iter_mut().for_each(|byte| *byte = byte.wrapping_mul(3));
        assert_ne!(of(0, &scaled), before);
        let mut middle = tensors();
        middle[1].1[(16 << 20) + 5] ^= 1;
        assert_ne!(of(0, &middle), before, "within a sample");
        let mut end = tensors();
        *end[0].1.last_mut().expect("bytes") ^= 1;
        assert_ne!(of(0, &end), before);
    }

    #[test]
    fn the_fingerprint_does_not_depend_on_the_number_of_threads() {
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
            pool.install(|| of(WHOLE, &tensors()))
        };
        assert_eq!(with(1), with(4));
    }
}
