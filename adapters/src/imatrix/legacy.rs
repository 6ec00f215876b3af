//! llama.cpp's format of importance matrices before GGUF (`.dat`).
//!
//! Responsible for: its layout, for reading and for `tonfall inspect`.
//!
//! Source: llama.cpp, `common/imatrix-loader.cpp`. Numbers are little-endian i32 and f32: the number of entries; for each entry
//! the length of its name, the name, the number of chunks, the number of values, and the values: mean x² times the number of
//! chunks. The number of chunks and the name of the text file may follow.

use std::path::Path;

use super::{CHUNK, Entry, ImatrixError};
use crate::gguf::{Cursor, Fault};

/// The content of a file; the values stay in it.
pub(crate) struct ImatrixDat<'a> {
    pub entries: Vec<DatEntry<'a>>,
    /// Number of chunks, if the file has it.
    pub chunks: Option<i32>,
    /// Name of the text file, if the file has it.
    pub dataset: Option<String>,
}

/// One weight, by its GGUF name.
pub(crate) struct DatEntry<'a> {
    pub name: String,
    pub chunks: i32,
    /// Values in f32, little-endian.
    values: &'a [[u8; 4]],
}

impl<'a> ImatrixDat<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, Fault> {
        let mut cursor = Cursor::new(bytes);
        let count = length(&mut cursor, SMALLEST, "entries")?;
        let entries = (0..count).map(|_| DatEntry::parse(&mut cursor)).collect::<Result<_, Fault>>()?;
        let mut dat = Self { entries, chunks: None, dataset: None };
        if cursor.remaining() > 0 {
            dat.chunks = Some(i32::from_le_bytes(cursor.array()?));
        }
        if cursor.remaining() > 0 {
            dat.dataset = Some(text(&mut cursor, "the name of the text file")?);
        }
        match cursor.remaining() {
            0 => Ok(dat),
            extra => Err(cursor.fault(format!("{extra} bytes follow the last entry"))),
        }
    }
}

impl<'a> DatEntry<'a> {
    fn parse(cursor: &mut Cursor<'a>) -> Result<Self, Fault> {
        let name = text(cursor, "the name of an entry")?;
        let chunks = i32::from_le_bytes(cursor.array()?);
        let count = length(cursor, size_of::<f32>(), "values")?;
        let (values, _) = cursor.take(size_of::<f32>() * count)?.as_chunks();
        Ok(Self { name, chunks, values })
    }

    /// Number of input features.
    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }

    /// The entry as GGUF files have it: sums and counts over tokens.
    fn over_tokens(self) -> Entry {
        let scale = CHUNK as f32;
        let sums = self.values.iter().map(|bytes| f32::from_le_bytes(*bytes) * scale).collect();
        Entry { name: self.name, sums, tokens: self.chunks as f32 * scale }
    }
}

/// Smallest size of an entry in bytes: three numbers and one value.
const SMALLEST: usize = 16;

/// Reads the entries and the names of the text files.
pub(super) fn read(path: &Path, bytes: &[u8]) -> Result<(Vec<Entry>, Vec<String>), ImatrixError> {
    let ImatrixDat { entries, dataset, .. } = ImatrixDat::parse(bytes)
        .map_err(|Fault { offset, reason }| ImatrixError::Damaged { path: path.to_owned(), offset, reason })?;
    let datasets = dataset.into_iter().filter(|name| !name.is_empty()).collect();
    Ok((entries.into_iter().map(DatEntry::over_tokens).collect(), datasets))
}

fn text(cursor: &mut Cursor<'_>, what: &str) -> Result<String, Fault> {
    let len = length(cursor, 1, "bytes of text")?;
    let start = cursor.offset();
    let invalid = |_| Fault { offset: start, reason: format!("{what} is not valid UTF-8") };
    String::from_utf8(cursor.take(len)?.to_vec()).map_err(invalid)
}

/// A number of items of at least `smallest` bytes each, which can't exceed the rest of the file.
fn length(cursor: &mut Cursor<'_>, smallest: usize, what: &str) -> Result<usize, Fault> {
    let offset = cursor.offset();
    let claimed = i32::from_le_bytes(cursor.array()?);
    let most = cursor.remaining() / smallest;
    let fault = || Fault { offset, reason: format!("{claimed} {what} are announced, but at most {most} fit") };
    usize::try_from(claimed).ok().filter(|count| *count <= most).ok_or_else(fault)
}

#[cfg(test)]
mod tests {
    use super::super::tests::model;
    use crate::export::Importance;

    /// Two chunks: the mean of x² is 1, 2, 3, 4.
    fn file() -> Vec<u8> {
        let name = b"blk.0.attn_q.weight";
        let mut bytes: Vec<u8> = [1, name.len() as i32].iter().flat_map(|number| number.to_le_bytes()).collect();
        bytes.extend(name);
        bytes.extend([2_i32, 4].iter().flat_map(|number| number.to_le_bytes()));
        bytes.extend([2.0_f32, 4.0, 6.0, 8.0].iter().flat_map(|value| value.to_le_bytes()));
        bytes.extend([2_i32, 4].iter().flat_map(|number| number.to_le_bytes()));
        bytes.extend(b"wiki");
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Importance, String> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("imatrix.dat");
        tonfall_durable::write_file(&path, bytes).expect("written");
        Importance::read(&path, &model()).map_err(|error| error.to_string())
    }

    #[test]
    fn means_of_chunks_become_sums_over_tokens() {
        let bytes = file();
        let read_back = read(&bytes).expect("an importance matrix");
        let (sums, tokens) = &read_back.weights["model.layers.0.self_attn.q_proj.weight"];
        assert_eq!((sums.as_slice(), *tokens), ([1024.0, 2048.0, 3072.0, 4096.0].as_slice(), 1024));
        assert_eq!(read_back.datasets, ["wiki"]);
        let without_trailer = read(&bytes[..bytes.len() - 12]).expect("an importance matrix");
        assert_eq!((&without_trailer.weights, without_trailer.datasets.len()), (&read_back.weights, 0));
    }

    #[test]
    fn cut_and_forged_files_are_refused() {
        let bytes = file();
        // The file may end after the entries, and after the number of chunks.
        let complete = [bytes.len(), bytes.len() - 8, bytes.len() - 12];
        for len in (0..bytes.len()).filter(|len| !complete.contains(len)) {
            let error = read(&bytes[..len]).expect_err("cut off");
            assert!(error.contains("imatrix.dat"), "{len}: {error}");
        }
        let error = read(b"neither GGUF nor an imatrix").expect_err("text");
        assert!(error.contains("not an importance matrix of llama.cpp: at offset 0"), "{error}");
        let mut negative = bytes.clone();
        negative[4..8].copy_from_slice(&(-1_i32).to_le_bytes());
        assert!(read(&negative).expect_err("negative").contains("-1 bytes of text are announced"));
    }
}
