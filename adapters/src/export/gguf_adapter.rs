//! The export `gguf-adapter`: a LoRA adapter for llama.cpp (`--lora`), Ollama (`ADAPTER`) and LM Studio.
//!
//! Source: llama.cpp, `convert_lora_to_gguf.py` and `llama-adapter.cpp`. llama.cpp computes the scale as alpha / rank, so
//! alpha is stored such that this is the adapter's own scale, with rsLoRA too.

use std::collections::BTreeMap;
use std::path::Path;

use tonfall_blocks::{Format, dequantize};

use super::encoder::Progress;
use super::gguf::{TARGET, general};
use super::source::check_modules;
use super::{Artifact, ExportError, ExportReport, ExportSettings, Trained};
use crate::base_model::BaseModel;
use crate::families::{self, Row};
use crate::gguf::{GgufError, GgufFile, MetadataValue, PlannedGguf, PlannedGgufTensor, Value};
use crate::peft::{Adapter, AdapterConfig, AdapterTensor};
use crate::safetensors_writer::encode;
use crate::tensor_index::rotary_heads;
use crate::{Dtype, names, rotary_order};

const FILE: &str = "adapter.gguf";
/// What makes a GGUF file an adapter.
const TYPE: (&str, &str) = ("general.type", "adapter");

pub(super) fn write(
    artifact: &Artifact<'_>,
    _: &ExportSettings,
    dir: &Path,
    progress: Progress<'_>,
) -> Result<ExportReport, ExportError> {
    let Trained::Adapter(adapter) = artifact.trained else {
        return Err(ExportError::NeedsAdapter { target: "gguf-adapter" });
    };
    if !adapter.has_effect() {
        return Err(ExportError::NoEffect { format: Format::F32.to_string() });
    }
    let model = artifact.base.description();
    families::gguf_metadata(model).map_err(|reason| ExportError::Target { target: TARGET, reason })?;
    check_modules(artifact.base, adapter)?;
    let is_interleaved = Row::of(model.family).gguf.interleaved;
    let (mut tensors, mut contents) = (Vec::new(), Vec::new());
    for (module, (a, b)) in adapter.pairs() {
        let weight = format!("{module}.weight");
        let name = names::to_gguf(&weight, model.output_norms);
        let heads = rotary_heads(&weight, model).filter(|_| is_interleaved);
        for (tensor, suffix, heads) in [(a, "lora_a", None), (b, "lora_b", heads)] {
            let name = format!("{name}.{suffix}");
            tensors.push(PlannedGgufTensor { name, format: Format::F32, shape: tensor.shape.to_vec() });
            contents.push(bytes(tensor, heads));
        }
    }
    let number = adapter.config.r as f32 * adapter.scale();
    let mut metadata = general(artifact, "adapter", None);
    metadata.push(("adapter.type".to_owned(), MetadataValue::String("lora".to_owned())));
    metadata.push(("adapter.lora.alpha".to_owned(), MetadataValue::F32(number)));
    let file = PlannedGguf { metadata, tensors };
    let path = dir.join(FILE);
    file.write(&path, |index, sink| Ok::<_, ExportError>(sink(&contents[index])?))?;

    let written = GgufFile::open(&path, |_, _| Ok(()))?;
    for (tensor, content) in file.tensors.iter().zip(&contents) {
        let found = written.tensors.get(&tensor.name).filter(|found| found.shape == tensor.shape);
        if found.is_none_or(|found| written.bytes(found) != content) {
            return Err(ExportError::ReadBack { path, what: tensor.name.clone() });
        }
    }
    let bytes = contents.iter().map(|content| content.len() as u64).sum();
    // An adapter is written in a moment; there is nothing to interrupt.
    let _ = progress(2 * bytes, 2 * bytes);
    Ok(ExportReport {
        files: vec![FILE.to_owned()],
        tensors: file.tensors.len(),
        changed_tensors: file.tensors.len() / 2,
        bytes,
        notices: Vec::new(),
    })
}

/// Whether a file is an adapter in GGUF, by its metadata.
#[must_use]
pub fn is_gguf_adapter(path: &Path) -> bool {
    let file = GgufFile::open(path, |_, _| Ok(()));
    file.is_ok_and(|file| file.metadata.get(TYPE.0).and_then(Value::as_str) == Some(TYPE.1))
}

/// Reads an adapter in GGUF for a base, in Hugging Face's names and order of rows.
///
/// # Errors
/// If the file is damaged or no LoRA adapter, or was made for another model.
pub fn read_gguf_adapter(path: &Path, base: &BaseModel) -> Result<Adapter, ExportError> {
    let metadata = |key: &str, reason: String| {
        ExportError::Gguf(GgufError::Metadata { path: path.to_owned(), key: key.to_owned(), reason })
    };
    let file = GgufFile::open(path, |_, _| Ok(()))?;
    let text = |key: &str| file.metadata.get(key).and_then(Value::as_str);
    for (key, expected) in [TYPE, ("adapter.type", "lora")] {
        if text(key) != Some(expected) {
            return Err(metadata(key, format!("it must be \"{expected}\"")));
        }
    }
    let model = base.description();
    let architecture = Row::of(model.family).gguf;
    if text("general.architecture") != Some(architecture.architecture) {
        let key = "general.architecture";
        return Err(metadata(key, format!("the adapter is not for \"{}\", as its base is", architecture.architecture)));
    }
    let alpha = file.metadata.get("adapter.lora.alpha").and_then(Value::as_f64);
    let lora_alpha = alpha.ok_or_else(|| metadata("adapter.lora.alpha", "it must be a number".to_owned()))?;
    let weights: BTreeMap<String, String> =
        base.weight_names().into_iter().map(|name| (names::to_gguf(&name, model.output_norms), name)).collect();
    let (mut tensors, mut rank) = (Vec::new(), 0);
    for (name, tensor) in &file.tensors {
        let fault = |reason: &str| {
            ExportError::Gguf(GgufError::Tensor {
                path: path.to_owned(),
                name: name.clone(),
                reason: reason.to_owned(),
            })
        };
        let (weight, matrix) = match (name.strip_suffix(".lora_a"), name.strip_suffix(".lora_b")) {
            (Some(weight), _) => (weight, "lora_A"),
            (_, Some(weight)) => (weight, "lora_B"),
            _ => return Err(fault("its name ends with neither .lora_a nor .lora_b")),
        };
        let weight = weights.get(weight).ok_or_else(|| fault("the base has no such weight"))?;
        let [rows, cols] = tensor.shape[..] else { return Err(fault("it is no matrix")) };
        let mut values = vec![0.0; rows * cols];
        dequantize(tensor.format, file.bytes(tensor), rows, cols, 0, &mut values);
        let heads = rotary_heads(weight, model).filter(|_| architecture.interleaved && matrix == "lora_B");
        if let Some(heads) = heads {
            if !rows.is_multiple_of(2 * heads) {
                return Err(fault("its rows are not whole heads"));
            }
            let bytes = rotary_order::from_gguf(&encode(&values, Dtype::F32), rows, heads);
            values = bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        }
        rank = if matrix == "lora_A" { rows } else { cols };
        let module = weight.strip_suffix(".weight").unwrap_or(weight);
        tensors.push(AdapterTensor { name: format!("{module}.{matrix}.weight"), shape: [rows, cols], values });
    }
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    let config = AdapterConfig {
        base_model_name_or_path: None,
        revision: None,
        r: rank,
        lora_alpha,
        lora_dropout: 0.0,
        target_modules: Vec::new(),
        use_rslora: false,
    };
    let adapter = Adapter { config, tensors };
    adapter.check(path)?;
    check_modules(base, &adapter)?;
    Ok(adapter)
}

/// The values as F32. With `heads`, the rows are in GGUF's order.
fn bytes(tensor: &AdapterTensor, heads: Option<usize>) -> Vec<u8> {
    let bytes = encode(&tensor.values, Dtype::F32);
    match heads {
        Some(heads) => rotary_order::to_gguf(&bytes, tensor.shape[0], heads),
        None => bytes,
    }
}
