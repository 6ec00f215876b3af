//! Encodes the weights of a source in the number formats of an artefact, in pieces.
//!
//! Responsible for: bounded memory, the checks of values, the effect of an adapter, and the hashes by which a written
//! file is verified.
//! Must not depend on: the file format.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use rayon::prelude::*;
use sha2::{Digest, Sha256};
use tonfall_blocks::{Format, byte_len, dequantize, quantize};

use super::ExportError;
use super::importance::Importance;
use super::source::WeightSource;
use crate::base_model::Weight;
use crate::finite::{self, NotFinite};
use crate::rotary_order;
use crate::safetensors_writer::{dtype_of, first_overflow};
use crate::tensor_writer::Sink;

/// Receives the bytes done and the total bytes. Writing and verifying count equally. `Break` stops the export, which
/// then removes everything that it has written.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64) -> ControlFlow<()>;

/// Number of values that are encoded at once.
const BAND: usize = 1 << 21;
/// Number of bytes that are passed to a sink at once.
const PIECE: usize = 8 << 20;

/// The encoding of one weight in an artefact.
#[derive(Clone, Debug)]
pub(crate) struct Encoding {
    /// The Hugging Face name of the weight.
    pub weight: String,
    pub format: Format,
    pub layout: Layout,
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

/// Progress of an export in bytes.
pub(crate) struct Steps<'a> {
    done: u64,
    total: u64,
    progress: Progress<'a>,
}

impl<'a> Steps<'a> {
    /// `bytes`: the size of all tensors.
    pub(crate) fn new(bytes: u64, progress: Progress<'a>) -> Self {
        Self { done: 0, total: 2 * bytes, progress }
    }

    pub(crate) fn advance(&mut self, bytes: usize) -> Result<(), ExportError> {
        self.done += bytes as u64;
        match (self.progress)(self.done, self.total) {
            ControlFlow::Break(()) => Err(ExportError::Interrupted),
            ControlFlow::Continue(()) => Ok(()),
        }
    }
}

/// Encodes weights, one after the other.
pub(crate) struct Encoder<'a, 'p> {
    source: &'a dyn WeightSource,
    importance: Option<&'a Importance>,
    steps: &'a mut Steps<'p>,
    /// SHA-256 of each tensor, by its name in the artefact.
    hashes: BTreeMap<String, [u8; 32]>,
    /// Number of weights with at least one value that differs from the base.
    changed: usize,
}

impl<'a, 'p> Encoder<'a, 'p> {
    /// `importance` calibrates block formats.
    pub(crate) fn new(
        source: &'a dyn WeightSource,
        importance: Option<&'a Importance>,
        steps: &'a mut Steps<'p>,
    ) -> Self {
        Self { source, importance, steps, hashes: BTreeMap::new(), changed: 0 }
    }

    /// Number of weights with at least one value that differs from the base.
    pub(crate) fn changed(&self) -> usize {
        self.changed
    }

    /// Passes the bytes of a weight to the sink. `name` is its name in the artefact.
    pub(crate) fn weight(&mut self, name: &str, encoding: &Encoding, sink: Sink<'_>) -> Result<(), ExportError> {
        let weight = self.source.weight(&encoding.weight)?;
        let mut hash = Sha256::new();
        let unchanged = self.source.change(&encoding.weight).is_none() && encoding.layout != Layout::PlusOne;
        match unchanged && weight.format == encoding.format {
            true => self.copy(&weight, encoding, &mut hash, sink)?,
            false => self.bands(&weight, encoding, &mut hash, sink)?,
        }
        self.hashes.insert(name.to_owned(), hash.finalize().into());
        self.source.release();
        Ok(())
    }

    /// Passes the bytes of a tensor that is not a weight of the model to the sink, unchanged.
    pub(crate) fn other(&mut self, name: &str, bytes: &[u8], sink: Sink<'_>) -> Result<(), ExportError> {
        let mut hash = Sha256::new();
        self.pass(bytes, &mut hash, sink)?;
        self.hashes.insert(name.to_owned(), hash.finalize().into());
        Ok(())
    }

    /// Whether `bytes`, read back from the artefact, are those that were written for the tensor `name`.
    pub(crate) fn verify(&mut self, name: &str, bytes: &[u8]) -> Result<bool, ExportError> {
        let mut hash = Sha256::new();
        for piece in bytes.chunks(PIECE) {
            hash.update(piece);
            self.steps.advance(piece.len())?;
        }
        let found: [u8; 32] = hash.finalize().into();
        Ok(self.hashes.get(name) == Some(&found))
    }

    /// Passes the stored bytes of an unchanged weight to the sink.
    fn copy(
        &mut self,
        weight: &Weight<'_>,
        encoding: &Encoding,
        hash: &mut Sha256,
        sink: Sink<'_>,
    ) -> Result<(), ExportError> {
        let (bytes, rows) = (&weight.bytes, weight.rows);
        if let Some(place) = finite::in_bytes(bytes, weight.format, weight.cols) {
            return Err(self.not_finite(encoding, place));
        }
        match encoding.layout {
            Layout::Interleaved { heads } => {
                self.pass(&rotary_order::to_gguf(bytes, if rows > 1 { rows } else { weight.cols }, heads), hash, sink)
            }
            _ => self.pass(bytes, hash, sink),
        }
    }

    /// Encodes a weight in bands of rows.
    fn bands(
        &mut self,
        weight: &Weight<'_>,
        encoding: &Encoding,
        hash: &mut Sha256,
        sink: Sink<'_>,
    ) -> Result<(), ExportError> {
        let (rows, cols) = (weight.rows, weight.cols);
        // A band of an interleaved matrix consists of whole heads.
        let unit = match encoding.layout {
            Layout::Interleaved { heads } if rows > 1 => rows / heads,
            _ => 1,
        };
        let rows_at_once = ((BAND / cols).max(1)).next_multiple_of(unit);
        let change = self.source.change(&encoding.weight);
        let (mut values, mut before) = (vec![0.0; rows_at_once.min(rows) * cols], Vec::new());
        let mut has_changed = false;
        for first_row in (0..rows).step_by(rows_at_once) {
            let count = rows_at_once.min(rows - first_row);
            let values = &mut values[..count * cols];
            dequantize(weight.format, &weight.bytes, rows, cols, first_row * cols, values);
            if let Some(place) = finite::in_values(values, cols, first_row) {
                return Err(self.not_finite(encoding, place));
            }
            if encoding.layout == Layout::PlusOne {
                values.iter_mut().for_each(|value| *value += 1.0);
            }
            if let Some(change) = change {
                if !has_changed {
                    before.clear();
                    before.extend_from_slice(values);
                }
                change.add_to(values, first_row, cols);
                if let Some(place) = finite::in_values(values, cols, first_row) {
                    return Err(ExportError::NotFinite { name: encoding.weight.clone(), place });
                }
            }
            if let Some(value) = dtype_of(encoding.format).and_then(|dtype| first_overflow(values, dtype)) {
                return Err(ExportError::Overflow { name: encoding.weight.clone(), value, format: encoding.format });
            }
            let importance = self.importance.and_then(|importance| importance.of(&encoding.weight, cols));
            let bytes = encode_rows(encoding.format, values, cols, importance);
            has_changed |= change.is_some() && differs(encoding.format, &before, &bytes, cols, importance);
            match encoding.layout {
                // The elements of a vector are its rows.
                Layout::Interleaved { heads } if rows == 1 => {
                    self.pass(&rotary_order::to_gguf(&bytes, cols, heads), hash, sink)?;
                }
                Layout::Interleaved { .. } => {
                    self.pass(&rotary_order::to_gguf(&bytes, count, count / unit), hash, sink)?;
                }
                _ => self.pass(&bytes, hash, sink)?,
            }
        }
        self.changed += usize::from(has_changed);
        Ok(())
    }

    fn not_finite(&self, encoding: &Encoding, place: NotFinite) -> ExportError {
        let name = encoding.weight.clone();
        match self.source.is_trained() {
            true => ExportError::NotFinite { name, place },
            false => ExportError::BaseNotFinite { name, place },
        }
    }

    fn pass(&mut self, bytes: &[u8], hash: &mut Sha256, sink: Sink<'_>) -> Result<(), ExportError> {
        for piece in bytes.chunks(PIECE) {
            hash.update(piece);
            sink(piece)?;
            self.steps.advance(piece.len())?;
        }
        Ok(())
    }
}

/// Encodes whole rows of `cols` values, on all threads. `importance` has a weight for each column.
fn encode_rows(format: Format, values: &[f32], cols: usize, importance: Option<&[f32]>) -> Vec<u8> {
    let rows = (values.len() / cols).div_ceil(rayon::current_num_threads() * 4).max(1);
    let encode = |values: &[f32]| {
        let mut bytes = Vec::with_capacity(byte_len(format, values.len() / cols, cols));
        quantize(format, values, cols, importance, &mut bytes);
        bytes
    };
    let parts: Vec<Vec<u8>> = values.par_chunks(rows * cols).map(encode).collect();
    parts.concat()
}

/// Whether the encoding of `before` differs from `after`. Compares row by row, because most often the first row differs.
fn differs(format: Format, before: &[f32], after: &[u8], cols: usize, importance: Option<&[f32]>) -> bool {
    let row_bytes = byte_len(format, 1, cols);
    before
        .chunks_exact(cols)
        .zip(after.chunks_exact(row_bytes))
        .any(|(row, after)| encode_rows(format, row, cols, importance) != after)
}
