//! SHA-256 of files, and digests as text.

use std::fs::File;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Size and content of a file, as manifests record them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Bytes.
    pub size: u64,
    /// Lower-case hexadecimal.
    pub sha256: String,
}

impl FileRecord {
    /// Reads the whole file and hashes it.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn of(path: &Path) -> io::Result<Self> {
        let (size, digest) = hash_file(path)?;
        Ok(Self { size, sha256: hex(&digest) })
    }
}

/// The size of a file in bytes and the SHA-256 of its content.
///
/// # Errors
/// If it can't be read.
pub fn hash_file(path: &Path) -> io::Result<(u64, [u8; 32])> {
    let mut digest = Sha256::new();
    let size = io::copy(&mut File::open(path)?, &mut digest)?;
    Ok((size, digest.finalize().into()))
}

/// `bytes` as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;

    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let written = write!(text, "{byte:02x}");
        debug_assert!(written.is_ok(), "writing to a string");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FIPS 180-2, the example "abc".
    #[test]
    fn a_file_has_the_digest_of_its_content() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("abc");
        crate::write_file(&path, b"abc").expect("written");
        let record = FileRecord::of(&path).expect("readable");
        assert_eq!(record.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!((record.size, hex(&[0, 0xfe])), (3, "00fe".to_owned()));
    }
}
