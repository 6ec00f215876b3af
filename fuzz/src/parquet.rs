//! Parquet: the check of all stated lengths that comes before polars reads the file. polars itself is not fuzzed here.

use crate::read::parquet_headers as headers;
use crate::{heap, scratch};

/// The footer and the page headers of all columns. An accepted file ends with a footer that lies in the file, and a file
/// is accepted for some columns if it is accepted for all.
pub fn parquet_headers(bytes: &[u8]) {
    let path = scratch::write("any.parquet", bytes);
    heap::bounded(bytes.len(), || {
        let all = headers::check(&path, |_| true);
        let none = headers::check(&path, |_| false);
        if all.is_ok() {
            assert!(none.is_ok(), "refused without columns: {:?}", none.err());
            let (rest, magic) = bytes.split_last_chunk::<4>().expect("a magic number");
            let (rest, length) = rest.split_last_chunk::<4>().expect("a length");
            assert!(magic == b"PAR1" && u32::from_le_bytes(*length) as usize <= rest.len());
        }
        if let Err(error) = all {
            assert!(error.to_string().starts_with(&path.display().to_string()), "{error}");
        }
    });
}
