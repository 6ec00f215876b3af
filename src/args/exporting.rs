//! Options of the commands that write, calibrate and check exports.
//!
//! Must not depend on: anything that does work.

use std::path::PathBuf;

use clap::Args;
use tonfall_adapters::Format;
use tonfall_adapters::export::{self, Export, FILE_TYPES, GgufTypes};

use super::{DeviceArgs, ServerArgs};

/// What `merge` and `export` have in common.
#[derive(Debug, Args)]
pub(crate) struct ExportOptions {
    /// Base model to use instead of the one that the run or the adapter names
    #[arg(long, value_name = "MODEL")]
    pub(crate) base: Option<String>,
    /// Another run or PEFT adapter of the same base, which is added with this weight [default: 1]; can be repeated
    #[arg(long = "adapter", value_name = "RUN|ADAPTER[=WEIGHT]", value_parser = weighted)]
    pub(crate) others: Vec<(PathBuf, f32)>,
    /// Weight of the first adapter
    #[arg(long, value_name = "WEIGHT", default_value_t = 1.0, value_parser = weight, allow_negative_numbers = true)]
    pub(crate) weight: f32,
    /// Limit of the memory, such as 512MiB or 4GiB, mapped files included
    #[arg(long, value_name = "SIZE", default_value = "4GiB", value_parser = memory)]
    pub(crate) max_ram: u64,
}

fn weight(text: &str) -> Result<f32, String> {
    let value: Option<f32> = text.parse().ok();
    value.filter(|value| value.is_finite()).ok_or_else(|| "expected a number".to_owned())
}

/// A path and a weight after the last `=`. A `=` that no number follows is part of the path.
fn weighted(text: &str) -> Result<(PathBuf, f32), String> {
    let parts = text.rsplit_once('=').and_then(|(path, number)| Some((PathBuf::from(path), weight(number).ok()?)));
    Ok(parts.unwrap_or_else(|| (PathBuf::from(text), 1.0)))
}

/// Less than the program itself needs makes no sense.
const LEAST_MEMORY: u64 = 256 << 20;

fn memory(text: &str) -> Result<u64, String> {
    let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("GB", 1_000_000_000), ("MB", 1_000_000)];
    let bytes = units.iter().find_map(|(unit, bytes)| {
        let number: f64 = text.strip_suffix(unit)?.trim().parse().ok()?;
        Some((number * f64::from(*bytes)) as u64)
    });
    bytes
        .filter(|bytes| *bytes >= LEAST_MEMORY)
        .ok_or_else(|| "expected a size such as 4GiB, at least 256MiB".to_owned())
}

#[derive(Debug, Args)]
pub(crate) struct Merge {
    /// A run, or the directory of a PEFT adapter
    #[arg(value_name = "RUN|ADAPTER")]
    pub(crate) adapter: PathBuf,
    /// Directory for the merged model; it must not exist yet
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) options: ExportOptions,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// A run, the directory of a PEFT adapter, or a model to convert
    #[arg(value_name = "RUN|ADAPTER|MODEL")]
    pub(crate) source: PathBuf,
    /// Kinds of exports, separated by commas: peft, safetensors, gguf, gguf-adapter, ollama
    #[arg(long, value_name = "KINDS", required = true, value_delimiter = ',', value_parser = kind_of_export)]
    pub(crate) to: Vec<&'static Export>,
    /// Directory for the exports, each in a directory of its own
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) options: ExportOptions,
    /// Number formats of GGUF models, separated by commas, one file each: F32, BF16, F16, Q8_0, Q6_K, Q5_K_M, Q4_K_M, Q4_1, Q4_0, or
    /// base for those of the base
    #[arg(long, value_name = "TYPES", default_value = "F16", value_delimiter = ',', value_parser = gguf_types)]
    pub(crate) types: Vec<GgufTypes>,
    /// Number format of safetensors: F32, F16 or BF16 [default: that of the base]
    #[arg(long, value_name = "DTYPE", value_parser = dtype)]
    pub(crate) dtype: Option<Format>,
    #[command(flatten)]
    pub(crate) calibration: CalibrationArgs,
    /// Longest answer that is compared, in tokens
    #[arg(long, value_name = "TOKENS", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_new_tokens: u32,
    /// Don't compare what the exports compute with what the trained model computes
    #[arg(long)]
    pub(crate) no_verify: bool,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
}

/// The texts on which quantised GGUF models are calibrated.
#[derive(Debug, Clone, Args)]
#[group(multiple = false)]
pub(crate) struct CalibrationArgs {
    /// Calibrate quantised GGUF models on the run's eval split, or on its held-out prompts and the model's answers to them
    #[arg(long)]
    pub(crate) calibrate: bool,
    /// Calibrate quantised GGUF models on the texts or conversations of a data file
    #[arg(long, value_name = "FILE")]
    pub(crate) calibrate_on: Option<PathBuf>,
    /// Calibrate quantised GGUF models with an importance matrix of llama.cpp or of an earlier export
    #[arg(long, value_name = "FILE")]
    pub(crate) imatrix: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// Directory of an export, or a file in it
    #[arg(value_name = "ARTEFACT")]
    pub(crate) artefact: PathBuf,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// Base model of an adapter; by default the one that it names
    #[arg(long, value_name = "MODEL", conflicts_with = "server")]
    pub(crate) base: Option<String>,
    /// Number of answers that must be equal [default: all, but none for weights of 4 to 6 bits]
    #[arg(long, value_name = "N")]
    pub(crate) at_least: Option<usize>,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
}

fn kind_of_export(name: &str) -> Result<&'static Export, String> {
    let known = || export::EXPORTS.iter().map(|export| export.name).collect::<Vec<_>>().join(", ");
    export::find(name).ok_or_else(|| format!("there are {}", known()))
}

fn gguf_types(name: &str) -> Result<GgufTypes, String> {
    let known = || FILE_TYPES.map(|file_type| file_type.name).join(", ");
    GgufTypes::find(name).ok_or_else(|| format!("there are base, {}", known()))
}

fn dtype(name: &str) -> Result<Format, String> {
    let dense = [Format::F32, Format::F16, Format::Bf16];
    let found = dense.into_iter().find(|format| format.name().eq_ignore_ascii_case(name));
    found.ok_or_else(|| "expected F32, F16 or BF16".to_owned())
}
