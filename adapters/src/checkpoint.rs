//! The weight files of a Hugging Face directory: one safetensors file, or shards with an index.
//!
//! Responsible for: finding the files, keeping shard paths inside their directory, and one table of all tensors.
//! Must not depend on: what the tensors mean.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;

use crate::mapped_file::{OpenError, refuse_pickle_name};
use crate::safetensors_file::{SafetensorsError, SafetensorsFile, TensorEntry};

pub(crate) const SINGLE_FILE: &str = "model.safetensors";
pub(crate) const INDEX_FILE: &str = "model.safetensors.index.json";

/// Why a directory's weight files can't be used.
#[derive(Debug, Error)]
pub enum CheckpointError {
    #[error(transparent)]
    Safetensors(#[from] SafetensorsError),

    #[error(transparent)]
    Open(#[from] OpenError),

    #[error("{}: neither {SINGLE_FILE} nor {INDEX_FILE} is there", dir.display())]
    NoWeights { dir: PathBuf },

    #[error("{}: {size} bytes are too many for a text file of a model (at most {limit})", path.display())]
    TooLarge { path: PathBuf, size: u64, limit: u64 },

    #[error("{}: {reason}; fetch the file again", path.display())]
    Index { path: PathBuf, reason: String },

    #[error(
        "{}: names the shard `{shard}`, which lies outside the model's directory; a forged index could read any file, \
         so it is refused: keep the shards beside their index",
        path.display()
    )]
    ShardOutside { path: PathBuf, shard: String },

    #[error("{}: promises tensor `{name}` in {shard}, which doesn't hold it; fetch both files again", path.display())]
    NotInShard { path: PathBuf, name: String, shard: String },

    #[error("{}: doesn't list tensor `{name}` of {shard}; fetch both files again", path.display())]
    NotInIndex { path: PathBuf, name: String, shard: String },
}

/// All weight files of a directory.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    /// File names and files.
    pub files: Vec<(String, SafetensorsFile)>,
    /// The index as it stands on disk.
    pub index: Option<Vec<u8>>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Checkpoint {
    pub(crate) fn open(dir: &Path) -> Result<Self, CheckpointError> {
        let index_path = dir.join(INDEX_FILE);
        let single = dir.join(SINGLE_FILE);
        if single.exists() {
            let file = SafetensorsFile::open(&single)?;
            return Ok(Self { files: vec![(SINGLE_FILE.to_owned(), file)], index: None });
        }
        if !index_path.exists() {
            return Err(no_weights(dir));
        }
        let bytes = read_bounded(&index_path)?;
        let index: Index = serde_json::from_slice(&bytes)
            .map_err(|error| CheckpointError::Index { path: index_path.clone(), reason: error.to_string() })?;
        let mut shards: Vec<&String> = index.weight_map.values().collect();
        shards.sort();
        shards.dedup();
        let mut files = Vec::with_capacity(shards.len());
        for shard in shards {
            let path = shard_path(dir, &index_path, shard)?;
            files.push((shard.clone(), SafetensorsFile::open(&path)?));
        }
        let checkpoint = Self { files, index: Some(bytes) };
        checkpoint.compare(&index_path, &index)?;
        Ok(checkpoint)
    }

    /// A tensor and the number of its file.
    pub(crate) fn find(&self, name: &str) -> Option<(usize, &TensorEntry)> {
        let mut files = self.files.iter().enumerate();
        files.find_map(|(number, (_, file))| Some((number, file.tensors.get(name)?)))
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.files.iter().flat_map(|(_, file)| file.tensors.keys().map(String::as_str))
    }

    /// Index and shards must tell the same.
    fn compare(&self, path: &Path, index: &Index) -> Result<(), CheckpointError> {
        let holds = |shard: &str, name: &str| {
            self.files.iter().any(|(file_name, file)| file_name == shard && file.tensors.contains_key(name))
        };
        for (name, shard) in &index.weight_map {
            if !holds(shard, name) {
                let (path, name, shard) = (path.to_owned(), name.clone(), shard.clone());
                return Err(CheckpointError::NotInShard { path, name, shard });
            }
        }
        for (shard, file) in &self.files {
            for name in file.tensors.keys() {
                if index.weight_map.get(name) != Some(shard) {
                    let (path, name, shard) = (path.to_owned(), name.clone(), shard.clone());
                    return Err(CheckpointError::NotInIndex { path, name, shard });
                }
            }
        }
        Ok(())
    }
}

/// Names what is there instead when it is a pickle.
fn no_weights(dir: &Path) -> CheckpointError {
    let pickles =
        ["pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.00.pth", "model.pt", "model.ckpt"];
    let pickle = pickles.iter().map(|name| dir.join(name)).find(|path| path.exists());
    let refused = pickle.and_then(|path| refuse_pickle_name(&path.with_extension("bin")).err());
    match refused {
        Some(error) => error.into(),
        None => CheckpointError::NoWeights { dir: dir.to_owned() },
    }
}

/// A shard is a plain file name, and what it points to stays in the directory. The Hub's cache is the one exception:
/// its `snapshots/REVISION/` links into the `blobs/` of the same repository.
fn shard_path(dir: &Path, index: &Path, shard: &str) -> Result<PathBuf, CheckpointError> {
    let outside = || CheckpointError::ShardOutside { path: index.to_owned(), shard: shard.to_owned() };
    let mut components = Path::new(shard).components();
    let (Some(Component::Normal(_)), None) = (components.next(), components.next()) else { return Err(outside()) };
    let path = dir.join(shard);
    refuse_pickle_name(&path)?;
    let resolve = |path: &Path| path.canonicalize().map_err(|source| OpenError::Io { path: path.to_owned(), source });
    let (root, target) = (resolve(dir)?, resolve(&path)?);
    let snapshots = root.parent().filter(|parent| parent.file_name().is_some_and(|name| name == "snapshots"));
    let blobs = snapshots.and_then(Path::parent).map(|repository| repository.join("blobs"));
    match target.starts_with(&root) || blobs.is_some_and(|blobs| target.starts_with(blobs)) {
        true => Ok(path),
        false => Err(outside()),
    }
}

/// Reads a text file that belongs to a model: configuration, index, tokenizer, template.
pub(crate) fn read_bounded(path: &Path) -> Result<Vec<u8>, CheckpointError> {
    const LIMIT: u64 = 256 << 20;
    let io = |source: io::Error| OpenError::Io { path: path.to_owned(), source };
    let file = fs::File::open(path).map_err(io)?;
    let size = file.metadata().map_err(io)?.len();
    if size > LIMIT {
        return Err(CheckpointError::TooLarge { path: path.to_owned(), size, limit: LIMIT });
    }
    let mut bytes = Vec::with_capacity(size as usize);
    file.take(LIMIT).read_to_end(&mut bytes).map_err(io)?;
    Ok(bytes)
}
