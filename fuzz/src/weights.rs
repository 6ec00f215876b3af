//! Weight files and the files next to them.

use std::fs;
use std::path::Path;
use std::sync::Once;

use serde_json::Value;
use tonfall_adapters::export::Importance;
use tonfall_adapters::inspect::inspect;
use tonfall_adapters::{BaseModel, ChatSettings, Family, ModelDescription, SafetensorsFile, Sizes, peft, shard_names};

use crate::render::tokenizer::{ChatTokenizer, TokenizerSpec};
use crate::{heap, scratch};

macro_rules! fixture {
    ($path:literal) => {
        include_bytes!(concat!("../../tests/fixtures/", $path))
    };
}

const ADAPTER_CONFIG: &[u8] = fixture!("runs/runs/finished/exports/adapter/adapter_config.json");
const ADAPTER: &[u8] = fixture!("runs/runs/finished/exports/adapter/adapter_model.safetensors");

/// The files of a base that [`base_directory`] replaces, in the order of its first byte. An empty one is absent.
const BASE: [(&str, &[u8]); 7] = [
    ("config.json", fixture!("runs/base/config.json")),
    ("tokenizer_config.json", fixture!("runs/base/tokenizer_config.json")),
    ("tokenizer.json", fixture!("runs/base/tokenizer.json")),
    ("chat_template.jinja", fixture!("runs/base/chat_template.jinja")),
    ("generation_config.json", b""),
    ("special_tokens_map.json", b""),
    ("model.safetensors", fixture!("runs/base/model.safetensors")),
];

const SHARDED: [(&str, &[u8]); 5] = [
    ("config.json", fixture!("families/llama_sharded/config.json")),
    ("model-00001-of-00004.safetensors", fixture!("families/llama_sharded/model-00001-of-00004.safetensors")),
    ("model-00002-of-00004.safetensors", fixture!("families/llama_sharded/model-00002-of-00004.safetensors")),
    ("model-00003-of-00004.safetensors", fixture!("families/llama_sharded/model-00003-of-00004.safetensors")),
    ("model-00004-of-00004.safetensors", fixture!("families/llama_sharded/model-00004-of-00004.safetensors")),
];

static PREPARED: Once = Once::new();

/// A safetensors file, also as the tensors of an adapter. The tensors of an accepted file have the bytes that the header
/// states, and together they fill the file.
pub fn safetensors(bytes: &[u8]) {
    PREPARED.call_once(|| drop(scratch::write("adapter_config.json", ADAPTER_CONFIG)));
    let path = scratch::write("adapter_model.safetensors", bytes);
    heap::bounded(bytes.len(), || {
        if let Ok(file) = SafetensorsFile::open(&path) {
            check_tensors(&file, bytes);
            assert!(is_shown(&path));
        }
        is_shown(&path);
        if let Ok(adapter) = peft::read(scratch::directory()) {
            assert!(adapter.tensors.iter().all(|tensor| tensor.values.len() == tensor.shape[0] * tensor.shape[1]));
        }
    });
}

/// Compares an accepted file with its header as serde_json reads it.
fn check_tensors(file: &SafetensorsFile, bytes: &[u8]) {
    let (length, rest) = bytes.split_first_chunk::<8>().expect("a header length");
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let Value::Object(header) = serde_json::from_slice(header).expect("a header in JSON") else {
        panic!("the header is no object")
    };
    let mut total = 0;
    let tensors = header.iter().filter(|(name, _)| *name != "__metadata__");
    for (name, entry) in tensors.clone() {
        let (dtype, shape, values) = file.tensor(name).expect("a tensor of the header");
        let offset = |index: usize| entry["data_offsets"][index].as_u64().expect("an offset") as usize;
        assert_eq!(values, &data[offset(0)..offset(1)], "{name}");
        assert_eq!(values.len(), shape.iter().product::<usize>() * dtype.size(), "{name}");
        total += values.len();
    }
    assert_eq!((total, file.len()), (data.len(), tensors.count()));
}

/// A GGUF file: all bytes but the last, then as many pages of zeros as the last byte states. The zeros are the weights,
/// which are not worth mutating. Every weight of an accepted file has the size of its shape; its tokenizer is JSON.
pub fn gguf(input: &[u8]) {
    let Some((pages, bytes)) = input.split_last() else { return };
    let path = scratch::write("any.gguf", bytes);
    let size = bytes.len() + usize::from(*pages) * 4096;
    let file = fs::File::options().write(true).open(&path).expect("the file just written");
    file.set_len(size as u64).expect("space for temporary files");
    heap::bounded(size, || check_base(&path));
    heap::bounded(size, || _ = is_shown(&path));
}

/// Whether `tonfall inspect` shows a file. What it shows can be written as JSON.
fn is_shown(path: &Path) -> bool {
    inspect(path, false).is_ok_and(|found| serde_json::to_string(&found).is_ok())
}

/// An importance matrix of a small model, in one of its two formats. An accepted one has a finite sum for each input
/// feature, and at least one token for each weight.
pub fn imatrix(bytes: &[u8]) {
    let sizes = Sizes {
        vocab_size: 8,
        hidden_size: 4,
        intermediate_size: 6,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        head_dim: 2,
    };
    let model = ModelDescription::plain(Family::Llama, sizes);
    let path = scratch::write("any.imatrix", bytes);
    heap::bounded(bytes.len(), || {
        let Ok(importance) = Importance::read(&path, &model) else { return };
        let tensors = model.tensors();
        for (name, (sums, tokens)) in &importance.weights {
            let shape = tensors.iter().find(|(known, _)| known == name).expect("a weight of the model").1;
            assert_eq!(sums.len(), shape.rows_cols().1, "{name}");
            assert!(*tokens > 0 && sums.iter().all(|sum| sum.is_finite() && *sum >= 0.0), "{name}");
        }
    });
}

/// A Hugging Face directory in which one file is the input; the first byte (`0` to `6`) states which. See [`gguf`].
pub fn base_directory(input: &[u8]) {
    PREPARED.call_once(|| restore(&BASE));
    let Some((which, bytes)) = input.split_first() else { return };
    let (name, original) = BASE[usize::from(which.wrapping_sub(b'0')) % BASE.len()];
    scratch::write(name, bytes);
    // The directory's other files count as well.
    heap::bounded(bytes.len(), || check_base(scratch::directory()));
    restore(&[(name, original)]);
}

/// `model.safetensors.index.json` next to four shards. An accepted index names plain file names only.
pub fn shard_index(bytes: &[u8]) {
    PREPARED.call_once(|| restore(&SHARDED));
    let path = scratch::write("model.safetensors.index.json", bytes);
    heap::bounded(bytes.len(), || {
        if let Ok(names) = shard_names(&path) {
            let plain = |name: &String| Path::new(name).file_name().is_some_and(|own| own == name.as_str());
            assert!(names.iter().all(plain), "{names:?}");
        }
        check_base(scratch::directory());
    });
}

/// `adapter_config.json` next to the tensors of an adapter. An accepted configuration is written and read again without
/// a change.
pub fn adapter_config(bytes: &[u8]) {
    PREPARED.call_once(|| drop(scratch::write("adapter_model.safetensors", ADAPTER)));
    scratch::write("adapter_config.json", bytes);
    heap::bounded(bytes.len(), || {
        let _ = peft::read(scratch::directory());
        let Ok(config) = peft::read_config(scratch::directory()) else { return };
        scratch::write("adapter_config.json", &config.to_json());
        let again = peft::read_config(scratch::directory()).expect("its own configuration");
        assert_eq!(again, config);
    });
}

fn restore(files: &[(&str, &[u8])]) {
    for (name, bytes) in files {
        match bytes {
            [] => scratch::remove(name),
            bytes => drop(scratch::write(name, bytes)),
        }
    }
}

fn check_base(path: &Path) {
    let Ok(base) = BaseModel::open(path) else { return };
    for name in base.weight_names() {
        let weight = base.weight(&name).expect("a listed weight");
        assert_eq!(weight.bytes.len(), tonfall_blocks::byte_len(weight.format, weight.rows, weight.cols), "{name}");
    }
    let _ = base.side_files(None, &ChatSettings::default());
    let Ok(tokenizer) = base.tokenizer() else { return };
    if path.is_file() {
        assert!(
            serde_json::from_slice::<Value>(&tokenizer.tokenizer_json).is_ok(),
            "the converted tokenizer is no JSON"
        );
    }
    let _ = ChatTokenizer::new(TokenizerSpec {
        tokenizer_json: tokenizer.tokenizer_json,
        chat_template: tokenizer.chat_template,
        vocab_size: base.description().vocab_size,
        ..TokenizerSpec::default()
    });
}
