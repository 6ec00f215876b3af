//! Writes a header and then the bytes of tensors, in pieces, so that only a part of one tensor is in memory.
//!
//! Responsible for: the part that all formats of weight files have in common: the durable write, and the check that every
//! tensor gets as many bytes as the header announces.
//! Must not depend on: the format of the header, the meaning of the tensors.

use std::io::{self, Write as _};
use std::ops::Range;
use std::path::Path;

use tonfall_durable::{self as durable, DurableError};

/// Receives the bytes of a tensor, in pieces.
pub type Sink<'a> = &'a mut dyn FnMut(&[u8]) -> Result<(), DurableError>;

/// The places of header and tensors in a file.
#[derive(Clone, Debug)]
pub(crate) struct FileLayout {
    /// The content from offset 0 on.
    pub header: Vec<u8>,
    /// The bytes of each tensor.
    pub tensors: Vec<Range<u64>>,
    /// Bytes of the file.
    pub len: u64,
}

impl FileLayout {
    /// `bytes` has the size of each tensor. Tensors and the file end at multiples of `alignment`; the header must already.
    pub(crate) fn new(header: Vec<u8>, bytes: impl IntoIterator<Item = u64>, alignment: u64) -> Self {
        let mut len = header.len() as u64;
        let place = |bytes: u64| {
            let place = len..len + bytes;
            len = place.end.next_multiple_of(alignment);
            place
        };
        let tensors = bytes.into_iter().map(place).collect();
        Self { header, tensors, len }
    }
}

/// Writes `header` and then the tensors, durably. `tensors` has the name and the number of bytes of each tensor. Each tensor
/// is padded with zeros to a multiple of `alignment`; the header must already be. `fill` is called with the index of each
/// tensor, in order, and must pass the tensor's bytes to the sink.
///
/// # Errors
/// Errors of `fill` and of writing, and a tensor that gets another number of bytes. No file is left after an error.
pub(crate) fn write<E: From<DurableError>>(
    path: &Path,
    header: &[u8],
    tensors: &[(&str, u64)],
    alignment: u64,
    mut fill: impl FnMut(usize, Sink<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let mut fault = None;
    let written = durable::write_with(path, |writer| {
        writer.write_all(header)?;
        for (index, (name, due)) in tensors.iter().enumerate() {
            let mut written = 0;
            let filled = fill(index, &mut |bytes| {
                written += bytes.len() as u64;
                writer.write_all(bytes).map_err(|error| DurableError::new("write", path, error))
            });
            if let Err(error) = filled {
                fault = Some(error);
                return Err(io::Error::other("stopped"));
            }
            if written != *due {
                return Err(io::Error::other(format!("tensor `{name}` got {written} bytes instead of {due}")));
            }
            let padding = due.next_multiple_of(alignment) - due;
            io::copy(&mut io::Read::take(io::repeat(0), padding), writer)?;
        }
        Ok(())
    });
    match fault {
        Some(error) => Err(error),
        None => Ok(written?),
    }
}
