//! The export `gguf-adapter`: a LoRA adapter for llama.cpp (`--lora`), Ollama (`ADAPTER`) and LM Studio.
//!
//! Source: llama.cpp, `convert_lora_to_gguf.py` and `llama-adapter.cpp`. llama.cpp computes the scale as alpha / rank, so
//! alpha is stored such that this is the adapter's own scale, with rsLoRA too.

use std::path::Path;

use tonfall_blocks::Format;

use super::encoder::Progress;
use super::gguf::{TARGET, general};
use super::{Artifact, ExportError, ExportReport, ExportSettings, Trained};
use crate::families::{self, Row};
use crate::gguf::{GgufFile, MetadataValue, PlannedGguf, PlannedGgufTensor};
use crate::peft::AdapterTensor;
use crate::safetensors_writer::encode;
use crate::tensor_index::rotary_heads;
use crate::{Dtype, names, rotary_order};

const FILE: &str = "adapter.gguf";

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
    super::source::check_modules(artifact.base, adapter)?;
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

/// The values as F32. With `heads`, the rows are in GGUF's order.
fn bytes(tensor: &AdapterTensor, heads: Option<usize>) -> Vec<u8> {
    let bytes = encode(&tensor.values, Dtype::F32);
    match heads {
        Some(heads) => rotary_order::to_gguf(&bytes, tensor.shape[0], heads),
        None => bytes,
    }
}
