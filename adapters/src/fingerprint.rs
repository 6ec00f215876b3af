//! A name for the exact weights of a base model, quick enough to compute at every start.
//!
//! Responsible for: hashing all bytes of small models and samples of large ones, on all threads, with the same result
//! whatever their number.
//! Must not depend on: what the tensors mean.
//!
//! Up to [`WHOLE`] bytes, every byte is hashed. Above, from each tensor its first and last 4 KiB and 64 KiB of every
//! 16 MiB: half a GiB of a model of 140 GB. A scaled, retrained or replaced tensor differs in its samples; an edit of a
//! few values between them does not show.

use rayon::prelude::*;
use sha2::{Digest, Sha256};
use std::ops::Range;
use tonfall_durable::hex;

/// Models with at most so many bytes of tensors are hashed whole.
const WHOLE: u64 = 1 << 30;
/// Bytes at both ends of a tensor that are always hashed.
const END: usize = 4 << 10;
/// Bytes that one thread hashes at a time.
const PIECE: usize = 1 << 20;
/// Bytes of a sample, and the distance from one to the next.
const SAMPLE: usize = 64 << 10;
const DISTANCE: usize = 16 << 20;
/// Pieces after which the pages that were read are released.
const BAND: usize = 64;

/// The fingerprint of tensors, given by name and bytes: `sha256:…`, or `sha256-sampled:…` for a large model. `release`
/// gives the memory of the pages read so far back to the system.
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

/// The fingerprint of something that is hashed whole: a configuration, a header.
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
    fn a_small_model_is_hashed_whole() {
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
    fn scaled_and_replaced_tensors_of_a_large_model_show() {
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
    fn the_number_of_threads_changes_nothing() {
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
            pool.install(|| of(WHOLE, &tensors()))
        };
        assert_eq!(with(1), with(4));
    }
}
