//! The export `safetensors`: a complete model as a Hugging Face directory.
//!
//! A dense Hugging Face base keeps its names, dtypes, division into files, index and side files. All other models are
//! written in one dense dtype, with a new configuration.

use std::collections::BTreeMap;
use std::path::Path;

use tonfall_durable as durable;

use super::encoder::{Content, Encoder, Progress, Steps, Written};
use super::part::{Encoding, Layout};
use super::resume::Resume;
use super::source::{FullyTrained, Merged, Unchanged, WeightSource};
use super::{Artifact, ExportError, ExportReport, ExportSettings, Trained, write_side_file};
use crate::base_model::BaseModel;
use crate::description::{ModelDescription, Shape};
use crate::hf_config::{config_json, pretty};
use crate::safetensors_file::SafetensorsFile;
use crate::safetensors_writer::{PlannedFile, PlannedTensor, dtype_of, lay_out};
use crate::tensor_writer::FileLayout;
use crate::tokenizer_files::SideFile;
use crate::weight_files::INDEX_FILE;

const CONFIG: &str = "config.json";

pub(super) fn write(
    artifact: &Artifact<'_>,
    settings: &ExportSettings,
    dir: &Path,
    progress: Progress<'_>,
) -> Result<ExportReport, ExportError> {
    match artifact.trained {
        Trained::Nothing => {
            let plan = Plan { needs_effect: false, ..Plan::of_merged(artifact, settings)? };
            plan.write(artifact, &Unchanged(artifact.base), settings, dir, progress)
        }
        Trained::Adapter(adapter) => {
            let source = Merged::new(artifact.base, adapter)?;
            let plan = Plan::of_merged(artifact, settings)?;
            plan.write(artifact, &source, settings, dir, progress)
        }
        Trained::Full(values) => {
            let source = FullyTrained::new(artifact.base.description(), values);
            let plan = Plan::of_fully_trained(artifact, settings)?;
            let report = plan.write(artifact, &source, settings, dir, progress)?;
            check_description(artifact.base, dir)?;
            Ok(report)
        }
    }
}

/// The files to write.
struct Plan {
    files: Vec<PlannedFile>,
    side_files: Vec<SideFile>,
    /// The number format of the weights, for messages.
    format: String,
    /// Whether an adapter must change at least one value.
    needs_effect: bool,
    notices: Vec<String>,
}

impl Plan {
    fn of_merged(artifact: &Artifact<'_>, settings: &ExportSettings) -> Result<Self, ExportError> {
        let base = artifact.base;
        let dense = base.weight_files().filter(|_| !base.is_quantized() && settings.dtype.is_none());
        let Some(found) = dense else {
            let plan = Self::in_one_dtype(artifact, settings)?;
            return Ok(Self { needs_effect: true, ..plan });
        };
        let mut side = base.side_files(None, artifact.chat)?;
        side.files.extend(found.index.clone().map(index_file));
        let files = found.files.iter().map(|(name, file)| PlannedFile {
            name: name.clone(),
            metadata: file.metadata.clone(),
            tensors: file.names_in_file_order().into_iter().map(|name| planned(file, name)).collect(),
        });
        let format = base.dense_format().to_string();
        Ok(Self { files: files.collect(), side_files: side.files, format, needs_effect: true, notices: side.notices })
    }

    /// Full training changes the weights only. The configuration is made from the description.
    fn of_fully_trained(artifact: &Artifact<'_>, settings: &ExportSettings) -> Result<Self, ExportError> {
        let mut plan = Self::in_one_dtype(artifact, settings)?;
        let format = settings.dtype.unwrap_or_else(|| artifact.base.dense_format());
        let config = pretty(&config_json(artifact.base.description(), format));
        plan.side_files.retain(|file| file.name != CONFIG);
        plan.side_files.push(SideFile { name: CONFIG.to_owned(), bytes: config });
        Ok(plan)
    }

    /// All weights in one dense dtype, with a new division into files.
    fn in_one_dtype(artifact: &Artifact<'_>, settings: &ExportSettings) -> Result<Self, ExportError> {
        let base = artifact.base;
        let format = settings.dtype.unwrap_or_else(|| base.dense_format());
        let dtype = dtype_of(format).ok_or(ExportError::Format { format })?;
        let tensors = base.description().tensors().into_iter();
        let tensors = tensors.map(|(name, shape)| PlannedTensor { name, dtype, shape: shape.dims() }).collect();
        let (files, index) = lay_out(tensors, settings.max_shard_bytes);
        let mut side = base.side_files(Some(format), artifact.chat)?;
        side.files.extend(index.map(index_file));
        let mut notices = side.notices;
        if base.is_quantized() {
            notices.push(format!(
                "the base is quantised: its weights were written as {format}, three to eight times as large; merging into \
                 the full-precision release of the base, if there is one, loses less"
            ));
        }
        Ok(Self { files, side_files: side.files, format: format.to_string(), needs_effect: false, notices })
    }

    fn bytes(&self) -> u64 {
        self.files.iter().flat_map(|file| &file.tensors).map(PlannedTensor::bytes).sum()
    }

    /// Writes all files. Weight files are verified by reading them back.
    fn write(
        self,
        artifact: &Artifact<'_>,
        source: &dyn WeightSource,
        settings: &ExportSettings,
        dir: &Path,
        progress: Progress<'_>,
    ) -> Result<ExportReport, ExportError> {
        let layouts: Vec<FileLayout> = self.files.iter().map(PlannedFile::layout).collect();
        let side_bytes: u64 = self.side_files.iter().map(|file| file.bytes.len() as u64).sum();
        let resume = Resume::new(artifact, settings, dir, layouts.len());
        let bytes = layouts.iter().map(|layout| layout.len).sum::<u64>() + side_bytes;
        durable::check_space(dir, bytes.saturating_sub(resume.kept_bytes()))?;
        let base = artifact.base;
        let mut steps = Steps::new(self.bytes(), progress);
        let mut encoder = Encoder::new(source, None, &mut steps, settings.max_ram);
        let weights: BTreeMap<String, Shape> = base.description().tensors().into_iter().collect();
        let content = |tensor: &PlannedTensor| match weights.get(&tensor.name).zip(tensor.dtype.dense_format()) {
            Some((shape, format)) => {
                let weight = tensor.name.clone();
                Content::Weight(Encoding { weight, shape: *shape, format, layout: Layout::Same })
            }
            // Known buffers and the copy of a tied head.
            None => Content::Bytes(stored(base, &tensor.name).into()),
        };
        for (file, layout) in self.files.iter().zip(&layouts) {
            let contents: Vec<_> = file.tensors.iter().map(content).collect();
            encoder.write(&dir.join(&file.name), layout, &contents, &resume, |path| {
                Ok(Box::new(WrittenFile { plan: file, found: SafetensorsFile::open(path)? }))
            })?;
        }
        for file in &self.side_files {
            write_side_file(dir, file)?;
        }
        if self.needs_effect && encoder.changed() == 0 {
            return Err(ExportError::NoEffect { format: self.format });
        }
        let side = self.side_files.iter().map(|file| file.name.clone());
        Ok(ExportReport {
            files: self.files.iter().map(|file| file.name.clone()).chain(side).collect(),
            tensors: self.files.iter().map(|file| file.tensors.len()).sum(),
            changed_tensors: encoder.changed(),
            bytes: self.bytes(),
            notices: self.notices,
        })
    }
}

fn planned(file: &SafetensorsFile, name: &str) -> PlannedTensor {
    let entry = &file.tensors[name];
    PlannedTensor { name: name.to_owned(), dtype: entry.dtype, shape: entry.shape.clone() }
}

fn index_file(bytes: Vec<u8>) -> SideFile {
    SideFile { name: INDEX_FILE.to_owned(), bytes }
}

/// The bytes of a tensor that is not a weight of the model.
fn stored<'a>(base: &'a BaseModel, name: &str) -> &'a [u8] {
    let found = base.weight_files().and_then(|files| {
        let (file, entry) = files.find(name)?;
        Some(files.files[file].1.bytes(entry))
    });
    found.unwrap_or_default()
}

/// A written file and its plan.
struct WrittenFile<'a> {
    plan: &'a PlannedFile,
    found: SafetensorsFile,
}

impl Written for WrittenFile<'_> {
    fn tensor(&self, index: usize) -> Option<&[u8]> {
        let planned = &self.plan.tensors[index];
        let entry = self.found.tensors.get(&planned.name)?;
        (entry.dtype == planned.dtype && entry.shape == planned.shape).then(|| self.found.bytes(entry))
    }

    fn is_complete(&self) -> bool {
        self.found.tensors.len() == self.plan.tensors.len()
    }

    fn name(&self, index: usize) -> &str {
        &self.plan.tensors[index].name
    }

    fn release(&self) {
        self.found.release_pages();
    }
}

/// Opens a model whose configuration was made from the description of `base`, and compares both descriptions.
fn check_description(base: &BaseModel, dir: &Path) -> Result<(), ExportError> {
    let expected = base.description();
    let written = BaseModel::open(dir)?;
    // The chat settings may add end tokens.
    let found = ModelDescription { eos_token_ids: expected.eos_token_ids.clone(), ..written.description().clone() };
    match found == *expected {
        true => Ok(()),
        false => Err(ExportError::ReadBack { path: dir.to_owned(), what: CONFIG.to_owned() }),
    }
}
