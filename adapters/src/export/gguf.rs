//! The export `gguf`: a complete model for llama.cpp and the programs that contain it.
//!
//! Responsible for: the plan of a file. Keys and names are those of llama.cpp's converters; each family's own are in
//! `families`.

use std::collections::BTreeSet;
use std::path::Path;

use tonfall_blocks::Format;
use tonfall_durable::{self as durable, DurableError};

use super::encoder::{Content, Encoder, Progress, Steps, Written};
use super::file_type::{FileType, uses_importance};
use super::importance::Importance;
use super::lineage;
use super::part::{Encoding, Layout};
use super::resume::Resume;
use super::source::{FullyTrained, Merged, Unchanged, WeightSource};
use super::{Artifact, ExportError, ExportReport, ExportSettings, GgufTypes, Trained};
use crate::base_model::BaseModel;
use crate::description::{ModelDescription, Shape};
use crate::families::{self, Row};
use crate::gguf::{
    GgufFile, Metadata, MetadataValue, PlannedGguf, PlannedGgufTensor, carried_tokenizer, tokenizer_metadata,
};
use crate::names;
use crate::safetensors_writer::encode;
use crate::tensor_index::rotary_heads;

pub(super) const TARGET: &str = "llama.cpp";
/// The importance matrix that calibrated the files of a directory.
pub const IMATRIX_FILE: &str = "imatrix.gguf";
const EMBEDDING: &str = "model.embed_tokens.weight";
const ROPE_DIVISORS: &str = "rope_freqs.weight";

/// Writes one file for each of the file types.
pub(super) fn write(
    artifact: &Artifact<'_>,
    settings: &ExportSettings,
    dir: &Path,
    progress: Progress<'_>,
) -> Result<ExportReport, ExportError> {
    let source: Box<dyn WeightSource> = match artifact.trained {
        Trained::Nothing => Box::new(Unchanged(artifact.base)),
        Trained::Adapter(adapter) => Box::new(Merged::new(artifact.base, adapter)?),
        Trained::Full(values) => Box::new(FullyTrained::new(artifact.base.description(), values)),
    };
    let importance = settings.importance.as_ref();
    let plans =
        settings.types.iter().map(|types| Plan::new(artifact, types, importance)).collect::<Result<Vec<_>, _>>()?;
    let layouts = plans.iter().map(|plan| plan.file.layout()).collect::<std::io::Result<Vec<_>>>();
    let layouts = layouts.map_err(|error| DurableError::new("write", dir, error))?;
    let resume = Resume::new(artifact, settings, dir, plans.len());
    let bytes: u64 = layouts.iter().map(|layout| layout.len).sum();
    durable::check_space(dir, bytes.saturating_sub(resume.kept_bytes()))?;
    let mut report = ExportReport::default();
    let mut steps = Steps::new(plans.iter().map(Plan::bytes).sum(), progress);
    for (plan, layout) in plans.into_iter().zip(layouts) {
        let mut encoder = Encoder::new(&*source, importance, &mut steps, settings.max_ram);
        encoder.write(&dir.join(&plan.name), &layout, &plan.contents(), &resume, |path| {
            Ok(Box::new(WrittenFile { plan: &plan.file, found: GgufFile::open(path, |_, _| Ok(()))? }))
        })?;
        if matches!(artifact.trained, Trained::Adapter(_)) && encoder.changed() == 0 {
            return Err(ExportError::NoEffect { format: plan.types.clone() });
        }
        report.tensors += plan.file.tensors.len();
        report.changed_tensors += encoder.changed();
        report.bytes += plan.bytes();
        report.notices.extend(plan.notices);
        report.files.push(plan.name);
    }
    if let Some(importance) = importance {
        importance.write(&dir.join(IMATRIX_FILE), artifact.base.description())?;
        report.files.push(IMATRIX_FILE.to_owned());
    }
    Ok(report)
}

/// One file to write.
struct Plan {
    name: String,
    /// The name of the file type, for messages.
    types: String,
    file: PlannedGguf,
    /// The weights, in the order of the file's first tensors. The rotary divisors follow.
    encodings: Vec<Encoding>,
    rope_divisors: Option<Vec<f32>>,
    notices: Vec<String>,
}

impl Plan {
    fn new(artifact: &Artifact<'_>, types: &GgufTypes, importance: Option<&Importance>) -> Result<Self, ExportError> {
        let importance = importance.filter(|_| types.use_importance());
        let base = artifact.base;
        let model = base.description();
        let unsupported = |reason: String| ExportError::Target { target: TARGET, reason };
        let mut notices = Vec::new();
        let architecture = Row::of(model.family).gguf;
        let tensors = model.tensors();
        let encodings: Vec<Encoding> = tensors
            .iter()
            .map(|(name, shape)| {
                let layout = match rotary_heads(name, model).filter(|_| architecture.interleaved) {
                    Some(heads) => Layout::Interleaved { heads },
                    None if model.unit_offset && names::is_norm(name) => Layout::PlusOne,
                    None => Layout::Same,
                };
                Encoding { weight: name.clone(), shape: *shape, format: types.format_of(name, *shape, base), layout }
            })
            .collect();
        notices.extend(other_formats(types, &encodings, &tensors));
        notices.extend(windows(model));
        let keys = families::gguf_metadata(model).map_err(unsupported)?;
        if keys.iter().any(|(key, _)| key.ends_with(families::PERIOD_KEY)) {
            notices.push(format!(
                "versions of llama.cpp before 2026 ignore `{}` and compute this model with other windows",
                families::PERIOD_KEY
            ));
        }
        notices.extend(importance.and_then(|importance| not_calibrated(types, &encodings, importance, model)));
        let planned = |(encoding, (name, shape)): (&Encoding, &(String, Shape))| PlannedGgufTensor {
            name: names::to_gguf(name, model.output_norms),
            format: encoding.format,
            shape: shape.dims(),
        };
        let mut planned: Vec<_> = encodings.iter().zip(&tensors).map(planned).collect();
        let rope_divisors = families::rope_divisors(model);
        if let Some(divisors) = &rope_divisors {
            let name = ROPE_DIVISORS.to_owned();
            planned.push(PlannedGgufTensor { name, format: Format::F32, shape: vec![divisors.len()] });
        }
        let mut metadata = general(artifact, "model", types.number(base));
        metadata.extend(keys);
        metadata.extend(tokenizer(artifact)?);
        metadata.extend(importance.into_iter().flat_map(calibration));
        Ok(Self {
            name: format!("model-{types}.gguf"),
            types: types.to_string(),
            file: PlannedGguf { metadata, tensors: planned },
            encodings,
            rope_divisors,
            notices,
        })
    }

    /// Size of all tensors in bytes.
    fn bytes(&self) -> u64 {
        self.file.tensors.iter().filter_map(|tensor| tensor.bytes().ok()).sum()
    }

    /// The content of each tensor.
    fn contents<'a>(&self) -> Vec<Content<'a>> {
        let divisors = self.rope_divisors.as_ref().map(|divisors| encode(divisors, crate::Dtype::F32));
        let encodings = self.encodings.iter().cloned().map(Content::Weight);
        encodings.chain(divisors.map(|bytes| Content::Bytes(bytes.into()))).collect()
    }
}

/// A written file and its plan.
struct WrittenFile<'a> {
    plan: &'a PlannedGguf,
    found: GgufFile,
}

impl Written for WrittenFile<'_> {
    fn tensor(&self, index: usize) -> Option<&[u8]> {
        let planned = &self.plan.tensors[index];
        let found = self.found.tensors.get(&planned.name)?;
        (found.format == planned.format && found.shape == planned.shape).then(|| self.found.bytes(found))
    }

    /// Also counts the metadata keys, which are not compared one by one.
    fn is_complete(&self) -> bool {
        self.found.tensors.len() == self.plan.tensors.len() && self.found.metadata.len() == self.plan.metadata.len()
    }

    fn name(&self, index: usize) -> &str {
        &self.plan.tensors[index].name
    }

    fn release(&self) {
        self.found.parts[0].release_pages();
    }
}

/// The keys `general.*` of a file of type `kind`, and the lineage.
pub(super) fn general(artifact: &Artifact<'_>, kind: &str, file_type: Option<u32>) -> Metadata {
    let base = artifact.base;
    let text = |text: &str| MetadataValue::String(text.to_owned());
    let mut keys = vec![
        ("general.architecture".to_owned(), text(Row::of(base.description().family).gguf.architecture)),
        ("general.type".to_owned(), text(kind)),
        ("general.name".to_owned(), text(artifact.name)),
        ("general.base_model.count".to_owned(), MetadataValue::U32(1)),
        ("general.base_model.0.name".to_owned(), text(&base.short_name())),
    ];
    if let Some(number) = file_type {
        keys.push(("general.file_type".to_owned(), MetadataValue::U32(number)));
        keys.push(("general.quantization_version".to_owned(), MetadataValue::U32(2)));
    }
    keys.extend(artifact.lineage.iter().map(|(key, value)| (format!("{}{key}", lineage::PREFIX), text(value))));
    keys
}

/// The tokenizer: that of a GGUF base unchanged, otherwise converted; with the run's chat template and end tokens.
fn tokenizer(artifact: &Artifact<'_>) -> Result<Metadata, ExportError> {
    let (base, chat) = (artifact.base, artifact.chat);
    let mut metadata = match base.gguf_file() {
        Some(gguf) => carried_tokenizer(gguf, chat.template.as_deref()),
        None => {
            let mut files = base.tokenizer()?;
            if let Some(template) = &chat.template {
                (files.chat_template, files.other_templates) = (Some(template.clone()), Vec::new());
            }
            tokenizer_metadata(&files, base.description().vocab_size)?
        }
    };
    // llama.cpp stops at the tokens of these keys. The end of a turn is the first end token that is not the end of a text.
    const END_OF_TURN: &str = "tokenizer.ggml.eot_token_id";
    if !metadata.iter().any(|(key, _)| key == END_OF_TURN) {
        let text_ends: Option<u32> = base.description().eos_token_ids.first().copied();
        if let Some(id) = chat.end_tokens.iter().find(|id| Some(**id) != text_ends) {
            metadata.push((END_OF_TURN.to_owned(), MetadataValue::U32(*id)));
        }
    }
    Ok(metadata)
}

/// Names the formats that replace that of the file type, because rows are not whole numbers of its blocks.
fn other_formats(types: &GgufTypes, encodings: &[Encoding], tensors: &[(String, Shape)]) -> Option<String> {
    let GgufTypes::Type(file_type) = types else { return None };
    let (mut count, mut formats) = (0, BTreeSet::new());
    for (encoding, (_, shape)) in encodings.iter().zip(tensors) {
        let (_, cols) = shape.rows_cols();
        if matches!(shape, Shape::Matrix(..)) && !cols.is_multiple_of(file_type.block_len()) {
            count += 1;
            formats.insert(encoding.format.to_string());
        }
    }
    let formats = formats.into_iter().collect::<Vec<_>>().join(", ");
    (count > 0).then(|| {
        format!(
            "{file_type}: {count} matrices are stored as {formats}, because their rows are no whole number of blocks"
        )
    })
}

/// Counts the matrices that are quantised without importance, because the importance matrix has none for them. Rows of an
/// embedding are not multiplied with inputs, so an embedding that is not the head as well never has one.
fn not_calibrated(
    types: &GgufTypes,
    encodings: &[Encoding],
    importance: &Importance,
    model: &ModelDescription,
) -> Option<String> {
    let is_missing = |encoding: &&Encoding| {
        let is_table = encoding.weight == EMBEDDING && !model.tie_word_embeddings;
        uses_importance(encoding.format) && !is_table && !importance.weights.contains_key(&encoding.weight)
    };
    let mut missing = encodings.iter().filter(is_missing);
    let first = &missing.next()?.weight;
    Some(match missing.count() {
        0 => format!("{types}: `{first}` is quantised without calibration: it is not in the importance matrix"),
        more => format!(
            "{types}: `{first}` and {more} more matrices are quantised without calibration: they are not in the \
             importance matrix"
        ),
    })
}

/// The keys with which llama.cpp's quantiser records the importance matrix.
fn calibration(importance: &Importance) -> Metadata {
    let text = |text: &str| MetadataValue::String(text.to_owned());
    let count = |count: usize| MetadataValue::U32(u32::try_from(count).unwrap_or(u32::MAX));
    let dataset = importance.datasets.first().map(|name| ("quantize.imatrix.dataset", text(name)));
    let counts = [
        ("quantize.imatrix.file", text(IMATRIX_FILE)),
        ("quantize.imatrix.entries_count", count(importance.weights.len())),
        ("quantize.imatrix.chunks_count", MetadataValue::U32(importance.chunks())),
    ];
    counts.into_iter().chain(dataset).map(|(key, value)| (key.to_owned(), value)).collect()
}

/// llama.cpp's architectures for Llama, Mistral and Qwen have no sliding window.
fn windows(model: &ModelDescription) -> Option<String> {
    let window = model.layer_windows.iter().flatten().min()?;
    let has_own_key = model.unit_offset;
    (!has_own_key).then(|| {
        format!(
            "llama.cpp computes this model without its sliding window: answers differ beyond {window} tokens of context"
        )
    })
}

impl GgufTypes {
    /// The format of a weight, by its Hugging Face name.
    fn format_of(&self, name: &str, shape: Shape, base: &BaseModel) -> Format {
        match self {
            Self::Type(file_type) => file_type.format_of(name, shape, base.description()),
            Self::Base => {
                let stored = base.weight_format(name).map(|(format, _)| format);
                // GGUF has no NF4, and stores vectors as F32.
                let stored = stored.filter(|format| *format != Format::Nf4 && matches!(shape, Shape::Matrix(..)));
                stored.unwrap_or_else(|| FileType::F16.format_of(name, shape, base.description()))
            }
        }
    }

    /// `general.file_type`. With the base's types, that of the base.
    fn number(&self, base: &BaseModel) -> Option<u32> {
        match self {
            Self::Type(file_type) => Some(file_type.number),
            Self::Base => base.gguf_file().and_then(GgufFile::file_type),
        }
    }
}
