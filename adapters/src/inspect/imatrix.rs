//! llama.cpp's older binary importance matrix, `imatrix.dat`.
//!
//! Source: `tools/imatrix/imatrix.cpp` of llama.cpp. Little-endian: i32 number of entries; for each entry i32 length and
//! bytes of the tensor's name, i32 number of calls, i32 number of values, f32 values; then, in newer files, i32 number of
//! chunks, i32 length and bytes of the name of the data.

use std::collections::BTreeMap;
use std::path::Path;

use super::{InspectError, Inspection, Kind, MetaValue, TensorInfo, file_info};
use crate::mapped_file::MappedFile;

pub(super) fn inspect(path: &Path, mapped: &MappedFile) -> Result<Inspection, InspectError> {
    let Content { tensors, metadata } =
        read(mapped).map_err(|(offset, reason)| InspectError::Imatrix { path: path.to_owned(), offset, reason })?;
    let files = vec![file_info(path, mapped)];
    Ok(Inspection::new(Kind::ImatrixDat, "imatrix.dat".to_owned(), files, metadata, tensors))
}

struct Content {
    tensors: Vec<TensorInfo>,
    metadata: BTreeMap<String, MetaValue>,
}

/// Offset and reason.
type Fault = (usize, String);

fn read(bytes: &[u8]) -> Result<Content, Fault> {
    let mut reader = Reader { bytes, offset: 0 };
    let count = reader.count("entries", 13)?;
    let mut tensors = Vec::new();
    for _ in 0..count {
        let name = reader.text()?;
        let _calls = reader.number()?;
        let values = reader.count("values", 4)?;
        reader.take(4 * values)?;
        let bytes = Some(4 * values as u64);
        tensors.push(TensorInfo { name, type_name: "F32".to_owned(), shape: vec![values], bytes, file: 0 });
    }
    let mut metadata = BTreeMap::new();
    if !reader.rest().is_empty() {
        metadata.insert("imatrix.chunk_count".to_owned(), MetaValue::Integer(i128::from(reader.number()?)));
        metadata.insert("imatrix.dataset".to_owned(), MetaValue::Text(reader.text()?));
    }
    match reader.rest().len() {
        0 => Ok(Content { tensors, metadata }),
        extra => Err((reader.offset, format!("{extra} bytes follow the last entry"))),
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a [u8] {
        &self.bytes[self.offset..]
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Fault> {
        let taken = self.rest().get(..len).ok_or_else(|| {
            (self.offset, format!("{len} bytes are needed, but the file ends after {}", self.rest().len()))
        })?;
        self.offset += len;
        Ok(taken)
    }

    fn number(&mut self) -> Result<i32, Fault> {
        let offset = self.offset;
        let bytes = self.take(4)?.first_chunk().ok_or_else(|| (offset, "four bytes are needed".to_owned()))?;
        Ok(i32::from_le_bytes(*bytes))
    }

    /// A number of items of at least `smallest` bytes each, of which the rest of the file can hold as many.
    fn count(&mut self, what: &str, smallest: usize) -> Result<usize, Fault> {
        let offset = self.offset;
        let claimed = self.number()?;
        let most = self.rest().len() / smallest;
        let count = usize::try_from(claimed).ok().filter(|count| *count <= most);
        count.ok_or_else(|| (offset, format!("{claimed} {what} are announced, but at most {most} fit")))
    }

    fn text(&mut self) -> Result<String, Fault> {
        let len = self.count("bytes of text", 1)?;
        let offset = self.offset;
        let text = std::str::from_utf8(self.take(len)?);
        text.map(str::to_owned).map_err(|_| (offset, "a name is not valid UTF-8".to_owned()))
    }
}
