//! Models that are split into several GGUF files: `NAME-00001-of-00003.gguf` and so on.
//!
//! Every part has the keys `split.no` and `split.count`. The first part also has the model's metadata. Source:
//! llama.cpp, `tools/gguf-split` and `llama_split_path`.
//! Must not depend on: how a part is read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::file::{GgufError, Header};
use super::value::Value;
use crate::mapped_file::MappedFile;

const NUMBER: &str = "split.no";
const COUNT: &str = "split.count";
const TENSORS: &str = "split.tensors.count";

/// The paths of all parts. `None` if the file is not part of a split model.
pub(super) fn siblings(path: &Path, metadata: &BTreeMap<String, Value>) -> Result<Option<Vec<PathBuf>>, GgufError> {
    let number = |key: &str| metadata.get(key).and_then(Value::as_u64);
    let Some(count) = number(COUNT).filter(|count| *count > 1) else { return Ok(None) };
    let split = |reason: String| GgufError::Split { path: path.to_owned(), reason };
    let part = number(NUMBER).filter(|part| *part < count);
    let part =
        part.ok_or_else(|| split(format!("`{NUMBER}` names none of its {count} parts; fetch the file again")))?;
    let suffix = |part: u64| format!("-{:05}-of-{count:05}.gguf", part + 1);
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Some(prefix) = name.strip_suffix(&suffix(part)) else {
        let reason = format!(
            "is part {} of {count} of a split model, but its name does not end with {}; restore the original names",
            part + 1,
            suffix(part)
        );
        return Err(split(reason));
    };
    let mut paths = Vec::new();
    for part in 0..count {
        let sibling = path.with_file_name(format!("{prefix}{}", suffix(part)));
        if !sibling.exists() {
            let reason = format!("is a part of a split model of which {prefix}{} is missing; fetch it", suffix(part));
            return Err(split(reason));
        }
        paths.push(sibling);
    }
    Ok(Some(paths))
}

/// Opens all parts with `open`, and checks that they belong together.
pub(super) fn open(
    paths: &[PathBuf],
    open: impl Fn(&Path) -> Result<(MappedFile, Header), GgufError>,
) -> Result<Vec<(MappedFile, Header)>, GgufError> {
    let parts = paths.iter().map(|path| open(path)).collect::<Result<Vec<_>, _>>()?;
    let number = |header: &Header, key: &str| header.metadata.get(key).and_then(Value::as_u64);
    for (index, (file, header)) in parts.iter().enumerate() {
        let found = (number(header, NUMBER), number(header, COUNT));
        if found != (Some(index as u64), Some(parts.len() as u64)) {
            let reason = format!("is not part {} of {} by its metadata; fetch all parts again", index + 1, parts.len());
            return Err(GgufError::Split { path: file.path().to_owned(), reason });
        }
    }
    let found: usize = parts.iter().map(|(_, header)| header.tensors.len()).sum();
    match number(&parts[0].1, TENSORS) {
        Some(expected) if expected != found as u64 => {
            let reason = format!("the parts hold {found} tensors instead of {expected}; fetch all parts again");
            Err(GgufError::Split { path: parts[0].0.path().to_owned(), reason })
        }
        _ => Ok(parts),
    }
}
