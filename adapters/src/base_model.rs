//! Base models: a common way to read weights from all supported kinds of files.
//!
//! Responsible for: opening a Hugging Face directory or a GGUF file, checking every tensor against the description
//! before any weight is read, and returning weights by their Hugging Face names.
//! Must not depend on: the use of the weights.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use thiserror::Error;
use tonfall_blocks::Format;

use crate::bitsandbytes::{self, BitsAndBytesError};
use crate::chat_settings::ChatSettings;
use crate::description::{ModelDescription, Shape};
use crate::families::{self, ConfigError};
use crate::fingerprint;
use crate::gguf::{self, GgufError, GgufFile};
use crate::mapped_file::MappedFile;
use crate::regular_file::{OpenError, refuse_pickle_name};
use crate::side_files::{self, SideFiles};
use crate::tensor_index::{self, IndexedTensor, Place, TensorIndex};
use crate::tokenizer_files::{self, SideFile, TokenizerError, TokenizerFiles};
use crate::weight_files::{WeightFiles, WeightFilesError};
use crate::{hf_config, random_weights, rotary_order};

/// Why a base model can't be used.
#[derive(Debug, Error)]
pub enum BaseError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    WeightFiles(#[from] WeightFilesError),
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

    #[error("{}: tensor `{name}` is missing; fetch the model again, or use weights that fit the configuration", path.display())]
    MissingTensor { path: PathBuf, name: String },

    #[error(
        "{}: tensor `{name}` does not belong to a {family:?} model with this configuration; it could change the \
         result, so it is not ignored",
        path.display()
    )]
    UnknownTensor { path: PathBuf, name: String, family: crate::Family },

    #[error("{}: tensor `{name}` has shape {found:?}, but the configuration says {expected:?}", path.display())]
    TensorShape { path: PathBuf, name: String, found: Vec<usize>, expected: Vec<usize> },

    #[error(
        "{}: tensor `{name}` has the type {dtype}, which is not supported; supported are F32, F16, BF16 and, for \
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

/// A model's name and revision on the Hugging Face Hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubOrigin {
    /// `owner/name`
    pub name: String,
    /// Branch, tag or commit, if one was requested.
    pub revision: Option<String>,
}

/// The storage format of a base model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BaseKind {
    HuggingFace,
    Gguf,
}

/// One weight of a base model.
#[derive(Clone, Debug)]
pub struct Weight<'a> {
    /// The Hugging Face name.
    pub name: String,
    pub format: Format,
    /// Output features. 1 for a vector.
    pub rows: usize,
    /// Input features. For a vector, its length.
    pub cols: usize,
    /// Bytes in the layout that `tonfall_blocks::dequantize` reads.
    pub bytes: Cow<'a, [u8]>,
}

#[derive(Debug)]
enum Source {
    HuggingFace { files: WeightFiles, config: Map<String, Value> },
    Gguf(GgufFile),
}

/// A base model, opened and checked. Its weights are read on demand.
#[derive(Debug)]
pub struct BaseModel {
    path: PathBuf,
    origin: Option<HubOrigin>,
    description: ModelDescription,
    weights: TensorIndex,
    source: Source,
}

impl BaseModel {
    /// Opens a Hugging Face directory or a GGUF file.
    ///
    /// # Errors
    /// If a part is damaged, unknown or contradictory. See the variants of [`BaseError`].
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
        let files = WeightFiles::open(dir)?;
        let weights = tensor_index::in_directory(dir, &files, &description)?;
        Ok(Self {
            path: dir.to_owned(),
            origin: None,
            description,
            weights,
            source: Source::HuggingFace { files, config },
        })
    }

    /// A model with the shapes of a `config.json` and random BF16 weights, for benchmarks. Each weight is computed on
    /// demand and is the same every time. The model has no tokenizer and no side files.
    ///
    /// # Errors
    /// If the configuration can't be read or is not supported.
    pub fn random(config_path: &Path) -> Result<Self, BaseError> {
        let Some(config) = tokenizer_files::read_object(config_path)? else {
            return Err(BaseError::NotFound { path: config_path.to_owned() });
        };
        let description = families::describe(config_path, &config)?;
        let weights = tensor_index::at_random(&description);
        let files = WeightFiles { files: Vec::new(), index: None };
        let source = Source::HuggingFace { files, config };
        Ok(Self { path: config_path.to_owned(), origin: None, description, weights, source })
    }

    fn open_gguf(path: &Path) -> Result<Self, BaseError> {
        let file = GgufFile::open(path, |path, metadata| families::of_metadata(path, metadata).map(|_| ()))?;
        let (description, interleaved) = families::describe_gguf(&file)?;
        let weights = tensor_index::in_gguf(path, &file, &description, interleaved)?;
        Ok(Self { path: path.to_owned(), origin: None, description, weights, source: Source::Gguf(file) })
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

    /// The path that was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Sets the model's name on the Hub. Adapters store this name instead of the path of a local cache.
    #[must_use]
    pub fn with_origin(mut self, origin: HubOrigin) -> Self {
        self.origin = Some(origin);
        self
    }

    /// The value of `base_model_name_or_path` in adapters: the name on the Hub, or the given path.
    #[must_use]
    pub fn name_or_path(&self) -> String {
        self.origin.as_ref().map_or_else(|| self.path.display().to_string(), |origin| origin.name.clone())
    }

    /// The value of `revision` in adapters.
    #[must_use]
    pub fn revision(&self) -> Option<String> {
        self.origin.as_ref().and_then(|origin| origin.revision.clone())
    }

    /// Names of all modules with weights, and `lm_head`, which also exists if the head is tied to the embedding.
    #[must_use]
    pub fn modules(&self) -> BTreeSet<String> {
        let weights = self.weights.keys().filter_map(|name| Some(name.rsplit_once('.')?.0.to_owned()));
        weights.chain(["lm_head".to_owned()]).collect()
    }

    /// Whether at least one weight is quantised.
    #[must_use]
    pub fn is_quantized(&self) -> bool {
        self.weights.values().any(|indexed| !indexed.format.is_dense())
    }

    /// Names of all weights, in the order of the forward pass.
    #[must_use]
    pub fn weight_names(&self) -> Vec<String> {
        self.description.tensors().into_iter().map(|(name, _)| name).collect()
    }

    /// Format and shape of a weight. The weight is not read.
    #[must_use]
    pub fn weight_format(&self, name: &str) -> Option<(Format, Shape)> {
        self.weights.get(name).map(|indexed| (indexed.format, indexed.shape))
    }

    /// The formats of all weights.
    pub fn formats(&self) -> impl Iterator<Item = Format> {
        self.weights.values().map(|indexed| indexed.format)
    }

    /// Total size of all weights in bytes, in their stored formats.
    #[must_use]
    pub fn weight_bytes(&self) -> u64 {
        let bytes = |indexed: &IndexedTensor| {
            let (rows, cols) = indexed.shape.rows_cols();
            tonfall_blocks::byte_len(indexed.format, rows, cols) as u64
        };
        self.weights.values().map(bytes).sum()
    }

    /// A weight by its Hugging Face name (`model.layers.3.self_attn.q_proj.weight`). Borrowed from the memory map, with
    /// two exceptions: q and k of GGUF's `llama` (their rows are reordered), and weights of bitsandbytes (their parts
    /// are joined).
    ///
    /// # Errors
    /// [`BaseError::NoSuchWeight`].
    pub fn weight(&self, name: &str) -> Result<Weight<'_>, BaseError> {
        let no_such = || BaseError::NoSuchWeight { name: name.to_owned() };
        let indexed = self.weights.get(name).ok_or_else(no_such)?;
        let (rows, cols) = indexed.shape.rows_cols();
        let bytes = match (&indexed.place, &self.source) {
            (Place::Plain { file, range }, Source::HuggingFace { files, .. }) => {
                Cow::Borrowed(files.files[*file].1.file.slice(range))
            }
            (Place::Plain { file, range }, Source::Gguf(gguf)) => Cow::Borrowed(gguf.parts[*file].slice(range)),
            (Place::Permuted { file, range, heads }, Source::Gguf(gguf)) => {
                let units = indexed.shape.dims()[0];
                Cow::Owned(rotary_order::from_gguf(gguf.parts[*file].slice(range), units, *heads))
            }
            (Place::PlusOne { file, range, stored }, Source::Gguf(gguf)) => {
                let mut values = vec![0.0; rows * cols];
                tonfall_blocks::dequantize(*stored, gguf.parts[*file].slice(range), rows, cols, 0, &mut values);
                Cow::Owned(values.into_iter().flat_map(|value| (value - 1.0).to_le_bytes()).collect())
            }
            (Place::BitsAndBytes { file, parts }, Source::HuggingFace { files, .. }) => {
                Cow::Owned(parts.pack(&files.files[*file].1))
            }
            (Place::Random, _) => Cow::Owned(random_weights::bf16(name, indexed.shape)),
            _ => unreachable!("a place belongs to its own kind of source"),
        };
        Ok(Weight { name: name.to_owned(), format: indexed.format, rows, cols, bytes })
    }

    /// Releases the memory pages of the weights that were read so far. The weights stay readable. For callers that
    /// convert weights one by one and keep their own copies.
    pub fn release_pages(&self) {
        match &self.source {
            Source::HuggingFace { files, .. } => {
                files.files.iter().for_each(|(_, file)| file.release_pages());
            }
            Source::Gguf(gguf) => gguf.parts.iter().for_each(MappedFile::release_pages),
        }
    }

    /// The tokenizer. For a GGUF file, it is converted from the metadata.
    ///
    /// # Errors
    /// If the tokenizer is missing, damaged or of an unknown kind.
    pub fn tokenizer(&self) -> Result<TokenizerFiles, BaseError> {
        Ok(match &self.source {
            Source::HuggingFace { .. } => tokenizer_files::read(&self.path)?,
            Source::Gguf(gguf) => gguf::tokenizer_files(gguf).map_err(TokenizerError::from)?,
        })
    }

    /// The default dense format of a merged or fully trained model: that of the embedding, or F16 if the embedding is
    /// quantised. F16's 11 bits of precision represent more values of a quantised block than BF16's 8 bits.
    #[must_use]
    pub fn dense_format(&self) -> Format {
        let embedding = self.weights.get("model.embed_tokens.weight").map(|indexed| indexed.format);
        embedding.filter(|format| format.is_dense()).unwrap_or(Format::F16)
    }

    /// The side files of an export, with the chat settings of a run. Those of a Hugging Face directory are copied byte
    /// for byte, except for changes by the export. Those of a GGUF file are made from its metadata. `dtype` is the
    /// dtype of the exported weights, if it differs from that of the base.
    ///
    /// # Errors
    /// If a side file can't be read or made.
    pub fn side_files(&self, dtype: Option<Format>, chat: &ChatSettings) -> Result<SideFiles, BaseError> {
        let mut files = match &self.source {
            Source::HuggingFace { config, .. } => {
                let mut files = side_files::read(&self.path)?;
                let exported = hf_config::exported(config, &self.description, dtype, self.dense_format());
                if let Some(file) = files.iter_mut().find(|file| file.name == "config.json" && exported != *config) {
                    file.bytes = hf_config::pretty(&exported);
                }
                files
            }
            Source::Gguf(_) => {
                let dtype = dtype.unwrap_or_else(|| self.dense_format());
                side_files::make(&self.description, &self.tokenizer()?, dtype)
            }
        };
        let notices = chat.apply(&mut files, &self.description);
        Ok(SideFiles { files, notices })
    }

    /// The files that servers need in an adapter's directory. See [`ChatSettings::adapter_files`].
    ///
    /// # Errors
    /// If a side file of the base can't be read or made.
    pub fn adapter_files(&self, chat: &ChatSettings) -> Result<Vec<SideFile>, BaseError> {
        let own = self.side_files(None, &ChatSettings::default())?;
        Ok(chat.adapter_files(&own.files, &self.description))
    }

    /// The name of the model: that on the Hub, or the last part of the path without its extension.
    #[must_use]
    pub fn short_name(&self) -> String {
        let of_path = || self.path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        self.origin.as_ref().map_or_else(of_path, |origin| origin.name.clone())
    }

    /// The GGUF file.
    pub(crate) fn gguf_file(&self) -> Option<&GgufFile> {
        match &self.source {
            Source::HuggingFace { .. } => None,
            Source::Gguf(gguf) => Some(gguf),
        }
    }

    /// The weight files of a Hugging Face directory.
    pub(crate) fn weight_files(&self) -> Option<&WeightFiles> {
        match &self.source {
            Source::HuggingFace { files, .. } => Some(files),
            Source::Gguf(_) => None,
        }
    }

    /// A fingerprint of the configuration: `config.json` and the end tokens of `generation_config.json`, or the whole
    /// header of a GGUF file, including its tokenizer. It doesn't depend on the path.
    #[must_use]
    pub fn config_fingerprint(&self) -> String {
        match &self.source {
            Source::HuggingFace { config, .. } => {
                let text = format!("{}{:?}", Value::Object(config.clone()), self.description.eos_token_ids);
                fingerprint::of_bytes(text.as_bytes())
            }
            Source::Gguf(gguf) => {
                let headers = gguf.parts.iter().zip(&gguf.data_starts).map(|(file, start)| &file[..*start]);
                match headers.collect::<Vec<_>>()[..] {
                    [header] => fingerprint::of_bytes(header),
                    ref headers => fingerprint::of_bytes(&headers.concat()),
                }
            }
        }
    }

    /// A fingerprint of all tensors. Up to 1 GiB, every byte is hashed. Above, samples of each tensor are hashed. A
    /// scaled, retrained or replaced tensor changes the fingerprint in both cases. A single changed value between two
    /// samples doesn't.
    #[must_use]
    pub fn weights_fingerprint(&self) -> String {
        let tensors: Vec<(String, &[u8])> = match &self.source {
            Source::HuggingFace { files, .. } => {
                let entries = files.files.iter().flat_map(|(_, file)| {
                    file.tensors.iter().map(move |(name, entry)| (name, entry, file.bytes(entry)))
                });
                entries
                    .map(|(name, entry, bytes)| (format!("{name} {} {:?}", entry.dtype.name(), entry.shape), bytes))
                    .collect()
            }
            // The headers, which are part of `config_fingerprint`, contain types and shapes.
            Source::Gguf(gguf) => {
                gguf.tensors.iter().map(|(name, tensor)| (name.clone(), gguf.bytes(tensor))).collect()
            }
        };
        fingerprint::of_tensors(&tensors, || self.release_pages())
    }
}
