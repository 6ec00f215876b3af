//! The weight files of a Hugging Face directory: one safetensors file, or shards with an index.
//!
//! Responsible for: finding the files, refusing shard names outside the directory, and finding a tensor in all files.
//! Must not depend on: the meaning of the tensors.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;

use crate::bounded_json::BoundedMap;
use crate::regular_file::{OpenError, read_text, refuse_pickle_name};
use crate::safetensors_file::{SafetensorsError, SafetensorsFile, TensorEntry};

pub(crate) const SINGLE_FILE: &str = "model.safetensors";
pub(crate) const INDEX_FILE: &str = "model.safetensors.index.json";

/// Maximum number of tensors in an index: twice as many as the largest models have, so a forged index stays small in
/// memory.
const MAX_TENSORS: usize = 1 << 18;

/// Why the weight files of a directory can't be used.
#[derive(Debug, Error)]
pub enum WeightFilesError {
    #[error(transparent)]
    Safetensors(#[from] SafetensorsError),

    #[error(transparent)]
    Open(#[from] OpenError),

    #[error("{}: neither {SINGLE_FILE} nor {INDEX_FILE} is there", dir.display())]
    NoWeights { dir: PathBuf },

    #[error(
        "{}: holds {SINGLE_FILE} and {INDEX_FILE}, whose shards do not include {SINGLE_FILE}: these are two models. \
         Remove the one that is not meant",
        dir.display()
    )]
    TwoModels { dir: PathBuf },

    #[error("{}: {reason}; fetch the file again", path.display())]
    Index { path: PathBuf, reason: String },

    #[error(
        "{}: names the shard `{shard}`, which is no plain file name; a forged index could read any file, so it is \
         refused: keep the shards next to their index",
        path.display()
    )]
    ShardOutside { path: PathBuf, shard: String },

    #[error("{}: lists tensor `{name}` in {shard}, which does not hold it; fetch both files again", path.display())]
    NotInShard { path: PathBuf, name: String, shard: String },

    #[error("{}: does not list tensor `{name}` of {shard}; fetch both files again", path.display())]
    NotInIndex { path: PathBuf, name: String, shard: String },
}

/// All weight files of a directory.
#[derive(Debug)]
pub(crate) struct WeightFiles {
    /// File names and opened files.
    pub files: Vec<(String, SafetensorsFile)>,
    /// The unchanged bytes of the index.
    pub index: Option<Vec<u8>>,
}

/// Tensor name → shard.
#[derive(Deserialize)]
struct Index {
    weight_map: BoundedMap<MAX_TENSORS>,
}

/// The shards of an index: unique and sorted.
///
/// # Errors
/// If the index can't be read, or if a shard's name is not a plain file name of a safetensors file.
pub fn shard_names(index_path: &Path) -> Result<Vec<String>, WeightFilesError> {
    read_index(index_path).map(|index| index.shards)
}

/// An index that was read.
pub(crate) struct ShardIndex {
    bytes: Vec<u8>,
    /// Tensor name → shard.
    pub(crate) weight_map: BTreeMap<String, String>,
    /// Unique and sorted.
    pub(crate) shards: Vec<String>,
}

/// Reads an index and checks the names of its shards.
pub(crate) fn read_index(path: &Path) -> Result<ShardIndex, WeightFilesError> {
    let bytes = read_text(path)?;
    let index: Index = serde_json::from_slice(&bytes)
        .map_err(|error| WeightFilesError::Index { path: path.to_owned(), reason: error.to_string() })?;
    let mut shards: Vec<&String> = index.weight_map.0.values().collect();
    shards.sort_unstable();
    shards.dedup();
    let shards: Vec<String> = shards.into_iter().cloned().collect();
    for shard in &shards {
        let mut components = Path::new(shard).components();
        let plain = matches!((components.next(), components.next()), (Some(Component::Normal(_)), None));
        if !plain || shard.contains(['/', '\\']) {
            return Err(WeightFilesError::ShardOutside { path: path.to_owned(), shard: shard.clone() });
        }
        refuse_pickle_name(Path::new(shard))?;
    }
    Ok(ShardIndex { bytes, weight_map: index.weight_map.0, shards })
}

impl WeightFiles {
    /// Opens the shards of the index, or the single file if there is no index.
    ///
    /// If both exist and the single file is not a shard of the index, the directory contains two models. transformers
    /// would use the single file. Here it is an error, see [`WeightFilesError::TwoModels`].
    pub(crate) fn open(dir: &Path) -> Result<Self, WeightFilesError> {
        let index_path = dir.join(INDEX_FILE);
        let single = dir.join(SINGLE_FILE);
        match (index_path.exists(), single.exists()) {
            (false, false) => return Err(no_weights(dir)),
            (false, true) => {
                let file = SafetensorsFile::open(&single)?;
                return Ok(Self { files: vec![(SINGLE_FILE.to_owned(), file)], index: None });
            }
            (true, _) => {}
        }
        let ShardIndex { bytes, weight_map, shards } = read_index(&index_path)?;
        if single.exists() && !shards.iter().any(|shard| shard == SINGLE_FILE) {
            return Err(WeightFilesError::TwoModels { dir: dir.to_owned() });
        }
        let mut files = Vec::with_capacity(shards.len());
        for shard in shards {
            let file = SafetensorsFile::open(&dir.join(&shard))?;
            files.push((shard, file));
        }
        let shards = files.iter().map(|(shard, file): &(String, SafetensorsFile)| {
            (shard.as_str(), file.tensors.keys().map(String::as_str).collect())
        });
        compare(&index_path, &weight_map, &shards.collect())?;
        Ok(Self { files, index: Some(bytes) })
    }

    /// A tensor, and the index of its file.
    pub(crate) fn find(&self, name: &str) -> Option<(usize, &TensorEntry)> {
        let mut files = self.files.iter().enumerate();
        files.find_map(|(number, (_, file))| Some((number, file.tensors.get(name)?)))
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.files.iter().flat_map(|(_, file)| file.tensors.keys().map(String::as_str))
    }
}

/// Checks that an index and its shards list the same tensors. `shards`: the names of the tensors in each shard.
pub(crate) fn compare(
    path: &Path,
    index: &BTreeMap<String, String>,
    shards: &BTreeMap<&str, BTreeSet<&str>>,
) -> Result<(), WeightFilesError> {
    for (name, shard) in index {
        if !shards.get(shard.as_str()).is_some_and(|names| names.contains(name.as_str())) {
            let (path, name, shard) = (path.to_owned(), name.clone(), shard.clone());
            return Err(WeightFilesError::NotInShard { path, name, shard });
        }
    }
    for (shard, names) in shards {
        for name in names {
            if index.get(*name).map(String::as_str) != Some(shard) {
                let (path, name, shard) = (path.to_owned(), (*name).to_owned(), (*shard).to_owned());
                return Err(WeightFilesError::NotInIndex { path, name, shard });
            }
        }
    }
    Ok(())
}

/// The error for a directory without weights. If there is a pickle instead, the error names it.
pub(crate) fn no_weights(dir: &Path) -> WeightFilesError {
    let pickles =
        ["pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.00.pth", "model.pt", "model.ckpt"];
    let pickle = pickles.iter().map(|name| dir.join(name)).find(|path| path.exists());
    let refused = pickle.and_then(|path| refuse_pickle_name(&path.with_extension("bin")).err());
    match refused {
        Some(error) => error.into(),
        None => WeightFilesError::NoWeights { dir: dir.to_owned() },
    }
}
