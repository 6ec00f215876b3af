//! Merges a LoRA adapter into its base: W + s·B·A in f32, rounded once.
//!
//! Responsible for: writing the merged model file by file with bounded memory, and verifying it by reading it back.
//! Must not depend on: training, a tensor framework.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use thiserror::Error;
use tonfall_blocks::{Format, dequantize};
use tonfall_durable::{self as durable, DurableError, ScratchDir};

use crate::base_model::{BaseError, BaseModel, Weight};
use crate::chat_settings::ChatSettings;
use crate::finite::{self, NotFinite};
use crate::peft::{Adapter, AdapterTensor};
use crate::safetensors_file::{Dtype, SafetensorsError, SafetensorsFile};
use crate::safetensors_writer::{Planned, PlannedFile, Sink, dtype_of, encode, first_overflow, lay_out};
use crate::tokenizer_files::SideFile;

/// Why a merge failed. Nothing is left at the output path after an error.
#[derive(Debug, Error)]
pub enum MergeError {
    #[error(transparent)]
    Base(#[from] BaseError),
    #[error(transparent)]
    Safetensors(#[from] SafetensorsError),

    #[error(transparent)]
    Durable(#[from] DurableError),

    #[error("{}: is already there; name a new directory or remove it", path.display())]
    OutputExists { path: PathBuf },

    #[error("the adapter changes `{module}`, which this base does not have; it was made for another model")]
    NoSuchModule { module: String },

    #[error(
        "the adapter changes lm_head, but this base ties its head to model.embed_tokens.weight, so a merged model can't \
         change one without the other; serve the base with the adapter instead, or train without lm_head"
    )]
    TiedHead,

    #[error("the base's tensor `{name}` holds {place}; fetch the base again, or take another one")]
    BaseNotFinite { name: String, place: NotFinite },

    #[error(
        "tensor `{name}` would hold {place}: the product of the adapter's matrices is too large; the training diverged, \
         so merge an earlier checkpoint or train with a lower learning rate"
    )]
    NotFinite { name: String, place: NotFinite },

    #[error("interrupted; nothing was written")]
    Interrupted,

    #[error("the adapter's `{module}` is {found:?} (out, in), the base's {expected:?}; it was made for another model")]
    Shape { module: String, found: [usize; 2], expected: [usize; 2] },

    #[error("a merged model can't be written as {format}; choose F32, F16 or BF16")]
    Format { format: Format },

    #[error(
        "the adapter changes no value of the base: its effect is zero or vanishes in {dtype}; train longer, or merge \
         with another dtype"
    )]
    NoEffect { dtype: &'static str },

    #[error("tensor `{name}`: {value} is too large for {dtype}; merge with dtype F32 or BF16")]
    Overflow { name: String, value: f32, dtype: &'static str },

    #[error("{}: read back after writing, tensor `{name}` differs; the disk or its driver is at fault", path.display())]
    ReadBack { path: PathBuf, name: String },
}

/// Settings of a merged model.
#[derive(Clone, Debug)]
pub struct MergeOptions {
    /// Maximum size of a file in bytes, if the base's division into files is not kept.
    pub max_shard_bytes: u64,
    /// The dtype of the merged model: F32, F16 or BF16. `None`: the base's dense format.
    pub dtype: Option<Format>,
    pub chat: ChatSettings,
}

impl Default for MergeOptions {
    fn default() -> Self {
        Self { max_shard_bytes: 5_000_000_000, dtype: None, chat: ChatSettings::default() }
    }
}

/// The result of a merge.
#[derive(Clone, Debug, PartialEq)]
pub struct MergeReport {
    /// Weight files, then side files.
    pub files: Vec<String>,
    pub tensors: usize,
    /// Number of tensors with at least one value that differs from the base.
    pub changed_tensors: usize,
    pub changed_values: u64,
    /// Total size of all tensors in bytes.
    pub bytes: u64,
    /// Notices for the user.
    pub notices: Vec<String>,
}

/// Receives the bytes done and the total bytes. Writing and verifying count equally. `Break` stops the merge, which
/// then removes everything that it has written.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64) -> ControlFlow<()>;

/// Merges `adapter` into `base` and writes a Hugging Face directory to `out`, which must not exist yet.
///
/// A dense Hugging Face base keeps its names, dtypes, shards, index and side files. A quantised base is written in a
/// dense dtype, with a new configuration. Memory: a few tens of MB and two tensors, independent of the model's size.
/// Values that are not finite are never written.
///
/// # Errors
/// See [`MergeError`].
pub fn merge(
    base: &BaseModel,
    adapter: &Adapter,
    out: &Path,
    options: &MergeOptions,
    progress: Progress<'_>,
) -> Result<MergeReport, MergeError> {
    let deltas = deltas(base, adapter)?;
    let plan = Plan::new(base, options)?;
    if out.exists() {
        return Err(MergeError::OutputExists { path: out.to_owned() });
    }
    let scratch = ScratchDir::beside(out)?;
    let mut work = Work { base, deltas, done: 0, total: 2 * plan.bytes(), progress, changes: BTreeMap::new() };
    for file in &plan.files {
        file.write(scratch.path(), |index, sink| {
            let written = work.stream(&file.tensors[index], sink);
            base.release_pages();
            written
        })?;
    }
    for file in &plan.side_files {
        write_side_file(scratch.path(), file)?;
    }
    let changes = std::mem::take(&mut work.changes);
    let changed_values: u64 = changes.values().sum();
    if changed_values == 0 {
        return Err(MergeError::NoEffect { dtype: plan.dtype });
    }
    for file in &plan.files {
        work.verify(scratch.path(), file)?;
    }
    scratch.publish()?;
    let side = plan.side_files.iter().map(|file| file.name.clone());
    Ok(MergeReport {
        files: plan.files.iter().map(|file| file.name.clone()).chain(side).collect(),
        tensors: plan.files.iter().map(|file| file.tensors.len()).sum(),
        changed_tensors: changes.values().filter(|changed| **changed > 0).count(),
        changed_values,
        bytes: plan.bytes(),
        notices: plan.notices,
    })
}

/// Writes a side file. If its name contains a directory, the directory is created.
pub(crate) fn write_side_file(dir: &Path, file: &SideFile) -> Result<(), DurableError> {
    let path = dir.join(&file.name);
    path.parent().map_or(Ok(()), durable::create_dir_all)?;
    durable::write_file(&path, &file.bytes)
}

/// The change of one module's weight: s·B·A.
struct Delta<'a> {
    a: &'a AdapterTensor,
    b: &'a AdapterTensor,
    scale: f32,
}

impl Delta<'_> {
    /// Adds rows of s·B·A, from `first_row` on, to `values`, which are whole rows of `cols` values.
    fn add_to(&self, values: &mut [f32], first_row: usize, cols: usize) {
        let rank = self.a.shape[0];
        values.par_chunks_mut(cols).enumerate().for_each(|(number, row)| {
            let mut sums = vec![0.0f32; cols];
            let b = &self.b.values[(first_row + number) * rank..][..rank];
            for (weight, a) in b.iter().zip(self.a.values.chunks_exact(cols)) {
                for (sum, a) in sums.iter_mut().zip(a) {
                    *sum += weight * a;
                }
            }
            for (value, sum) in row.iter_mut().zip(sums) {
                *value += self.scale * sum;
            }
        });
    }
}

/// The adapter's matrices, by the name of the weight that they change.
fn deltas<'a>(base: &BaseModel, adapter: &'a Adapter) -> Result<BTreeMap<String, Delta<'a>>, MergeError> {
    let mut deltas = BTreeMap::new();
    for (module, (a, b)) in adapter.pairs() {
        let name = format!("{module}.weight");
        if module == "lm_head" && base.description().tie_word_embeddings {
            return Err(MergeError::TiedHead);
        }
        let Some((_, shape)) = base.weight_format(&name) else {
            return Err(MergeError::NoSuchModule { module: module.to_owned() });
        };
        let (rows, cols) = shape.rows_cols();
        let (found, expected) = ([b.shape[0], a.shape[1]], [rows, cols]);
        if found != expected {
            return Err(MergeError::Shape { module: module.to_owned(), found, expected });
        }
        deltas.insert(name, Delta { a, b, scale: adapter.scale() });
    }
    Ok(deltas)
}

/// The files to write.
struct Plan {
    files: Vec<PlannedFile>,
    side_files: Vec<SideFile>,
    dtype: &'static str,
    notices: Vec<String>,
}

impl Plan {
    fn new(base: &BaseModel, options: &MergeOptions) -> Result<Self, MergeError> {
        let dense = base.weight_files().filter(|_| !base.is_quantized() && options.dtype.is_none());
        let Some(found) = dense else { return Self::dense(base, options) };
        let mut side = base.side_files(None, &options.chat)?;
        side.files.extend(found.index.clone().map(index_file));
        let files = found.files.iter().map(|(name, file)| PlannedFile {
            name: name.clone(),
            metadata: file.metadata.clone(),
            tensors: file.names_in_file_order().into_iter().map(|name| planned(file, name)).collect(),
        });
        let dtype = dtype_of(base.dense_format()).map_or("the base's dtype", Dtype::name);
        Ok(Self { files: files.collect(), side_files: side.files, dtype, notices: side.notices })
    }

    /// All weights in one dense dtype, with a new division into files.
    fn dense(base: &BaseModel, options: &MergeOptions) -> Result<Self, MergeError> {
        let format = options.dtype.unwrap_or_else(|| base.dense_format());
        let dtype = dtype_of(format).ok_or(MergeError::Format { format })?;
        let tensors = base.description().tensors().into_iter();
        let tensors = tensors.map(|(name, shape)| Planned { name, dtype, shape: shape.dims() }).collect();
        let (files, index) = lay_out(tensors, options.max_shard_bytes);
        let mut side = base.side_files(Some(format), &options.chat)?;
        side.files.extend(index.map(index_file));
        let mut notices = side.notices;
        if base.is_quantized() {
            notices.push(format!(
                "the base is quantised: its weights were written as {}, three to eight times as large; merging into the \
                 full-precision release of the base, if there is one, loses less",
                dtype.name()
            ));
        }
        Ok(Self { files, side_files: side.files, dtype: dtype.name(), notices })
    }

    fn bytes(&self) -> u64 {
        self.files.iter().flat_map(|file| &file.tensors).map(Planned::bytes).sum()
    }
}

fn planned(file: &SafetensorsFile, name: &str) -> Planned {
    let entry = &file.tensors[name];
    Planned { name: name.to_owned(), dtype: entry.dtype, shape: entry.shape.clone() }
}

fn index_file(bytes: Vec<u8>) -> SideFile {
    SideFile { name: crate::weight_files::INDEX_FILE.to_owned(), bytes }
}

/// Number of values that are converted at once.
const BAND: usize = 1 << 21;

struct Work<'a> {
    base: &'a BaseModel,
    deltas: BTreeMap<String, Delta<'a>>,
    done: u64,
    total: u64,
    progress: Progress<'a>,
    /// Number of values that differ from the base, by tensor.
    changes: BTreeMap<String, u64>,
}

impl Work<'_> {
    /// Passes the merged bytes of one tensor to the sink.
    fn stream(&mut self, tensor: &Planned, sink: Sink<'_>) -> Result<(), MergeError> {
        let Ok(weight) = self.base.weight(&tensor.name) else {
            // Known buffers and the copy of a tied head are not weights. They are copied.
            let bytes = self.base.weight_files().and_then(|files| {
                let (file, entry) = files.find(&tensor.name)?;
                Some(files.files[file].1.bytes(entry))
            });
            return bytes.map_or(Ok(()), |bytes| self.copy(bytes, tensor, sink));
        };
        let Some(delta) = self.deltas.get(&tensor.name) else {
            if dtype_of(weight.format) == Some(tensor.dtype) {
                return self.copy(&weight.bytes, tensor, sink);
            }
            return self.bands(&weight, tensor, sink, |_, _| {});
        };
        // Copied, so that `self.deltas` is no longer borrowed.
        let delta = Delta { a: delta.a, b: delta.b, scale: delta.scale };
        let mut changed = 0;
        let cols = weight.cols;
        self.bands(&weight, tensor, sink, |values, first_row| {
            let before = encode(values, tensor.dtype);
            delta.add_to(values, first_row, cols);
            let after = encode(values, tensor.dtype);
            let size = tensor.dtype.size();
            changed += before.chunks_exact(size).zip(after.chunks_exact(size)).filter(|(a, b)| a != b).count() as u64;
        })?;
        self.changes.insert(tensor.name.clone(), changed);
        Ok(())
    }

    /// Converts a weight in bands of rows. `edit` receives the values of a band and the index of its first row.
    fn bands(
        &mut self,
        weight: &Weight<'_>,
        tensor: &Planned,
        sink: Sink<'_>,
        mut edit: impl FnMut(&mut [f32], usize),
    ) -> Result<(), MergeError> {
        let rows_at_once = (BAND / weight.cols).max(1);
        let mut values = vec![0.0; rows_at_once.min(weight.rows) * weight.cols];
        for first_row in (0..weight.rows).step_by(rows_at_once) {
            let rows = rows_at_once.min(weight.rows - first_row);
            let values = &mut values[..rows * weight.cols];
            dequantize(weight.format, &weight.bytes, weight.rows, weight.cols, first_row * weight.cols, values);
            if let Some(place) = finite::in_values(values, weight.cols, first_row) {
                return Err(MergeError::BaseNotFinite { name: tensor.name.clone(), place });
            }
            edit(values, first_row);
            if let Some(place) = finite::in_values(values, weight.cols, first_row) {
                return Err(MergeError::NotFinite { name: tensor.name.clone(), place });
            }
            if let Some(value) = first_overflow(values, tensor.dtype) {
                let (name, dtype) = (tensor.name.clone(), tensor.dtype.name());
                return Err(MergeError::Overflow { name, value, dtype });
            }
            self.pass(&encode(values, tensor.dtype), sink)?;
        }
        Ok(())
    }

    /// Passes the bytes of an unchanged tensor to the sink.
    fn copy(&mut self, bytes: &[u8], tensor: &Planned, sink: Sink<'_>) -> Result<(), MergeError> {
        let columns = tensor.shape.last().copied().unwrap_or(1).max(1);
        match finite::in_bytes(bytes, tensor.dtype, columns) {
            Some(place) => Err(MergeError::BaseNotFinite { name: tensor.name.clone(), place }),
            None => self.pass(bytes, sink),
        }
    }

    fn pass(&mut self, bytes: &[u8], sink: Sink<'_>) -> Result<(), MergeError> {
        for piece in bytes.chunks(BAND * 4) {
            sink(piece)?;
            self.done += piece.len() as u64;
            if (self.progress)(self.done, self.total).is_break() {
                return Err(MergeError::Interrupted);
            }
        }
        Ok(())
    }

    /// Recomputes every tensor of a written file and compares it with the file.
    fn verify(&mut self, dir: &Path, file: &PlannedFile) -> Result<(), MergeError> {
        let path = dir.join(&file.name);
        let written = SafetensorsFile::open(&path)?;
        for tensor in &file.tensors {
            let differs = || MergeError::ReadBack { path: path.clone(), name: tensor.name.clone() };
            let entry = written.tensors.get(&tensor.name).ok_or_else(differs)?;
            if entry.dtype != tensor.dtype || entry.shape != tensor.shape {
                return Err(differs());
            }
            let mut rest = written.bytes(entry);
            let mut same = true;
            self.stream(tensor, &mut |bytes| {
                let (now, later) = rest.split_at(bytes.len().min(rest.len()));
                same &= now == bytes;
                rest = later;
                Ok(())
            })?;
            self.base.release_pages();
            written.release_pages();
            if !same || !rest.is_empty() {
                return Err(differs());
            }
        }
        match written.tensors.len() == file.tensors.len() {
            true => Ok(()),
            false => Err(MergeError::ReadBack { path, name: "(an extra one)".to_owned() }),
        }
    }
}
