//! One tensor of a file, and the encoding of a part of its rows.
//!
//! Responsible for: the division into parts, the number formats, and the checks of values.
//! Must not depend on: files, threads.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use tonfall_blocks::{Format, byte_len, dequantize, quantize};

use super::ExportError;
use super::importance::Importance;
use super::source::{Change, WeightSource};
use crate::base_model::Weight;
use crate::description::Shape;
use crate::finite::{self, NotFinite};
use crate::rotary_order;
use crate::safetensors_writer::{dtype_of, first_overflow};

/// Number of values of a part: 512 KiB in f32, so that the values before and after encoding are in a core's own cache. A part of a
/// tensor with longer rows, or with heads of more values, is one row or one head.
pub(super) const PART: usize = 1 << 17;

/// Bytes of each part but the last of a tensor that is not a weight.
pub(super) const STORED: usize = size_of::<f32>() * PART;

/// The encoding of one weight in an artefact.
#[derive(Clone, Debug)]
pub(crate) struct Encoding {
    /// The Hugging Face name of the weight.
    pub weight: String,
    pub shape: Shape,
    pub format: Format,
    pub layout: Layout,
}

impl Encoding {
    /// Rows of each part but the last.
    fn rows_per_part(&self) -> usize {
        let (rows, cols) = self.shape.rows_cols();
        // A part of an interleaved matrix consists of whole heads.
        let unit = match self.layout {
            Layout::Interleaved { heads } if rows > 1 => rows / heads,
            _ => 1,
        };
        (PART / cols).max(1).next_multiple_of(unit)
    }

    /// Bytes of a row in the file.
    fn row_bytes(&self) -> usize {
        byte_len(self.format, 1, self.shape.rows_cols().1)
    }

    /// Bytes of each part but the last.
    pub(super) fn part_bytes(&self) -> usize {
        self.rows_per_part() * self.row_bytes()
    }
}

/// Differences between the values of a weight in Hugging Face's format and those in an artefact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    Same,
    /// The rows of each head are interleaved: GGUF's order for rotary embeddings in the architecture `llama`.
    Interleaved {
        heads: usize,
    },
    /// 1 is added to each value: the norms of Gemma.
    PlusOne,
}

/// The buffers of a thread.
#[derive(Default)]
pub(super) struct Buffers {
    values: Vec<f32>,
    before: Vec<f32>,
    bytes: Vec<u8>,
}

/// One tensor of a file. Its bytes are divided into rows.
pub(super) struct Tensor<'a> {
    /// The index in the plan of the file.
    pub index: usize,
    content: Content<'a>,
    rows: usize,
    rows_per_part: usize,
    /// Bytes of a row in the file.
    row_bytes: usize,
    /// Whether training changed at least one value, as far as known.
    changed: AtomicBool,
    counted: AtomicBool,
}

enum Content<'a> {
    /// Bytes without a meaning. A row is one byte.
    Stored(Cow<'a, [u8]>),
    Weight(Box<Encoded<'a>>),
}

struct Encoded<'a> {
    weight: Weight<'a>,
    encoding: Encoding,
    change: Option<&'a Change<'a>>,
    importance: Option<&'a [f32]>,
    /// Whether the stored bytes are those of the file.
    is_copy: bool,
    /// Whether the values before the change are trained ones.
    is_trained: bool,
}

impl<'a> Tensor<'a> {
    pub(super) fn stored(index: usize, bytes: Cow<'a, [u8]>) -> Self {
        let rows = bytes.len();
        Self::new(index, Content::Stored(bytes), rows, STORED, 1)
    }

    /// # Errors
    /// If the weight can't be read.
    pub(super) fn encoded(
        index: usize,
        encoding: Encoding,
        source: &'a dyn WeightSource,
        importance: Option<&'a Importance>,
    ) -> Result<Self, ExportError> {
        let weight = source.weight(&encoding.weight)?;
        let change = source.change(&encoding.weight);
        let (rows, cols) = (weight.rows, weight.cols);
        let (rows_per_part, row_bytes) = (encoding.rows_per_part(), encoding.row_bytes());
        let is_copy = change.is_none() && encoding.layout != Layout::PlusOne && weight.format == encoding.format;
        let importance = importance.and_then(|importance| importance.of(&encoding.weight, cols));
        let is_trained = source.is_trained();
        let encoded = Encoded { weight, encoding, change, importance, is_copy, is_trained };
        Ok(Self::new(index, Content::Weight(Box::new(encoded)), rows, rows_per_part, row_bytes))
    }

    fn new(index: usize, content: Content<'a>, rows: usize, rows_per_part: usize, row_bytes: usize) -> Self {
        let (changed, counted) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { index, content, rows, rows_per_part, row_bytes, changed, counted }
    }

    /// Compares the size in bytes with that in the header of the file.
    pub(super) fn check_len(&self, planned: u64) -> Result<(), ExportError> {
        let bytes = (self.rows * self.row_bytes) as u64;
        let name = || match &self.content {
            Content::Stored(_) => format!("number {}", self.index),
            Content::Weight(encoded) => encoded.encoding.weight.clone(),
        };
        match bytes == planned {
            true => Ok(()),
            false => Err(ExportError::Size { name: name(), bytes, planned }),
        }
    }

    /// The rows of each part.
    pub(super) fn parts(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (rows, step) = (self.rows, self.rows_per_part);
        (0..rows).step_by(step).map(move |start| start..rows.min(start + step))
    }

    /// Values of a row.
    pub(super) fn cols(&self) -> usize {
        match &self.content {
            Content::Stored(_) => 1,
            Content::Weight(encoded) => encoded.weight.cols,
        }
    }

    /// The place of a row within the tensor, in bytes.
    pub(super) fn offset(&self, row: usize) -> u64 {
        (row * self.row_bytes) as u64
    }

    /// Whether training changed a value. True once for each tensor.
    pub(super) fn newly_changed(&self) -> bool {
        self.changed.load(Ordering::Relaxed) && !self.counted.swap(true, Ordering::Relaxed)
    }

    /// The bytes of some rows.
    ///
    /// # Errors
    /// If a value is not finite, or too large for the format.
    pub(super) fn encode<'b>(&'b self, rows: Range<usize>, buffers: &'b mut Buffers) -> Result<&'b [u8], ExportError> {
        let encoded = match &self.content {
            Content::Stored(bytes) => return Ok(&bytes[rows]),
            Content::Weight(encoded) => encoded,
        };
        match encoded.is_copy {
            true => encoded.copied(rows, self.row_bytes, buffers),
            false => encoded.converted(rows, &self.changed, buffers),
        }
    }
}

impl Encoded<'_> {
    /// The stored bytes, which are checked but not decoded.
    fn copied<'b>(
        &'b self,
        rows: Range<usize>,
        row_bytes: usize,
        buffers: &'b mut Buffers,
    ) -> Result<&'b [u8], ExportError> {
        let bytes = &self.weight.bytes[rows.start * row_bytes..rows.end * row_bytes];
        if let Some(place) = finite::in_bytes(bytes, self.weight.format, self.weight.cols) {
            return Err(self.not_finite(NotFinite { row: place.row + rows.start, ..place }));
        }
        if !matches!(self.encoding.layout, Layout::Interleaved { .. }) {
            return Ok(bytes);
        }
        buffers.bytes.clear();
        buffers.bytes.extend_from_slice(bytes);
        self.reorder(rows.len(), &mut buffers.bytes);
        Ok(&buffers.bytes)
    }

    /// Decodes, changes and encodes rows.
    fn converted<'b>(
        &self,
        rows: Range<usize>,
        changed: &AtomicBool,
        buffers: &'b mut Buffers,
    ) -> Result<&'b [u8], ExportError> {
        let (weight, format, cols) = (&self.weight, self.encoding.format, self.weight.cols);
        let Buffers { values, before, bytes } = buffers;
        values.resize(rows.len() * cols, 0.0);
        dequantize(weight.format, &weight.bytes, weight.rows, cols, rows.start * cols, values);
        if let Some(place) = finite::in_values(values, cols, rows.start) {
            return Err(self.not_finite(place));
        }
        if self.encoding.layout == Layout::PlusOne {
            values.iter_mut().for_each(|value| *value += 1.0);
        }
        before.clear();
        if let Some(change) = self.change {
            // One changed part is enough to know that the tensor has changed.
            if !changed.load(Ordering::Relaxed) {
                before.extend_from_slice(values);
            }
            change.add_to(values, rows.start, cols);
            if let Some(place) = finite::in_values(values, cols, rows.start) {
                return Err(ExportError::NotFinite { name: self.encoding.weight.clone(), place });
            }
        }
        if let Some(value) = dtype_of(format).and_then(|dtype| first_overflow(values, dtype)) {
            return Err(ExportError::Overflow { name: self.encoding.weight.clone(), value, format });
        }
        bytes.clear();
        quantize(format, values, cols, self.importance, bytes);
        if self.differs(before, bytes) {
            changed.store(true, Ordering::Relaxed);
        }
        self.reorder(rows.len(), bytes);
        Ok(bytes)
    }

    /// Whether the encoding of `before` differs from `after`. Compares row by row, because most often the first row differs.
    fn differs(&self, before: &[f32], after: &[u8]) -> bool {
        let (format, cols) = (self.encoding.format, self.weight.cols);
        let mut encoded = Vec::new();
        let mut rows = before.chunks_exact(cols).zip(after.chunks_exact(byte_len(format, 1, cols)));
        rows.any(|(row, after)| {
            encoded.clear();
            quantize(format, row, cols, self.importance, &mut encoded);
            encoded != after
        })
    }

    /// Puts the rows of whole heads into the order of the file.
    fn reorder(&self, rows: usize, bytes: &mut Vec<u8>) {
        let Layout::Interleaved { heads } = self.encoding.layout else { return };
        *bytes = match self.weight.rows {
            // The elements of a vector are its rows.
            1 => rotary_order::to_gguf(bytes, self.weight.cols, heads),
            all => rotary_order::to_gguf(bytes, rows, rows / (all / heads)),
        };
    }

    fn not_finite(&self, place: NotFinite) -> ExportError {
        let name = self.encoding.weight.clone();
        match self.is_trained {
            true => ExportError::NotFinite { name, place },
            false => ExportError::BaseNotFinite { name, place },
        }
    }
}
