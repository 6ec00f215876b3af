//! Base models by their name on the Hugging Face Hub: `hf:owner/name[@revision]`.
//!
//! Responsible for: finding a snapshot in the local Hub cache and, only where the recipe allows it, downloading one.
//! Must not depend on: what is inside the files. Pickles are never fetched.
//!
//! The cache's layout and the environment variables are huggingface_hub's:
//! <https://huggingface.co/docs/huggingface_hub/guides/manage-cache>.

use std::fs;
use std::path::{Path, PathBuf};

use hf_hub::api::Progress;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};
use thiserror::Error;

use crate::user_cache;

/// The files of a model that are of use here, besides the weights.
const SIDE_FILES: [&str; 8] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
];
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Why a model of the Hub can't be had.
#[derive(Debug, Error)]
pub(crate) enum HubError {
    #[error("`hf:{0}` is no model name; write hf:owner/name or hf:owner/name@revision")]
    Name(String),

    #[error(
        "{name} is not in the Hub cache {cache}; set `allow_download = true` in the recipe, or fetch it with \
         `hf download {repo}`",
        cache = cache.display()
    )]
    NotCached { name: String, repo: String, cache: PathBuf },

    #[error(
        "{name} is not in the Hub cache {cache}, and HF_HUB_OFFLINE forbids to download it; fetch it on another \
         machine and copy the cache",
        cache = cache.display()
    )]
    Offline { name: String, cache: PathBuf },

    #[error("{name} at {endpoint}: {source}; check the name, the revision and, for gated models, HF_TOKEN")]
    Api { name: String, endpoint: String, source: Box<ApiError> },

    #[error("{name}: the server sent an unusable {what}: {value:?}")]
    Answer { name: String, what: &'static str, value: String },

    #[error(
        "{name} holds no {WEIGHTS} and no {INDEX}; only safetensors are fetched, since the older formats can execute \
         code when they are loaded"
    )]
    NoSafetensors { name: String },

    #[error("{name}: {file} has {found} bytes instead of {expected}; the download was cut off: run it again")]
    Size { name: String, file: String, found: u64, expected: u64 },

    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
}

/// A model's name and revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HubName {
    /// `owner/name`
    pub(crate) repo: String,
    /// Branch, tag or commit.
    pub(crate) revision: String,
}

impl HubName {
    /// Reads what follows `hf:`.
    pub(crate) fn parse(text: &str) -> Result<Self, HubError> {
        let (repo, revision) = text.split_once('@').unwrap_or((text, "main"));
        let plain = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && !part.contains("..")
                && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
        };
        let two_parts = repo.split_once('/').is_some_and(|(owner, name)| plain(owner) && plain(name));
        match two_parts && revision.split('/').all(plain) {
            true => Ok(Self { repo: repo.to_owned(), revision: revision.to_owned() }),
            false => Err(HubError::Name(text.to_owned())),
        }
    }

    fn shown(&self) -> String {
        format!("hf:{}@{}", self.repo, self.revision)
    }
}

/// Where models are looked for, from the environment.
#[derive(Clone, Debug)]
pub(crate) struct Hub {
    cache: PathBuf,
    endpoint: String,
    token: Option<String>,
    offline: bool,
}

impl Hub {
    pub(crate) fn from_env() -> Self {
        Self::from_variables(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    /// `HF_HUB_CACHE`, or `hub` in `HF_HOME`, or `huggingface/hub` in the user's cache.
    fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        let path = |name: &str| variable(name).map(PathBuf::from);
        let home = || {
            let caches = user_cache::directory(|name| variable(name).map(Into::into));
            caches.unwrap_or_else(|| PathBuf::from(".cache")).join("huggingface")
        };
        let hf_home = path("HF_HOME").unwrap_or_else(home);
        let cache = path("HF_HUB_CACHE").unwrap_or_else(|| hf_home.join("hub"));
        let token_file = path("HF_TOKEN_PATH").unwrap_or_else(|| hf_home.join("token"));
        let token = variable("HF_TOKEN").or_else(|| fs::read_to_string(token_file).ok());
        let offline = variable("HF_HUB_OFFLINE")
            .is_some_and(|value| ["1", "on", "yes", "true"].contains(&value.to_lowercase().as_str()));
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        Self {
            cache: std::path::absolute(&cache).unwrap_or(cache),
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token: token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()),
            offline,
        }
    }

    /// The directory of a model: from the cache, or downloaded. `progress` sees the file's name, bytes done and bytes in
    /// total, over all files.
    ///
    /// # Errors
    /// When it is not in the cache and may not or can not be downloaded.
    pub(crate) fn resolve(
        &self,
        name: &HubName,
        allow_download: bool,
        progress: &mut dyn FnMut(&str, u64, u64),
    ) -> Result<PathBuf, HubError> {
        if let Some(snapshot) = self.cached(name) {
            return Ok(snapshot);
        }
        let cache = self.cache.clone();
        match (allow_download, self.offline) {
            (false, _) => Err(HubError::NotCached { name: name.shown(), repo: name.repo.clone(), cache }),
            (true, true) => Err(HubError::Offline { name: name.shown(), cache }),
            (true, false) => self.download(name, progress),
        }
    }

    /// A complete snapshot in the cache.
    fn cached(&self, name: &HubName) -> Option<PathBuf> {
        let model = self.cache.join(format!("models--{}", name.repo.replace('/', "--")));
        let reference = fs::read_to_string(model.join("refs").join(&name.revision)).ok();
        let commit = reference.map_or_else(|| name.revision.clone(), |commit| commit.trim().to_owned());
        let is_hash = !commit.is_empty() && commit.chars().all(|c| c.is_ascii_alphanumeric());
        let snapshot = model.join("snapshots").join(&commit);
        (is_hash && complete(&snapshot)).then_some(snapshot)
    }

    fn download(&self, name: &HubName, progress: &mut dyn FnMut(&str, u64, u64)) -> Result<PathBuf, HubError> {
        let api_error = |source: ApiError| HubError::Api {
            name: name.shown(),
            endpoint: self.endpoint.clone(),
            source: Box::new(source),
        };
        let builder = ApiBuilder::from_cache(Cache::new(self.cache.clone()))
            .with_endpoint(self.endpoint.clone())
            .with_token(self.token.clone())
            .with_progress(false);
        let api = builder.build().map_err(api_error)?;
        let repo = api.repo(Repo::with_revision(name.repo.clone(), RepoType::Model, name.revision.clone()));
        let info = repo.info().map_err(api_error)?;
        let answer = |what, value: &str| HubError::Answer { name: name.shown(), what, value: value.to_owned() };
        if info.sha.is_empty() || !info.sha.chars().all(|c| c.is_ascii_hexdigit()) {
            return Err(answer("commit", &info.sha));
        }
        let listed: Vec<&str> = info.siblings.iter().map(|file| file.rfilename.as_str()).collect();
        let mut fetch = Fetch { api: &api, repo: &repo, name, commit: &info.sha, done: 0, total: 0, progress };

        let weights = if listed.contains(&INDEX) {
            let index = fetch.files(&[INDEX.to_owned()])?;
            shards(&index.join(INDEX)).map_err(|value| answer("shard index", &value))?
        } else if listed.contains(&WEIGHTS) {
            vec![WEIGHTS.to_owned()]
        } else {
            return Err(HubError::NoSafetensors { name: name.shown() });
        };
        let side = SIDE_FILES.iter().filter(|file| listed.contains(file)).map(|file| (*file).to_owned());
        fetch.files(&side.chain(weights).collect::<Vec<_>>())
    }
}

/// Whether a snapshot has a description, a tokenizer and every weight file.
fn complete(snapshot: &Path) -> bool {
    let has = |file: &str| snapshot.join(file).exists();
    let weights = match has(INDEX) {
        true => shards(&snapshot.join(INDEX)).is_ok_and(|shards| shards.iter().all(|shard| has(shard))),
        false => has(WEIGHTS),
    };
    has("config.json") && has("tokenizer.json") && weights
}

/// The files that a shard index names, each once. Names that are more than a safetensors file's name are refused.
fn shards(index: &Path) -> Result<Vec<String>, String> {
    let text = fs::read_to_string(index).map_err(|error| error.to_string())?;
    let index: serde_json::Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let map = index.get("weight_map").and_then(|map| map.as_object()).ok_or("no weight_map")?;
    let mut files = std::collections::BTreeSet::new();
    for file in map.values() {
        let file = file.as_str().unwrap_or_default();
        let plain = file.ends_with(".safetensors") && !file.contains(['/', '\\']) && !file.starts_with('.');
        if !plain {
            return Err(file.to_owned());
        }
        files.insert(file.to_owned());
    }
    Ok(files.into_iter().collect())
}

/// Files of one commit.
struct Fetch<'a> {
    api: &'a Api,
    repo: &'a ApiRepo,
    name: &'a HubName,
    commit: &'a str,
    done: u64,
    total: u64,
    progress: &'a mut dyn FnMut(&str, u64, u64),
}

impl Fetch<'_> {
    /// Downloads files; returns their directory.
    fn files(&mut self, files: &[String]) -> Result<PathBuf, HubError> {
        let mut sizes = Vec::with_capacity(files.len());
        for file in files {
            let metadata = self.api.metadata(&self.repo.url(file)).map_err(|error| self.error(error))?;
            // The commit and the etag become parts of paths inside the cache.
            let answer =
                |what, value: &str| HubError::Answer { name: self.name.shown(), what, value: value.to_owned() };
            if metadata.commit_hash() != self.commit {
                return Err(answer("commit", metadata.commit_hash()));
            }
            if metadata.etag().contains("..") || metadata.etag().starts_with('/') {
                return Err(answer("etag", metadata.etag()));
            }
            sizes.push(metadata.size() as u64);
        }
        self.total += sizes.iter().sum::<u64>();
        let mut directory = PathBuf::new();
        for (file, expected) in files.iter().zip(sizes) {
            let meter = Meter { file, done: &mut self.done, total: self.total, progress: &mut *self.progress };
            let path = self.repo.download_with_progress(file, meter).map_err(|error| self.error(error))?;
            let found = fs::metadata(&path).map_err(|source| HubError::Io { path: path.clone(), source })?.len();
            if found != expected {
                let blob = fs::canonicalize(&path).unwrap_or_else(|_| path.clone());
                for broken in [&path, &blob] {
                    fs::remove_file(broken).ok();
                }
                return Err(HubError::Size { name: self.name.shown(), file: file.clone(), found, expected });
            }
            directory = path.parent().map(Path::to_owned).unwrap_or_default();
        }
        Ok(directory)
    }

    fn error(&self, source: ApiError) -> HubError {
        let endpoint = self.repo.url("");
        HubError::Api { name: self.name.shown(), endpoint, source: Box::new(source) }
    }
}

/// Adds one file's bytes to the progress of all.
struct Meter<'a> {
    file: &'a str,
    done: &'a mut u64,
    total: u64,
    progress: &'a mut dyn FnMut(&str, u64, u64),
}

impl Progress for Meter<'_> {
    fn init(&mut self, _size: usize, _file: &str) {}

    fn update(&mut self, size: usize) {
        *self.done += size as u64;
        (self.progress)(self.file, *self.done, self.total);
    }

    fn finish(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub(variables: &[(&str, &str)]) -> Hub {
        Hub::from_variables(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn names_are_checked() {
        let name = HubName::parse("owner/name.v1-x@refs/pr/3").expect("valid");
        assert_eq!((name.repo.as_str(), name.revision.as_str()), ("owner/name.v1-x", "refs/pr/3"));
        assert_eq!(HubName::parse("owner/name").expect("valid").revision, "main");
        for bad in ["name", "a/b/c", "../b", "a/..", "a/b@", "a/b@../../x", "a/ b", "a/b@/x", ""] {
            assert!(HubName::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_environment_decides_where_the_cache_is() {
        assert_eq!(hub(&[("HOME", "/h")]).cache, Path::new("/h/.cache/huggingface/hub"));
        assert_eq!(hub(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]).cache, Path::new("/x/huggingface/hub"));
        assert_eq!(hub(&[("HF_HOME", "/f")]).cache, Path::new("/f/hub"));
        assert_eq!(hub(&[("HF_HOME", "/f"), ("HF_HUB_CACHE", "/c")]).cache, Path::new("/c"));
        assert!(hub(&[("HF_HUB_OFFLINE", "TRUE")]).offline);
        assert!(!hub(&[("HF_HUB_OFFLINE", "0")]).offline);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test writes its own file")]
    fn shards_stay_in_their_directory() {
        let dir = tempfile::tempdir().expect("a directory");
        let index = dir.path().join(INDEX);
        let write = |file: &str| {
            let text = format!(r#"{{"weight_map": {{"a": "model-1.safetensors", "b": "{file}"}}}}"#);
            fs::write(&index, text).expect("written");
        };
        write("model-1.safetensors");
        assert_eq!(shards(&index), Ok(vec!["model-1.safetensors".to_owned()]));
        for bad in ["../x.safetensors", "/etc/x.safetensors", "model.bin", ""] {
            write(bad);
            assert_eq!(shards(&index), Err(bad.to_owned()));
        }
    }
}
