//! Base models: one way to read weights, whatever file they lie in.
//!
//! Responsible for: opening a Hugging Face directory or a GGUF file, checking every tensor against the description
//! before any is read, and handing them out by their Hugging Face names.
//! Must not depend on: what is done with the weights.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use thiserror::Error;
use tonfall_blocks::Format;

use crate::bitsandbytes::{self, BitsAndBytesError};
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::description::{ModelDescription, Shape};
use crate::families::{self, ConfigError};
use crate::fingerprint;
use crate::gguf::{self, GgufError, GgufFile};
use crate::located::{self, Located, Place};
use crate::mapped_file::{OpenError, refuse_pickle_name};
use crate::tokenizer_files::{self, SideFile, TokenizerError, TokenizerFiles};
use crate::{hf_config, random_weights, side_files};

/// Why a base model can't be used.
#[derive(Debug, Error)]
pub enum BaseError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Gguf(#[from] GgufError),
    #[error(transparent)]
    BitsAndBytes(#[from] BitsAndBytesError),
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),

    #[error("{}: there is no such file or directory", path.display())]
    NotFound { path: PathBuf },

    #[error(
        "{}: not a base model; give a Hugging Face directory (config.json, safetensors, tokenizer.json) or a .gguf file",
        path.display()
    )]
    NotAModel { path: PathBuf },

    #[error("{}: there is no config.json; give the directory of a whole model", dir.display())]
    NoConfig { dir: PathBuf },

    #[error("{}: tensor `{name}` is missing; fetch the model again, or take one that fits its configuration", path.display())]
    MissingTensor { path: PathBuf, name: String },

    #[error(
        "{}: tensor `{name}` is no part of a {family:?} model as its configuration describes it; it could change the \
         result, so it is not ignored",
        path.display()
    )]
    UnknownTensor { path: PathBuf, name: String, family: crate::Family },

    #[error("{}: tensor `{name}` has shape {found:?}, but the configuration says {expected:?}", path.display())]
    TensorShape { path: PathBuf, name: String, found: Vec<usize>, expected: Vec<usize> },

    #[error(
        "{}: tensor `{name}` has the type {dtype}, which can't be used here; supported are F32, F16, BF16 and, for \
         matrices, quantised blocks",
        path.display()
    )]
    TensorType { path: PathBuf, name: String, dtype: String },

    #[error(
        "{}: the configuration ties the head to the embedding, but lm_head.weight differs from \
         model.embed_tokens.weight; set `tie_word_embeddings` to what the model was trained with",
        path.display()
    )]
    TiedHeadDiffers { path: PathBuf },

    #[error("the base model has no weight `{name}`")]
    NoSuchWeight { name: String },
}

/// Where a base model came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BaseKind {
    HuggingFace,
    Gguf,
}

/// One weight of a base model.
#[derive(Clone, Debug)]
pub struct Weight<'a> {
    /// Hugging Face's name.
    pub name: String,
    pub format: Format,
    /// Output features; 1 for a vector.
    pub rows: usize,
    /// Input features; the length of a vector.
    pub cols: usize,
    /// As `tonfall_blocks::dequantize` reads them.
    pub bytes: Cow<'a, [u8]>,
}

#[derive(Debug)]
enum Source {
    HuggingFace { checkpoint: Checkpoint, config: Map<String, Value> },
    Gguf(GgufFile),
}

/// A base model, opened and checked; its weights are read when asked for.
#[derive(Debug)]
pub struct BaseModel {
    path: PathBuf,
    description: ModelDescription,
    weights: located::Table,
    source: Source,
}

impl BaseModel {
    /// Opens a Hugging Face directory or a GGUF file.
    ///
    /// # Errors
    /// When anything about it is damaged, unknown or contradictory; see the variants of [`BaseError`].
    pub fn open(path: &Path) -> Result<Self, BaseError> {
        if path.is_dir() {
            return Self::open_directory(path);
        }
        if !path.exists() {
            return Err(BaseError::NotFound { path: path.to_owned() });
        }
        refuse_pickle_name(path)?;
        match path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf")) {
            true => Self::open_gguf(path),
            false => Err(BaseError::NotAModel { path: path.to_owned() }),
        }
    }

    fn open_directory(dir: &Path) -> Result<Self, BaseError> {
        let config_path = dir.join("config.json");
        let Some(config) = tokenizer_files::read_object(&config_path)? else {
            return Err(BaseError::NoConfig { dir: dir.to_owned() });
        };
        bitsandbytes::check_method(config_path.clone(), &config)?;
        let mut description = families::describe(&config_path, &config)?;
        let generation_path = dir.join("generation_config.json");
        if let Some(generation) = tokenizer_files::read_object(&generation_path)? {
            for id in families::end_tokens(&generation_path, &generation)? {
                if !description.eos_token_ids.contains(&id) {
                    description.eos_token_ids.push(id);
                }
            }
        }
        let checkpoint = Checkpoint::open(dir)?;
        let weights = located::in_directory(dir, &checkpoint, &description)?;
        Ok(Self { path: dir.to_owned(), description, weights, source: Source::HuggingFace { checkpoint, config } })
    }

    /// A model of the shape of a `config.json` with random weights in BF16, the same ones every time, made one by one when
    /// they are asked for: something of any size to measure with. It has no tokenizer and no files beside.
    ///
    /// # Errors
    /// When the configuration can't be read or is not understood.
    pub fn random(config_path: &Path) -> Result<Self, BaseError> {
        let Some(config) = tokenizer_files::read_object(config_path)? else {
            return Err(BaseError::NotFound { path: config_path.to_owned() });
        };
        let description = families::describe(config_path, &config)?;
        let weights = located::at_random(&description);
        let checkpoint = Checkpoint { files: Vec::new(), index: None };
        let source = Source::HuggingFace { checkpoint, config };
        Ok(Self { path: config_path.to_owned(), description, weights, source })
    }

    fn open_gguf(path: &Path) -> Result<Self, BaseError> {
        let file = GgufFile::open(path)?;
        let (description, permuted) = gguf::describe(&file)?;
        let weights = located::in_gguf(path, &file, &description, permuted)?;
        Ok(Self { path: path.to_owned(), description, weights, source: Source::Gguf(file) })
    }

    #[must_use]
    pub fn description(&self) -> &ModelDescription {
        &self.description
    }

    #[must_use]
    pub fn kind(&self) -> BaseKind {
        match self.source {
            Source::HuggingFace { .. } => BaseKind::HuggingFace,
            Source::Gguf(_) => BaseKind::Gguf,
        }
    }

    /// Where it was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What an adapter writes down as its base: the path as it was given.
    #[must_use]
    pub fn name_or_path(&self) -> String {
        self.path.display().to_string()
    }

    /// Whether any weight is stored in quantised blocks.
    #[must_use]
    pub fn is_quantized(&self) -> bool {
        self.weights.values().any(|located| !located.format.is_dense())
    }

    /// Names of all weights, in the order of the forward pass.
    #[must_use]
    pub fn weight_names(&self) -> Vec<String> {
        self.description.tensors().into_iter().map(|(name, _)| name).collect()
    }

    /// Number format and shape of a weight, without reading it.
    #[must_use]
    pub fn weight_format(&self, name: &str) -> Option<(Format, Shape)> {
        self.weights.get(name).map(|located| (located.format, located.shape))
    }

    /// Bytes of all weights as they lie in the files.
    #[must_use]
    pub fn weight_bytes(&self) -> u64 {
        let bytes = |located: &Located| {
            let (rows, cols) = located.shape.rows_cols();
            tonfall_blocks::byte_len(located.format, rows, cols) as u64
        };
        self.weights.values().map(bytes).sum()
    }

    /// A weight by its Hugging Face name (`model.layers.3.self_attn.q_proj.weight`). Borrowed from the memory map, except
    /// for q and k of GGUF's `llama` (rows brought back into Hugging Face's order) and bitsandbytes' weights (parts
    /// joined).
    ///
    /// # Errors
    /// [`BaseError::NoSuchWeight`].
    pub fn weight(&self, name: &str) -> Result<Weight<'_>, BaseError> {
        let no_such = || BaseError::NoSuchWeight { name: name.to_owned() };
        let located = self.weights.get(name).ok_or_else(no_such)?;
        let (rows, cols) = located.shape.rows_cols();
        let bytes = match (&located.place, &self.source) {
            (Place::Plain { file, range }, Source::HuggingFace { checkpoint, .. }) => {
                Cow::Borrowed(checkpoint.files[*file].1.file.slice(range))
            }
            (Place::Plain { range, .. }, Source::Gguf(gguf)) => Cow::Borrowed(gguf.file.slice(range)),
            (Place::Permuted { range, heads }, Source::Gguf(gguf)) => {
                let units = located.shape.dims()[0];
                Cow::Owned(located::unpermute(gguf.file.slice(range), units, *heads))
            }
            (Place::BitsAndBytes { file, parts }, Source::HuggingFace { checkpoint, .. }) => {
                Cow::Owned(parts.pack(&checkpoint.files[*file].1))
            }
            (Place::Random, _) => Cow::Owned(random_weights::bf16(name, located.shape)),
            _ => unreachable!("a place belongs to its own kind of source"),
        };
        Ok(Weight { name: name.to_owned(), format: located.format, rows, cols, bytes })
    }

    /// Gives the memory of the weights read so far back to the system; they stay readable. For callers that convert the
    /// weights one after the other and keep their own copy.
    pub fn release_pages(&self) {
        match &self.source {
            Source::HuggingFace { checkpoint, .. } => {
                checkpoint.files.iter().for_each(|(_, file)| file.release_pages());
            }
            Source::Gguf(gguf) => gguf.file.release_pages(),
        }
    }

    /// The tokenizer; converted from the metadata for a GGUF file.
    ///
    /// # Errors
    /// When it is missing, damaged or of an unknown kind.
    pub fn tokenizer(&self) -> Result<TokenizerFiles, BaseError> {
        Ok(match &self.source {
            Source::HuggingFace { .. } => tokenizer_files::read(&self.path)?,
            Source::Gguf(gguf) => gguf::tokenizer_files(gguf).map_err(TokenizerError::from)?,
        })
    }

    /// The dense format in which a merged or fully trained model is written unless another is asked for: that of the
    /// embedding, or F16 where that is quantised (its 11 bits of precision hold more of a block's values than BF16's 8).
    #[must_use]
    pub fn dense_format(&self) -> Format {
        let embedding = self.weights.get("model.embed_tokens.weight").map(|located| located.format);
        embedding.filter(|format| format.is_dense()).unwrap_or(Format::F16)
    }

    /// Files that belong beside the weights: those of a Hugging Face directory byte for byte, or made from a GGUF file's
    /// metadata (with `dtype` in the configuration).
    ///
    /// # Errors
    /// When one can't be read or made.
    pub fn side_files(&self, dtype: Format) -> Result<Vec<SideFile>, BaseError> {
        match &self.source {
            Source::HuggingFace { .. } => Ok(side_files::read(&self.path)?),
            Source::Gguf(_) => Ok(side_files::make(&self.description, &self.tokenizer()?, dtype)),
        }
    }

    /// The `config.json` of the model without its quantisation, for weights written in `dtype`.
    pub(crate) fn dense_config(&self, dtype: Format) -> Vec<u8> {
        let Source::HuggingFace { config, .. } = &self.source else {
            return hf_config::pretty(&hf_config::config_json(&self.description, dtype));
        };
        let mut config = config.clone();
        config.shift_remove("quantization_config");
        for key in ["torch_dtype", "dtype"] {
            if let Some(value) = config.get_mut(key) {
                *value = hf_config::dtype_name(dtype).into();
            }
        }
        hf_config::pretty(&config)
    }

    /// The weight files of a Hugging Face directory.
    pub(crate) fn checkpoint(&self) -> Option<&Checkpoint> {
        match &self.source {
            Source::HuggingFace { checkpoint, .. } => Some(checkpoint),
            Source::Gguf(_) => None,
        }
    }

    /// A fingerprint of the configuration: `config.json` and the end tokens of `generation_config.json`, or GGUF's whole
    /// header, which includes the tokenizer. The path has no influence.
    #[must_use]
    pub fn config_fingerprint(&self) -> String {
        match &self.source {
            Source::HuggingFace { config, .. } => {
                let text = format!("{}{:?}", Value::Object(config.clone()), self.description.eos_token_ids);
                fingerprint::of_bytes(text.as_bytes())
            }
            Source::Gguf(gguf) => fingerprint::of_bytes(&gguf.file[..gguf.contents.data_start]),
        }
    }

    /// A fingerprint of all tensors of the files: of every byte up to 1 GiB, of samples of each tensor above. A scaled,
    /// retrained or replaced tensor shows in both; single values that change between two samples do not.
    #[must_use]
    pub fn weights_fingerprint(&self) -> String {
        let tensors: Vec<(String, &[u8])> = match &self.source {
            Source::HuggingFace { checkpoint, .. } => {
                let entries = checkpoint.files.iter().flat_map(|(_, file)| {
                    file.tensors.iter().map(move |(name, entry)| (name, entry, file.bytes(entry)))
                });
                entries
                    .map(|(name, entry, bytes)| (format!("{name} {} {:?}", entry.dtype.name(), entry.shape), bytes))
                    .collect()
            }
            // Types and shapes stand in the header.
            Source::Gguf(gguf) => {
                let tensors = gguf.contents.tensors.iter();
                tensors.map(|(name, tensor)| (name.clone(), gguf.file.slice(&tensor.range))).collect()
            }
        };
        fingerprint::of_tensors(&tensors, || self.release_pages())
    }
}
