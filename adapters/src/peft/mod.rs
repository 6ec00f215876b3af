//! LoRA adapters in PEFT's format: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! Responsible for: reading, writing and checking both files, and verifying them by reading them back.
//! Must not depend on: base models, training.

mod combine;
mod config;
mod target_modules;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use thiserror::Error;
use tonfall_blocks::{Format, dequantize};
use tonfall_durable::{self as durable, DurableError};

pub use combine::combine;
pub use config::AdapterConfig;
pub use target_modules::target_modules;

use crate::regular_file::{CONFIG_LIMIT, OpenError, read_up_to, refuse_pickle_name};
use crate::safetensors_file::{Dtype, SafetensorsError, SafetensorsFile};
use crate::safetensors_writer::{PlannedFile, PlannedTensor, encode, format_pt};

pub const CONFIG_FILE: &str = "adapter_config.json";
pub const TENSOR_FILE: &str = "adapter_model.safetensors";
/// PEFT's prefix of all module names.
const PREFIX: &str = "base_model.model.";
const A: &str = ".lora_A.weight";
const B: &str = ".lora_B.weight";

/// Why an adapter can't be read or written.
#[derive(Debug, Error)]
pub enum PeftError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Safetensors(#[from] SafetensorsError),

    #[error(transparent)]
    Durable(#[from] DurableError),

    #[error("{}: holds no adapter ({CONFIG_FILE} and {TENSOR_FILE} are needed)", dir.display())]
    NotAnAdapter { dir: PathBuf },

    #[error("{}: {reason}", path.display())]
    Config { path: PathBuf, reason: String },

    #[error("{}: `{key}` is {found}, which is not supported; supported is {supported}", path.display())]
    Unsupported { path: PathBuf, key: String, found: String, supported: &'static str },

    #[error(
        "{}: unknown key `{key}` (value {found}); it could change what the adapter does, so it is not ignored",
        path.display()
    )]
    UnknownKey { path: PathBuf, key: String, found: String },

    #[error("{}: tensor `{name}`: {reason}", path.display())]
    Tensor { path: PathBuf, name: String, reason: String },

    #[error("{}: there are no tensors; an adapter without any changes nothing", path.display())]
    Empty { path: PathBuf },

    #[error("there is no adapter to combine")]
    NothingToCombine,

    #[error("adapters can't be combined: {reason}")]
    Combine { reason: String },

    #[error("{}: read back after writing, {what} differs; the disk or its driver is at fault", path.display())]
    ReadBack { path: PathBuf, what: String },
}

/// One matrix of an adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterTensor {
    /// The name without PEFT's prefix: `model.layers.0.self_attn.q_proj.lora_A.weight`.
    pub name: String,
    /// `[r, in_features]` for A, `[out_features, r]` for B.
    pub shape: [usize; 2],
    pub values: Vec<f32>,
}

/// A LoRA adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    pub config: AdapterConfig,
    pub tensors: Vec<AdapterTensor>,
}

impl Adapter {
    /// The modules that the adapter changes (`model.layers.0.self_attn.q_proj`), in the order of their tensors.
    #[must_use]
    pub fn modules(&self) -> Vec<String> {
        self.tensors.iter().filter_map(|tensor| tensor.name.strip_suffix(A)).map(str::to_owned).collect()
    }

    /// The tensors, by their names without PEFT's prefix.
    #[must_use]
    pub fn by_name(&self) -> BTreeMap<&str, &AdapterTensor> {
        self.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect()
    }

    /// A and B of each module, by the name of the module.
    #[must_use]
    pub fn pairs(&self) -> BTreeMap<&str, (&AdapterTensor, &AdapterTensor)> {
        let by_name = self.by_name();
        let pair = |tensor: &'_ AdapterTensor| -> Option<(usize, &AdapterTensor)> {
            let module = tensor.name.strip_suffix(A)?;
            Some((module.len(), *by_name.get(format!("{module}{B}").as_str())?))
        };
        self.tensors.iter().filter_map(|a| pair(a).map(|(len, b)| (&a.name[..len], (a, b)))).collect()
    }

    /// The factor of `B A x`: alpha / r, or alpha / √r with rsLoRA.
    #[must_use]
    pub fn scale(&self) -> f32 {
        let rank = self.config.r as f64;
        (self.config.lora_alpha / if self.config.use_rslora { rank.sqrt() } else { rank }) as f32
    }

    /// Whether the adapter changes anything: a module has values other than 0 in both matrices.
    #[must_use]
    pub fn has_effect(&self) -> bool {
        let has_values = |tensor: &AdapterTensor| tensor.values.iter().any(|value| *value != 0.0);
        self.config.lora_alpha != 0.0 && self.pairs().values().any(|(a, b)| has_values(a) && has_values(b))
    }

    /// The same adapter with the scale alpha / r. Not every server reads `use_rslora`.
    pub(crate) fn without_rslora(&self) -> Self {
        let lora_alpha = f64::from(self.scale()) * self.config.r as f64;
        let config = AdapterConfig { lora_alpha, use_rslora: false, ..self.config.clone() };
        match self.config.use_rslora {
            true => Self { config, tensors: self.tensors.clone() },
            false => self.clone(),
        }
    }

    /// Checks that the tensors are pairs of A and B with rank `r` and finite values.
    pub(crate) fn check(&self, path: &Path) -> Result<(), PeftError> {
        let fault = |name: &str, reason: String| {
            Err(PeftError::Tensor { path: path.to_owned(), name: name.to_owned(), reason })
        };
        if self.tensors.is_empty() {
            return Err(PeftError::Empty { path: path.to_owned() });
        }
        let by_name = self.by_name();
        for tensor in &self.tensors {
            let (module, other, rank) = if let Some(module) = tensor.name.strip_suffix(A) {
                (module, B, tensor.shape[0])
            } else if let Some(module) = tensor.name.strip_suffix(B) {
                (module, A, tensor.shape[1])
            } else {
                return fault(&tensor.name, format!("only `…{A}` and `…{B}` are supported"));
            };
            if !by_name.contains_key(format!("{module}{other}").as_str()) {
                return fault(&tensor.name, format!("its counterpart `{module}{other}` is missing"));
            }
            if rank != self.config.r {
                return fault(&tensor.name, format!("its rank is {rank}, but `r` is {}", self.config.r));
            }
            if tensor.shape[0] * tensor.shape[1] != tensor.values.len() {
                return fault(
                    &tensor.name,
                    format!("{:?} is not the shape of {} values", tensor.shape, tensor.values.len()),
                );
            }
            if let Some(at) = tensor.values.iter().position(|value| !value.is_finite()) {
                return fault(
                    &tensor.name,
                    format!("value {at} is {}; the training that made it diverged", tensor.values[at]),
                );
            }
        }
        Ok(())
    }
}

/// Writes the two files of an adapter to a directory that is not complete yet, such as a checkpoint. Then reads them
/// back and compares every bit.
///
/// # Errors
/// If the adapter is invalid (see [`PeftError`]), can't be written, or differs when it is read back.
pub fn write_files(dir: &Path, adapter: &Adapter) -> Result<(), PeftError> {
    let tensor_path = dir.join(TENSOR_FILE);
    adapter.check(&tensor_path)?;
    durable::create_dir_all(dir)?;
    let planned = |tensor: &AdapterTensor| PlannedTensor {
        name: format!("{PREFIX}{}", tensor.name),
        dtype: Dtype::F32,
        shape: tensor.shape.to_vec(),
    };
    let mut order: Vec<&AdapterTensor> = adapter.tensors.iter().collect();
    order.sort_by(|a, b| a.name.cmp(&b.name));
    let file = PlannedFile {
        name: TENSOR_FILE.to_owned(),
        metadata: format_pt(),
        tensors: order.iter().map(|tensor| planned(tensor)).collect(),
    };
    file.write(dir, |index, sink| Ok::<_, PeftError>(sink(&encode(&order[index].values, Dtype::F32))?))?;
    let config_path = dir.join(CONFIG_FILE);
    durable::write_file(&config_path, &adapter.config.to_json())?;

    let written = read(dir)?;
    let differs = |path: &Path, what: String| Err(PeftError::ReadBack { path: path.to_owned(), what });
    if written.config != adapter.config {
        return differs(&config_path, "the configuration".to_owned());
    }
    for (tensor, back) in order.iter().zip(&written.tensors) {
        let bits = |tensor: &AdapterTensor| tensor.values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        if tensor.name != back.name || tensor.shape != back.shape || bits(tensor) != bits(back) {
            return differs(&tensor_path, format!("tensor `{}`", tensor.name));
        }
    }
    match written.tensors.len() == order.len() {
        true => Ok(()),
        false => differs(&tensor_path, "the number of tensors".to_owned()),
    }
}

/// Whether the directory has the files of an adapter, in this format or in one that is refused.
#[must_use]
pub fn is_adapter(dir: &Path) -> bool {
    [CONFIG_FILE, TENSOR_FILE, "adapter_model.bin"].iter().any(|name| dir.join(name).exists())
}

/// Reads an adapter and checks it completely.
///
/// # Errors
/// See [`PeftError`].
pub fn read(dir: &Path) -> Result<Adapter, PeftError> {
    let (config_path, tensor_path) = (dir.join(CONFIG_FILE), dir.join(TENSOR_FILE));
    if !config_path.exists() || !tensor_path.exists() {
        let pickle = dir.join("adapter_model.bin");
        if pickle.exists() {
            refuse_pickle_name(&pickle)?;
        }
        return Err(PeftError::NotAnAdapter { dir: dir.to_owned() });
    }
    let config = read_config(dir)?;
    let file = SafetensorsFile::open(&tensor_path)?;
    let mut tensors = Vec::with_capacity(file.tensors.len());
    for (full_name, entry) in &file.tensors {
        let fault = |reason: String| PeftError::Tensor { path: tensor_path.clone(), name: full_name.clone(), reason };
        let Some(name) = full_name.strip_prefix(PREFIX) else {
            return Err(fault(format!("names of an adapter begin with `{PREFIX}`")));
        };
        let [rows, cols] = entry.shape[..] else { return Err(fault(format!("shape {:?} is no matrix", entry.shape))) };
        let format: Format = entry
            .dtype
            .dense_format()
            .ok_or_else(|| fault(format!("dtype {} is not supported", entry.dtype.name())))?;
        let mut values = vec![0.0; rows * cols];
        dequantize(format, file.bytes(entry), rows, cols, 0, &mut values);
        // The values must not take memory twice.
        file.release_pages();
        tensors.push(AdapterTensor { name: name.to_owned(), shape: [rows, cols], values });
    }
    let adapter = Adapter { config, tensors };
    adapter.check(&tensor_path)?;
    Ok(adapter)
}

/// Reads the configuration of an adapter.
///
/// # Errors
/// See [`PeftError`].
pub fn read_config(dir: &Path) -> Result<AdapterConfig, PeftError> {
    let path = dir.join(CONFIG_FILE);
    AdapterConfig::from_json(&path, &read_up_to(&path, CONFIG_LIMIT)?)
}
