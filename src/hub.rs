//! Base models by their name on the Hugging Face Hub: `hf:owner/name[@revision]`.
//!
//! Responsible for: finding a snapshot in the local Hub cache, and downloading one if the recipe allows it.
//! Must not depend on: the contents of the files. Pickles are never downloaded.
//!
//! Cache layout and environment variables are those of huggingface_hub:
//! <https://huggingface.co/docs/huggingface_hub/guides/manage-cache>.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use hf_hub::api::Progress;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};
use sha2::{Digest, Sha256};
use thiserror::Error;
use tonfall_adapters::{is_side_file, shard_names};

use crate::user_cache;

const CONFIG: &str = "config.json";
const TOKENIZER: &str = "tokenizer.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const MAIN: &str = "main";

/// Why a model from the Hub can't be used.
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

    #[error("{name} is in the Hub cache ({snapshot}), but incomplete: {missing}", snapshot = snapshot.display())]
    Incomplete { name: String, snapshot: PathBuf, missing: String },

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
        "{name} holds no {WEIGHTS} and no {INDEX}; only safetensors are downloaded, since loading the older formats can \
         execute code"
    )]
    NoSafetensors { name: String },

    #[error(
        "{name} holds no {TOKENIZER}; in Python, transformers' \
         `AutoTokenizer.from_pretrained({repo:?}).save_pretrained(DIR)` writes one: add it to a copy of the model and give \
         its directory as the base"
    )]
    NoTokenizer { name: String, repo: String },

    #[error(
        "{name} holds {WEIGHTS} and {INDEX}, whose shards do not include {WEIGHTS}: these are two models. Fetch the one \
         that is meant into a directory and give that as the base"
    )]
    TwoModels { name: String },

    #[error("{name}: {file} has {found} bytes instead of {expected}; the download was cut off: run it again")]
    Size { name: String, file: String, found: u64, expected: u64 },

    #[error("{name}: {file} has the SHA-256 {found} instead of {expected}; the download is damaged: run it again")]
    Hash { name: String, file: String, found: String, expected: String },

    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
}

/// A model's name and revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HubName {
    /// `owner/name`
    pub(crate) repo: String,
    /// Branch, tag or commit; `None` for `main`.
    pub(crate) revision: Option<String>,
}

impl HubName {
    /// Parses the text after `hf:`.
    pub(crate) fn parse(text: &str) -> Result<Self, HubError> {
        let (repo, revision) = match text.split_once('@') {
            Some((repo, revision)) => (repo, Some(revision)),
            None => (text, None),
        };
        let plain = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && !part.contains("..")
                && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
        };
        let two_parts = repo.split_once('/').is_some_and(|(owner, name)| plain(owner) && plain(name));
        match two_parts && revision.unwrap_or(MAIN).split('/').all(plain) {
            true => Ok(Self { repo: repo.to_owned(), revision: revision.map(str::to_owned) }),
            false => Err(HubError::Name(text.to_owned())),
        }
    }

    fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or(MAIN)
    }

    fn shown(&self) -> String {
        format!("hf:{}@{}", self.repo, self.revision())
    }
}

/// The local cache and the server, from the environment.
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

    /// Reads the variables. The cache is `HF_HUB_CACHE`, or `hub` in `HF_HOME`, or `huggingface/hub` in the user's cache.
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

    /// The directory of a model: from the cache, or downloaded. `progress` receives the file's name, and the bytes done
    /// and in total over all files.
    ///
    /// # Errors
    /// If the model is not complete in the cache, and a download is not allowed or fails.
    pub(crate) fn resolve(
        &self,
        name: &HubName,
        allow_download: bool,
        progress: &mut dyn FnMut(&str, u64, u64),
    ) -> Result<PathBuf, HubError> {
        let snapshot = self.snapshot(name);
        let missing = snapshot.as_deref().map(missing);
        let cache = self.cache.clone();
        match (snapshot, missing.flatten()) {
            (Some(snapshot), None) => Ok(snapshot),
            _ if allow_download && !self.offline => self.download(name, progress),
            (Some(snapshot), Some(missing)) => Err(HubError::Incomplete { name: name.shown(), snapshot, missing }),
            (None, _) if allow_download => Err(HubError::Offline { name: name.shown(), cache }),
            (None, _) => Err(HubError::NotCached { name: name.shown(), repo: name.repo.clone(), cache }),
        }
    }

    /// The snapshot in the cache, complete or not.
    fn snapshot(&self, name: &HubName) -> Option<PathBuf> {
        let model = self.cache.join(format!("models--{}", name.repo.replace('/', "--")));
        let reference = fs::read_to_string(model.join("refs").join(name.revision())).ok();
        let commit = reference.map_or_else(|| name.revision().to_owned(), |commit| commit.trim().to_owned());
        let is_hash = !commit.is_empty() && commit.chars().all(|c| c.is_ascii_alphanumeric());
        let snapshot = model.join("snapshots").join(&commit);
        (is_hash && snapshot.is_dir()).then_some(snapshot)
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
        let repo = api.repo(Repo::with_revision(name.repo.clone(), RepoType::Model, name.revision().to_owned()));
        let info = repo.info().map_err(api_error)?;
        let answer = |what, value: &str| HubError::Answer { name: name.shown(), what, value: value.to_owned() };
        if info.sha.is_empty() || !info.sha.chars().all(|c| c.is_ascii_hexdigit()) {
            return Err(answer("commit", &info.sha));
        }
        let listed: Vec<&str> = info.siblings.iter().map(|file| file.rfilename.as_str()).collect();
        let mut fetch = Fetch { api: &api, repo: &repo, name, commit: &info.sha, done: 0, total: 0, progress };

        if !listed.contains(&TOKENIZER) {
            return Err(HubError::NoTokenizer { name: name.shown(), repo: name.repo.clone() });
        }
        let weights = if listed.contains(&INDEX) {
            let directory = fetch.files(&[INDEX.to_owned()])?;
            let shards =
                shard_names(&directory.join(INDEX)).map_err(|error| answer("shard index", &error.to_string()))?;
            if listed.contains(&WEIGHTS) && !shards.iter().any(|shard| shard == WEIGHTS) {
                return Err(HubError::TwoModels { name: name.shown() });
            }
            shards
        } else if listed.contains(&WEIGHTS) {
            vec![WEIGHTS.to_owned()]
        } else {
            return Err(HubError::NoSafetensors { name: name.shown() });
        };
        if let Some(other) = weights.iter().find(|file| !file.ends_with(".safetensors")) {
            return Err(answer("shard index", other));
        }
        let side = listed.iter().filter(|file| is_side_file(file)).map(|file| (*file).to_owned());
        fetch.files(&side.chain(weights).collect::<Vec<_>>())
    }
}

/// The files of a usable model that a snapshot lacks, as a sentence with a hint; `None` if it is complete.
fn missing(snapshot: &Path) -> Option<String> {
    let has = |file: &str| snapshot.join(file).exists();
    let mut parts = Vec::new();
    if !has(CONFIG) {
        parts.push(format!("{CONFIG} is missing; fetch the model again"));
    }
    if !has(TOKENIZER) {
        parts.push(match has("tokenizer.model") {
            true => format!(
                "{TOKENIZER} is missing and tokenizer.model alone is not supported; in Python, transformers' \
                 `AutoTokenizer.from_pretrained(SNAPSHOT).save_pretrained(DIR)` writes one"
            ),
            false => format!("{TOKENIZER} is missing; fetch the model again"),
        });
    }
    if has(INDEX) {
        let shards = shard_names(&snapshot.join(INDEX)).unwrap_or_default();
        let absent: Vec<&String> = shards.iter().filter(|shard| !has(shard)).collect();
        if let Some(first) = absent.first() {
            let (count, of) = (absent.len(), shards.len());
            parts.push(format!("{count} of {of} shards are missing, {first} first; fetch the model again"));
        }
    } else if !has(WEIGHTS) {
        let pickle = ["pytorch_model.bin", "pytorch_model.bin.index.json"].into_iter().find(|file| has(file));
        parts.push(match pickle {
            Some(file) => format!(
                "there are no safetensors, only {file}, which can execute code when it is loaded; in Python, \
                 transformers' `AutoModelForCausalLM.from_pretrained(SNAPSHOT).save_pretrained(DIR)` converts it"
            ),
            None => "there are no safetensors; fetch the model again".to_owned(),
        });
    }
    if parts.is_empty() { None } else { Some(parts.join("; ")) }
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
    /// Downloads files and checks their sizes. Files in the Hub's large file storage are also checked by their SHA-256.
    /// Returns the snapshot's directory.
    fn files(&mut self, files: &[String]) -> Result<PathBuf, HubError> {
        let mut expected = Vec::with_capacity(files.len());
        for file in files {
            let metadata = self.api.metadata(&self.repo.url(file)).map_err(|error| self.error(error))?;
            // Commit and etag become parts of paths inside the cache.
            let answer =
                |what, value: &str| HubError::Answer { name: self.name.shown(), what, value: value.to_owned() };
            if metadata.commit_hash() != self.commit {
                return Err(answer("commit", metadata.commit_hash()));
            }
            if metadata.etag().contains("..") || metadata.etag().starts_with('/') {
                return Err(answer("etag", metadata.etag()));
            }
            expected.push((metadata.size() as u64, sha256_of_etag(metadata.etag())));
        }
        self.total += expected.iter().map(|(size, _)| size).sum::<u64>();
        let mut directory = PathBuf::new();
        for (file, (size, hash)) in files.iter().zip(expected) {
            let meter = Meter { file, done: &mut self.done, total: self.total, progress: &mut *self.progress };
            let path = self.repo.download_with_progress(file, meter).map_err(|error| self.error(error))?;
            if let Err(error) = self.check(file, &path, size, hash.as_deref()) {
                // Otherwise the next run would use the damaged file from the cache.
                let blob = fs::canonicalize(&path).unwrap_or_else(|_| path.clone());
                for broken in [&path, &blob] {
                    fs::remove_file(broken).ok();
                }
                return Err(error);
            }
            directory = path.ancestors().nth(file.split('/').count()).map(Path::to_owned).unwrap_or_default();
        }
        Ok(directory)
    }

    fn check(&self, file: &str, path: &Path, size: u64, hash: Option<&str>) -> Result<(), HubError> {
        let io = |source| HubError::Io { path: path.to_owned(), source };
        let (name, file) = (self.name.shown(), file.to_owned());
        let found = fs::metadata(path).map_err(io)?.len();
        if found != size {
            return Err(HubError::Size { name, file, found, expected: size });
        }
        let Some(expected) = hash else { return Ok(()) };
        let found = sha256(path).map_err(io)?;
        match found == expected {
            true => Ok(()),
            false => Err(HubError::Hash { name, file, found, expected: expected.to_owned() }),
        }
    }

    fn error(&self, source: ApiError) -> HubError {
        let endpoint = self.repo.url("");
        HubError::Api { name: self.name.shown(), endpoint, source: Box::new(source) }
    }
}

/// The SHA-256 in the etag of a file in the Hub's large file storage (`X-Linked-Etag`). For other files the etag is a
/// git object id, which is shorter.
fn sha256_of_etag(etag: &str) -> Option<String> {
    let is_sha256 = etag.len() == 64 && etag.chars().all(|c| c.is_ascii_hexdigit());
    is_sha256.then(|| etag.to_lowercase())
}

/// The digest as hexadecimal digits.
fn sha256(path: &Path) -> std::io::Result<String> {
    let (mut file, mut digest, mut buffer) = (File::open(path)?, Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(tonfall_durable::hex(&digest.finalize())),
            read => digest.update(&buffer[..read]),
        }
    }
}

/// Adds the bytes of one file to the progress over all files.
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
        assert_eq!((name.repo.as_str(), name.revision()), ("owner/name.v1-x", "refs/pr/3"));
        let name = HubName::parse("owner/name").expect("valid");
        assert_eq!((name.revision(), &name.revision), ("main", &None));
        for bad in ["name", "a/b/c", "../b", "a/..", "a/b@", "a/b@../../x", "a/ b", "a/b@/x", ""] {
            assert!(HubName::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn environment_variables_set_the_cache_directory() {
        assert_eq!(hub(&[("HOME", "/h")]).cache, Path::new("/h/.cache/huggingface/hub"));
        assert_eq!(hub(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]).cache, Path::new("/x/huggingface/hub"));
        assert_eq!(hub(&[("HF_HOME", "/f")]).cache, Path::new("/f/hub"));
        assert_eq!(hub(&[("HF_HOME", "/f"), ("HF_HUB_CACHE", "/c")]).cache, Path::new("/c"));
        assert!(hub(&[("HF_HUB_OFFLINE", "TRUE")]).offline);
        assert!(!hub(&[("HF_HUB_OFFLINE", "0")]).offline);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test writes its own file")]
    fn errors_of_incomplete_snapshots_name_missing_files() {
        let dir = tempfile::tempdir().expect("a directory");
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).expect("written");
        let has = |parts: &[&str]| {
            let text = missing(dir.path()).expect("incomplete");
            assert!(parts.iter().all(|part| text.contains(part)), "{parts:?} is not in: {text}");
        };
        has(&["config.json is missing", "tokenizer.json is missing; fetch", "no safetensors; fetch"]);
        write("config.json", "{}");
        write("tokenizer.model", "");
        write("pytorch_model.bin", "");
        has(&["tokenizer.model alone is not supported", "only pytorch_model.bin", "execute code"]);
        write("tokenizer.json", "{}");
        write(INDEX, r#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}"#);
        write("model-1.safetensors", "");
        has(&["1 of 2 shards are missing, model-2.safetensors first"]);
        write("model-2.safetensors", "");
        assert_eq!(missing(dir.path()), None);
    }
}
