//! Encodes the weights of a source in the number formats of an artefact, in parts, on all threads.
//!
//! Responsible for: writing the tensors of a file within bounded memory, the effect of an adapter, and verifying the written file.
//! Must not depend on: the file format.
//!
//! A part is a few rows of one tensor. One thread computes, hashes and writes it while it is in the cache. The division into parts
//! depends on the tensors alone, so the number of threads changes nothing. Parts are processed in bands, possibly of several tensors.
//! After each band, errors are reported in the order of the parts, and the memory pages that were read are released.

use std::borrow::Cow;
use std::ops::{ControlFlow, Range};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;
use tonfall_durable::{self as durable, ScatteredFile};
use twox_hash::XxHash3_128;

use super::ExportError;
use super::importance::Importance;
use super::part::{self, Buffers, Encoding, PART, Tensor};
use super::resume::Resume;
use super::source::WeightSource;
use crate::tensor_writer::FileLayout;

/// Receives the bytes done and the total bytes. Writing and verifying count equally. `Break` stops the export, which
/// then removes everything that it has written.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64) -> ControlFlow<()>;

/// Largest number of values in a band.
const BAND: usize = 128 * PART;
/// The part of the memory limit, as a divisor, that the values of a band in f32 may take.
const BAND_SHARE: u64 = 8;

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

    fn advance(&mut self, bytes: u64) -> Result<(), ExportError> {
        self.done += bytes;
        match (self.progress)(self.done, self.total) {
            ControlFlow::Break(()) => Err(ExportError::Interrupted),
            ControlFlow::Continue(()) => Ok(()),
        }
    }
}

/// The content of one tensor of a file.
pub(crate) enum Content<'a> {
    Weight(Encoding),
    /// Something that is not a weight of the model, written unchanged.
    Bytes(Cow<'a, [u8]>),
}

/// A file that was written, opened again to verify it.
pub(crate) trait Written {
    /// The bytes of the tensor with this index in the plan. `None` if the file has no such tensor of the planned type and shape.
    fn tensor(&self, index: usize) -> Option<&[u8]>;

    /// Whether the file has as many tensors and keys as planned.
    fn is_complete(&self) -> bool;

    /// The name of a tensor, for messages.
    fn name(&self, index: usize) -> &str;

    /// Releases the memory pages that were read so far.
    fn release(&self);
}

/// Writes files of encoded weights, one after the other.
pub(crate) struct Encoder<'a, 'p> {
    source: &'a dyn WeightSource,
    importance: Option<&'a Importance>,
    steps: &'a mut Steps<'p>,
    /// Number of values in a band.
    band: usize,
    /// Of each thread.
    buffers: Vec<Mutex<Buffers>>,
    /// Number of weights with at least one value that differs from the base.
    changed: usize,
}

/// XXH3 with 128 bits, chained over the parts of a tensor, or over the tensors of a file. It detects faults of disks and drivers, and is
/// ten times as fast as SHA-256, which would take longer than everything else.
type Hash = u128;

/// What became of one part.
struct Done {
    hash: Hash,
    bytes: u64,
}

impl<'a, 'p> Encoder<'a, 'p> {
    /// `importance` calibrates block formats. `max_ram` is the memory limit of the process in bytes.
    pub(crate) fn new(
        source: &'a dyn WeightSource,
        importance: Option<&'a Importance>,
        steps: &'a mut Steps<'p>,
        max_ram: u64,
    ) -> Self {
        let band = usize::try_from(max_ram / BAND_SHARE / size_of::<f32>() as u64).unwrap_or(BAND).clamp(PART, BAND);
        let buffers = (0..rayon::current_num_threads()).map(|_| Mutex::default()).collect();
        Self { source, importance, steps, band, buffers, changed: 0 }
    }

    /// Number of weights with at least one value that differs from the base.
    pub(crate) fn changed(&self) -> usize {
        self.changed
    }

    /// Writes a file durably, or takes over that of a killed process. `contents` has one entry for each tensor of `layout`. Before the
    /// file appears, `open` opens it, and it is compared with everything that was written.
    pub(super) fn write<'w>(
        &mut self,
        path: &Path,
        layout: &FileLayout,
        contents: &[Content<'a>],
        resume: &Resume,
        open: impl Fn(&Path) -> Result<Box<dyn Written + 'w>, ExportError>,
    ) -> Result<(), ExportError> {
        if let Some(record) = resume.take(path, &layout.header)? {
            let done = self.steps.done;
            match open(path).and_then(|found| self.read_back(&*found, contents)) {
                Ok(Ok(hashes)) if of_file(&hashes) == record.hash => {
                    self.changed += record.changed;
                    self.steps.advance(layout.tensors.iter().map(|place| place.end - place.start).sum())?;
                    return resume.finished(path, &layout.header, record.hash, record.changed).map_err(Into::into);
                }
                Err(ExportError::Interrupted) => return Err(ExportError::Interrupted),
                // The disk is at fault. The file is written again.
                _ => self.steps.done = done,
            }
        }
        let before = self.changed;
        let hashes = durable::write_scattered(path, layout.len, |file| {
            file.write_at(&layout.header, 0)?;
            let hashes = self.encode(layout, contents, file)?;
            // The disk writes the end of the file meanwhile.
            file.start_flush();
            let written = open(file.path())?;
            let differs = |what: &str| Err(ExportError::ReadBack { path: path.to_owned(), what: what.to_owned() });
            match self.read_back(&*written, contents)? {
                Err(index) => differs(written.name(index)),
                Ok(found) => match found.iter().zip(&hashes).position(|(found, hash)| found != hash) {
                    Some(index) => differs(written.name(index)),
                    None if !written.is_complete() => differs("the number of tensors or keys"),
                    None => Ok(hashes),
                },
            }
        })?;
        Ok(resume.finished(path, &layout.header, of_file(&hashes), self.changed - before)?)
    }

    /// Encodes and writes all tensors. Returns their hashes.
    fn encode(
        &mut self,
        layout: &FileLayout,
        contents: &[Content<'a>],
        file: &ScatteredFile<'_>,
    ) -> Result<Vec<Hash>, ExportError> {
        let mut hashes = vec![0; contents.len()];
        let mut parts: Vec<(Arc<Tensor<'a>>, Range<usize>)> = Vec::new();
        let mut values = 0;
        for (index, (content, place)) in contents.iter().zip(&layout.tensors).enumerate() {
            let tensor = match content {
                Content::Weight(encoding) => Tensor::encoded(index, encoding.clone(), self.source, self.importance)?,
                Content::Bytes(bytes) => Tensor::stored(index, bytes.clone()),
            };
            tensor.check_len(place.end - place.start)?;
            let tensor = Arc::new(tensor);
            for rows in tensor.parts() {
                values += rows.len() * tensor.cols();
                parts.push((Arc::clone(&tensor), rows));
                if values >= self.band {
                    self.run(&parts, layout, file, &mut hashes)?;
                    parts.clear();
                    values = 0;
                }
            }
        }
        self.run(&parts, layout, file, &mut hashes)?;
        Ok(hashes)
    }

    /// Computes, hashes and writes the parts of a band.
    fn run(
        &mut self,
        parts: &[(Arc<Tensor<'a>>, Range<usize>)],
        layout: &FileLayout,
        file: &ScatteredFile<'_>,
        hashes: &mut [Hash],
    ) -> Result<(), ExportError> {
        let buffers = &self.buffers;
        let run = |(tensor, rows): &(Arc<Tensor<'a>>, Range<usize>)| -> Result<Done, ExportError> {
            // No other thread uses them: the lock is free.
            let own = &buffers[rayon::current_thread_index().unwrap_or(0)];
            let mut own = own.lock().unwrap_or_else(PoisonError::into_inner);
            let bytes = tensor.encode(rows.clone(), &mut own)?;
            file.write_at(bytes, layout.tensors[tensor.index].start + tensor.offset(rows.start))?;
            Ok(Done { hash: XxHash3_128::oneshot(bytes), bytes: bytes.len() as u64 })
        };
        let done: Vec<Result<Done, ExportError>> = parts.par_iter().map(run).collect();
        let mut bytes = 0;
        for ((tensor, _), done) in parts.iter().zip(done) {
            let done = done?;
            hashes[tensor.index] = chained(hashes[tensor.index], done.hash);
            self.changed += usize::from(tensor.newly_changed());
            bytes += done.bytes;
        }
        self.source.release();
        self.steps.advance(bytes)
    }

    /// The hashes of all tensors of a file, or the index of the first tensor that it doesn't have as planned.
    fn read_back(
        &mut self,
        written: &dyn Written,
        contents: &[Content<'a>],
    ) -> Result<Result<Vec<Hash>, usize>, ExportError> {
        let mut parts: Vec<(usize, &[u8])> = Vec::new();
        for (index, content) in contents.iter().enumerate() {
            let Some(bytes) = written.tensor(index) else { return Ok(Err(index)) };
            let part_bytes = match content {
                Content::Weight(encoding) => encoding.part_bytes(),
                Content::Bytes(_) => part::STORED,
            };
            parts.extend(bytes.chunks(part_bytes).map(|part| (index, part)));
        }
        let mut found = vec![0; contents.len()];
        for band in parts.chunks(self.band / PART) {
            let digests: Vec<Hash> = band.par_iter().map(|(_, part)| XxHash3_128::oneshot(part)).collect();
            band.iter().zip(digests).for_each(|((index, _), digest)| found[*index] = chained(found[*index], digest));
            written.release();
            self.steps.advance(band.iter().map(|(_, part)| part.len() as u64).sum())?;
        }
        Ok(Ok(found))
    }
}

/// The hash of a sequence that is continued by `next`.
fn chained(hash: Hash, next: Hash) -> Hash {
    XxHash3_128::oneshot(&[hash.to_le_bytes(), next.to_le_bytes()].concat())
}

/// The hash of all tensors, in hexadecimal digits.
fn of_file(hashes: &[Hash]) -> String {
    format!("{:032x}", hashes.iter().fold(0, |file, hash| chained(file, *hash)))
}
