//! Directories: models of Hugging Face, PEFT adapters, and folders with a GGUF model.
//!
//! Must not depend on: whether the model or the adapter is of a kind that can be trained.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::{InspectError, Inspection, Kind, MetaValue, gguf, safetensors};
use crate::export::{IMATRIX_FILE, LINEAGE_FILE, PREFIX, read_lineage};
use crate::mapped_file::MappedFile;
use crate::peft::{CONFIG_FILE as PEFT_CONFIG, TENSOR_FILE as PEFT_TENSORS};
use crate::regular_file::{CONFIG_LIMIT, read_up_to};
use crate::safetensors_file;
use crate::weight_files::{INDEX_FILE, SINGLE_FILE, WeightFilesError, compare, no_weights, read_index};

const MODEL_CONFIG: &str = "config.json";

pub(super) fn inspect(dir: &Path) -> Result<Inspection, InspectError> {
    let has = |name: &str| dir.join(name).exists();
    if has(PEFT_CONFIG) {
        let mut found = shards(Kind::PeftAdapter, dir, &[PEFT_TENSORS.to_owned()], None)?;
        found.config = Some(json(&dir.join(PEFT_CONFIG))?);
        add_lineage(&mut found, dir)?;
        return Ok(found);
    }
    let mut found = match (has(INDEX_FILE), has(SINGLE_FILE)) {
        (true, single) => {
            let path = dir.join(INDEX_FILE);
            let index = read_index(&path)?;
            if single && !index.shards.iter().any(|name| name == SINGLE_FILE) {
                return Err(WeightFilesError::TwoModels { dir: dir.to_owned() }.into());
            }
            shards(Kind::HuggingFaceModel, dir, &index.shards, Some((&path, &index.weight_map)))?
        }
        (false, true) => shards(Kind::HuggingFaceModel, dir, &[SINGLE_FILE.to_owned()], None)?,
        (false, false) => return gguf_folder(dir),
    };
    let config = dir.join(MODEL_CONFIG);
    if config.exists() {
        found.config = Some(json(&config)?);
    }
    add_lineage(&mut found, dir)?;
    Ok(found)
}

/// The lineage of a directory is in a file of its own.
fn add_lineage(found: &mut Inspection, dir: &Path) -> Result<(), InspectError> {
    let config = |reason| InspectError::Config { path: dir.join(LINEAGE_FILE), reason };
    let lineage = read_lineage(dir).map_err(|error| config(error.to_string()))?;
    found.lineage.extend(lineage.into_iter().map(|(key, value)| (format!("{PREFIX}{key}"), MetaValue::Text(value))));
    Ok(())
}

/// Safetensors files, compared with their index if there is one.
fn shards(
    kind: Kind,
    dir: &Path,
    names: &[String],
    index: Option<(&Path, &BTreeMap<String, String>)>,
) -> Result<Inspection, InspectError> {
    let files: Vec<MappedFile> =
        names.iter().map(|name| MappedFile::open(&dir.join(name))).collect::<Result<_, _>>()?;
    let mut parts = Vec::with_capacity(files.len());
    for file in &files {
        let (metadata, tensors) = safetensors_file::list(file.path(), file)?;
        parts.push((file, metadata, tensors));
    }
    if let Some((path, index)) = index {
        let tensors = parts.iter().map(|(_, _, tensors)| tensors.iter().map(|tensor| tensor.name.as_str()).collect());
        compare(path, index, &names.iter().map(String::as_str).zip(tensors).collect())?;
    }
    Ok(safetensors::of_parts(kind, parts))
}

/// A folder with one GGUF model, such as one for LM Studio or Ollama. A split model counts once.
fn gguf_folder(dir: &Path) -> Result<Inspection, InspectError> {
    let io = |source| InspectError::Io { path: dir.to_owned(), source };
    let mut models: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(dir).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let is_gguf = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
        // An export has the importance matrix of its calibration beside the model.
        let is_matrix = path.file_name().is_some_and(|name| name == IMATRIX_FILE);
        if is_gguf && !is_matrix && !is_later_part(&path) {
            models.push(path);
        }
    }
    match models.as_slice() {
        [model] => gguf::inspect(model),
        [] => match no_weights(dir) {
            WeightFilesError::NoWeights { .. } => Err(InspectError::UnknownDirectory { path: dir.to_owned() }),
            // A pickle instead of weights.
            other => Err(other.into()),
        },
        several => Err(InspectError::SeveralModels { path: dir.to_owned(), count: several.len() }),
    }
}

/// `NAME-00002-of-00003.gguf` and so on.
fn is_later_part(path: &Path) -> bool {
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let part = stem.rsplit_once("-of-").and_then(|(front, count)| {
        let number = front.rsplit_once('-')?.1;
        (count.len() == 5 && number.len() == 5).then(|| number.parse::<u32>().ok())?
    });
    part.is_some_and(|part| part > 1)
}

/// A configuration: an object of any keys.
fn json(path: &Path) -> Result<Map<String, Value>, InspectError> {
    let bytes = read_up_to(path, CONFIG_LIMIT)?;
    serde_json::from_slice(&bytes)
        .map_err(|error| InspectError::Config { path: path.to_owned(), reason: error.to_string() })
}
