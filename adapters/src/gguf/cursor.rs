//! Reads numbers and strings from a byte slice. Every read is bounds-checked.
//!
//! Must not depend on: the meaning of the values.

/// A fault and its offset in the file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub offset: usize,
    pub reason: String,
}

/// A read position in the bytes of a file.
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, offset: 0 }
    }

    /// Starts at an offset, which must be within the file.
    pub(crate) fn at(bytes: &'a [u8], offset: usize) -> Self {
        Self { bytes, offset }
    }

    pub(crate) fn offset(&self) -> usize {
        self.offset
    }

    pub(crate) fn remaining(&self) -> usize {
        self.bytes.len() - self.offset
    }

    pub(crate) fn fault(&self, reason: impl Into<String>) -> Fault {
        Fault { offset: self.offset, reason: reason.into() }
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], Fault> {
        let rest = &self.bytes[self.offset..];
        let Some(taken) = rest.get(..len) else {
            return Err(self.fault(format!("{len} bytes are needed, but the file ends after {}", rest.len())));
        };
        self.offset += len;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Fault> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Fault> {
        self.array().map(u64::from_le_bytes)
    }

    /// Reads a count of items of at least `smallest` bytes each. It can't exceed `limit` or the rest of the file.
    pub(crate) fn count(&mut self, smallest: usize, limit: usize, what: &str) -> Result<usize, Fault> {
        let fault = |reason| Fault { offset: self.offset, reason };
        let most = (self.remaining().saturating_sub(8) / smallest).min(limit);
        let claimed = u64::from_le_bytes(self.peek()?);
        match usize::try_from(claimed).ok().filter(|count| *count <= most) {
            Some(count) => {
                self.offset += 8;
                Ok(count)
            }
            None => Err(fault(format!("the header announces {claimed} {what}, but at most {most} fit"))),
        }
    }

    pub(crate) fn string(&mut self, what: &str) -> Result<&'a str, Fault> {
        let start = self.offset;
        let len = self.count(1, usize::MAX, "bytes of text")?;
        let bytes = self.take(len)?;
        let invalid = |_| Fault { offset: start, reason: format!("{what} is not valid UTF-8") };
        std::str::from_utf8(bytes).map_err(invalid)
    }

    fn peek(&self) -> Result<[u8; 8], Fault> {
        Cursor { bytes: self.bytes, offset: self.offset }.array()
    }
}
