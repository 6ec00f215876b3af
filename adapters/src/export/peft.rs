//! The export `peft`: an adapter directory for PEFT, vLLM, text-generation-webui, TGI and SGLang.

use std::path::Path;

use tonfall_blocks::Format;

use super::encoder::Progress;
use super::{Artifact, ExportError, ExportReport, ExportSettings, Trained, write_side_file};
use crate::peft::{CONFIG_FILE, TENSOR_FILE, write_files};

/// Writes the adapter in the subset of PEFT's format that all of them read: one rank, and rsLoRA's scale as alpha / r. Also
/// writes the run's chat template, and a `generation_config.json` if that of the base lacks an end token.
pub(super) fn write(
    artifact: &Artifact<'_>,
    _: &ExportSettings,
    dir: &Path,
    progress: Progress<'_>,
) -> Result<ExportReport, ExportError> {
    let Trained::Adapter(adapter) = artifact.trained else { return Err(ExportError::NeedsAdapter { target: "peft" }) };
    if !adapter.has_effect() {
        return Err(ExportError::NoEffect { format: Format::F32.to_string() });
    }
    write_files(dir, &adapter.without_rslora())?;
    let side_files = artifact.base.adapter_files(artifact.chat)?;
    for file in &side_files {
        write_side_file(dir, file)?;
    }
    let bytes = adapter.tensors.iter().map(|tensor| 4 * tensor.values.len() as u64).sum();
    let _ = progress(2 * bytes, 2 * bytes);
    let names = side_files.into_iter().map(|file| file.name);
    Ok(ExportReport {
        files: [TENSOR_FILE, CONFIG_FILE].map(str::to_owned).into_iter().chain(names).collect(),
        tensors: adapter.tensors.len(),
        changed_tensors: adapter.tensors.len() / 2,
        bytes,
        notices: Vec::new(),
    })
}
