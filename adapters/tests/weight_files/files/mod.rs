//! Files for tests: paths of the fixtures, and writers that can also write invalid files.

pub mod gguf;

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tempfile::TempDir;
use tonfall_adapters::BaseModel;
use tonfall_blocks::dequantize;

/// A fixture by its path below `tests/fixtures`.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name)
}

/// A copy of a family's fixture, which the test may damage.
pub fn copy_of(family: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fixture("families").join(family)).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != "expected.safetensors" {
            std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
        }
    }
    dir
}

/// Changes a JSON file of a directory.
pub fn edit_json(dir: &Path, name: &str, edit: impl FnOnce(&mut Map<String, Value>)) {
    let path = dir.join(name);
    let mut map: Map<String, Value> = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    edit(&mut map);
    std::fs::write(path, Value::Object(map).to_string()).unwrap();
}

/// The bytes of a safetensors file with any header and data.
pub fn safetensors(header: &Value, data: &[u8]) -> Vec<u8> {
    let text = header.to_string();
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes.extend(data);
    bytes
}

/// Header and data of a safetensors file.
pub fn take_apart(bytes: &[u8]) -> (Value, Vec<u8>) {
    let len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    (serde_json::from_slice(&bytes[8..8 + len]).unwrap(), bytes[8 + len..].to_vec())
}

/// Appends a tensor to a safetensors file.
pub fn with_tensor(bytes: &[u8], name: &str, dtype: &str, shape: &[usize], tensor: &[u8]) -> Vec<u8> {
    let (mut header, mut data) = take_apart(bytes);
    let begin = data.len();
    data.extend(tensor);
    header[name] = json!({ "dtype": dtype, "shape": shape, "data_offsets": [begin, data.len()] });
    safetensors(&header, &data)
}

/// A safetensors file with tensors in this order: name, dtype, shape, bytes.
pub fn safetensors_of(tensors: &[(String, &str, Vec<usize>, Vec<u8>)]) -> Vec<u8> {
    let start = safetensors(&json!({ "__metadata__": { "format": "pt" } }), &[]);
    tensors.iter().fold(start, |bytes, (name, dtype, shape, data)| with_tensor(&bytes, name, dtype, shape, data))
}

/// All values of a weight.
pub fn values(model: &BaseModel, name: &str) -> Vec<f32> {
    let weight = model.weight(name).unwrap();
    let mut values = vec![0.0; weight.rows * weight.cols];
    dequantize(weight.format, &weight.bytes, weight.rows, weight.cols, 0, &mut values);
    values
}

/// Little-endian bytes of f32 values.
pub fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Asserts that opening fails with an error that contains all of `parts`.
#[track_caller]
pub fn assert_refused(path: &Path, parts: &[&str]) {
    let message = BaseModel::open(path).expect_err("it must be refused").to_string();
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

/// Replaces a file with a named pipe. Opening it would wait for a writer forever.
#[cfg(unix)]
pub fn replace_by_fifo(path: &Path) {
    std::fs::remove_file(path).ok();
    let made = std::process::Command::new("mkfifo").arg(path).status().unwrap();
    assert!(made.success());
}
