//! Hugging Face directories that are damaged, forged or of an unknown kind. Each kind has a test. No file may cause a
//! panic or an allocation of the size that a header claims, and no damage may be ignored.

use proptest::prelude::*;
use serde_json::json;
use tonfall_adapters::{BaseError, BaseModel, ConfigError, OpenError, SafetensorsError, WeightFilesError};
use tonfall_blocks::bf16_to_f32;

use crate::files::{assert_refused, copy_of, edit_json, f32_bytes, safetensors, take_apart, with_tensor};

const WEIGHTS: &str = "model.safetensors";

/// Opens a copy of the Llama fixture whose weight file is replaced.
fn open_with(weights: &[u8]) -> Result<BaseModel, BaseError> {
    let dir = copy_of("llama");
    std::fs::write(dir.path().join(WEIGHTS), weights).unwrap();
    BaseModel::open(dir.path())
}

fn original() -> Vec<u8> {
    std::fs::read(copy_of("llama").path().join(WEIGHTS)).unwrap()
}

macro_rules! assert_safetensors {
    ($bytes:expr, $variant:pat) => {
        let error = open_with(&$bytes).expect_err("it must be refused");
        assert!(matches!(&error, BaseError::WeightFiles(WeightFilesError::Safetensors($variant))), "{error:?}");
    };
}

#[test]
fn a_header_length_of_two_to_the_sixty_is_refused() {
    let mut bytes = original();
    bytes[..8].copy_from_slice(&(1u64 << 60).to_le_bytes());
    assert_safetensors!(bytes, SafetensorsError::HeaderLength { claimed: 0x1000_0000_0000_0000, .. });
    let message = open_with(&bytes).unwrap_err().to_string();
    assert!(message.contains("1152921504606846976 bytes") && message.contains("offset 0"), "{message}");
}

#[test]
fn cut_off_anywhere() {
    let bytes = original();
    assert_safetensors!(bytes[..5], SafetensorsError::TooShort { size: 5, .. });
    assert_safetensors!(bytes[..100], SafetensorsError::HeaderLength { .. });
    assert_safetensors!(bytes[..bytes.len() - 1], SafetensorsError::OutOfRange { .. });
    assert_safetensors!([], SafetensorsError::TooShort { size: 0, .. });
}

#[test]
fn bytes_outside_of_all_tensors_are_refused() {
    let mut bytes = original();
    bytes.push(0);
    assert_safetensors!(bytes, SafetensorsError::Trailing { extra: 1, .. });
}

#[test]
fn invalid_headers_are_refused() {
    assert_safetensors!(safetensors(&json!([1, 2]), &[]), SafetensorsError::Header { .. });
    let mut bytes = original();
    bytes[9] = 0xff;
    assert_safetensors!(bytes, SafetensorsError::Header { .. });
    let twice =
        br#"{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}"#;
    let twice = [&(twice.len() as u64).to_le_bytes()[..], twice, &[0; 4]].concat();
    assert_safetensors!(twice, SafetensorsError::Header { .. });
    assert!(open_with(&twice).unwrap_err().to_string().contains("`a` is listed twice"));
}

#[test]
fn wrong_offsets_are_refused() {
    let edit = |begin: u64, end: u64| {
        let (mut header, data) = take_apart(&original());
        header["model.norm.weight"]["data_offsets"] = json!([begin, end]);
        safetensors(&header, &data)
    };
    let (header, _) = take_apart(&original());
    let offsets = &header["model.norm.weight"]["data_offsets"];
    let begin = offsets[0].as_u64().unwrap();
    assert_safetensors!(edit(0, 128), SafetensorsError::NotContiguous { .. });
    assert_safetensors!(edit(begin, u64::MAX), SafetensorsError::OutOfRange { .. });
    assert_safetensors!(edit(begin + 128, begin), SafetensorsError::OutOfRange { .. });
    assert_safetensors!(edit(begin, begin + 126), SafetensorsError::Size { .. });
}

#[test]
fn overflowing_shapes_are_refused() {
    let (mut header, data) = take_apart(&original());
    header["model.norm.weight"]["shape"] = json!([1u64 << 63, 1u64 << 63]);
    assert_safetensors!(safetensors(&header, &data), SafetensorsError::Size { .. });
}

#[test]
fn an_unknown_dtype_is_refused() {
    let (mut header, data) = take_apart(&original());
    header["model.norm.weight"]["dtype"] = json!("F4_E2M1");
    assert_safetensors!(safetensors(&header, &data), SafetensorsError::Dtype { .. });
}

#[test]
fn an_integer_dtype_is_refused() {
    let (mut header, data) = take_apart(&original());
    header["model.norm.weight"]["dtype"] = json!("I16");
    let error = open_with(&safetensors(&header, &data)).unwrap_err();
    assert!(matches!(&error, BaseError::TensorType { dtype, .. } if dtype == "I16"), "{error:?}");
}

#[test]
fn pickles_are_refused_by_name_and_by_content() {
    let dir = copy_of("llama");
    let weights = dir.path().join(WEIGHTS);
    for (content, what) in
        [(&b"PK\x03\x04rest of a zip"[..], "zip"), (b"\x80\x02}q\x00(X\x05\x00\x00\x00model", "pickle")]
    {
        std::fs::write(&weights, content).unwrap();
        assert_refused(dir.path(), &["model.safetensors", what, "save_pretrained"]);
    }
    std::fs::rename(&weights, dir.path().join("pytorch_model.bin")).unwrap();
    assert_refused(dir.path(), &["pytorch_model.bin", "pickle", "save_pretrained"]);
    assert_refused(&dir.path().join("pytorch_model.bin"), &["pickle"]);
}

#[test]
fn a_header_whose_length_begins_like_a_pickle_is_read() {
    let (header, data) = take_apart(&original());
    let mut text = header.to_string();
    // 0x0280 … 0x0580 followed by zeros: the first bytes of pickle protocols 2 to 5.
    let len = (text.len() / 256 + 1) * 256;
    let len = (len..).find(|len| matches!(len.to_le_bytes(), [0x80, 2..=255, ..])).unwrap();
    text.extend(std::iter::repeat_n(' ', len - text.len()));
    let bytes = [&(len as u64).to_le_bytes()[..], text.as_bytes(), &data].concat();
    assert!(open_with(&bytes).is_ok());
}

#[test]
fn shards_outside_of_their_directory_are_refused() {
    for shard in ["../model-00001-of-00004.safetensors", "/etc/passwd", "a/../../b.safetensors", ".."] {
        let dir = copy_of("llama_sharded");
        edit_json(dir.path(), "model.safetensors.index.json", |index| {
            index["weight_map"]["model.norm.weight"] = json!(shard);
        });
        let error = BaseModel::open(dir.path()).unwrap_err();
        assert!(matches!(&error, BaseError::WeightFiles(WeightFilesError::ShardOutside { .. })), "{shard}: {error:?}");
        assert!(error.to_string().contains(shard));
    }
}

#[cfg(unix)]
#[test]
fn shards_may_be_links() {
    let outside = copy_of("llama_sharded");
    let dir = copy_of("llama_sharded");
    let shard = "model-00001-of-00004.safetensors";
    std::fs::remove_file(dir.path().join(shard)).unwrap();
    std::os::unix::fs::symlink(outside.path().join(shard), dir.path().join(shard)).unwrap();
    BaseModel::open(dir.path()).unwrap();
}

#[cfg(unix)]
#[test]
fn the_hub_cache_links_into_its_own_blobs() {
    let source = copy_of("llama_sharded");
    let cache = tempfile::tempdir().unwrap();
    let repository = cache.path().join("models--owner--name");
    let (snapshot, blobs) = (repository.join("snapshots/0123"), repository.join("blobs"));
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::create_dir_all(&blobs).unwrap();
    for entry in std::fs::read_dir(source.path()).unwrap() {
        let entry = entry.unwrap();
        std::fs::rename(entry.path(), blobs.join(entry.file_name())).unwrap();
        let link = std::path::Path::new("../../blobs").join(entry.file_name());
        std::os::unix::fs::symlink(link, snapshot.join(entry.file_name())).unwrap();
    }
    BaseModel::open(&snapshot).unwrap();
}

#[test]
fn an_index_that_contradicts_its_shards_is_refused() {
    let dir = copy_of("llama_sharded");
    edit_json(dir.path(), "model.safetensors.index.json", |index| {
        index["weight_map"]["model.invented.weight"] = json!("model-00001-of-00004.safetensors");
    });
    assert_refused(dir.path(), &["model.invented.weight", "model-00001-of-00004.safetensors"]);

    let dir = copy_of("llama_sharded");
    edit_json(dir.path(), "model.safetensors.index.json", |index| {
        index["weight_map"].as_object_mut().unwrap().remove("model.norm.weight");
    });
    assert_refused(dir.path(), &["does not list", "model.norm.weight"]);

    std::fs::write(dir.path().join("model.safetensors.index.json"), "{").unwrap();
    assert_refused(dir.path(), &["model.safetensors.index.json"]);
}

#[test]
fn a_single_file_next_to_an_index_is_refused() {
    let dir = copy_of("llama_sharded");
    std::fs::copy(copy_of("llama").path().join(WEIGHTS), dir.path().join(WEIGHTS)).unwrap();
    let error = BaseModel::open(dir.path()).unwrap_err();
    assert!(matches!(error, BaseError::WeightFiles(WeightFilesError::TwoModels { .. })), "{error:?}");

    // An index that names the single file is valid.
    let dir = copy_of("llama");
    let names = BaseModel::open(dir.path()).unwrap().weight_names();
    let map: serde_json::Map<_, _> = names.into_iter().map(|name| (name, json!(WEIGHTS))).collect();
    let index = json!({ "metadata": {}, "weight_map": map });
    std::fs::write(dir.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    BaseModel::open(dir.path()).unwrap();
}

#[cfg(unix)]
#[test]
fn pipes_are_refused() {
    for file in ["config.json", WEIGHTS, "generation_config.json"] {
        let dir = copy_of("llama");
        crate::files::replace_by_fifo(&dir.path().join(file));
        assert_refused(dir.path(), &[file, "a named pipe (FIFO), not a regular file"]);
    }
    let dir = copy_of("llama");
    std::fs::write(dir.path().join("tokenizer.json"), "{}").unwrap();
    crate::files::replace_by_fifo(&dir.path().join("chat_template.jinja"));
    let error = BaseModel::open(dir.path()).unwrap().tokenizer().unwrap_err().to_string();
    assert!(error.contains("chat_template.jinja") && error.contains("not a regular file"), "{error}");
    let gguf = dir.path().join("model.gguf");
    crate::files::replace_by_fifo(&gguf);
    assert_refused(&gguf, &["not a regular file"]);
    assert_refused(std::path::Path::new("/dev/null"), &["not a base model"]);
}

/// Without a limit, two million entries used 643 MiB.
#[test]
fn headers_with_too_many_entries_are_refused() {
    let tensors: String =
        (0..140_000).map(|i| format!(r#""t{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}},"#)).collect();
    let metadata = |count: usize| -> String { (0..count).map(|i| format!(r#""k{i}":"","#)).collect() };
    let cases = [
        (format!("{{{}}}", tensors.trim_end_matches(',')), "more than 131072 tensors"),
        (format!(r#"{{"__metadata__":{{{}}}}}"#, metadata(70_000).trim_end_matches(',')), "more than 65536 entries"),
        (
            r#"{"a":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]}}"#.to_owned(),
            "16 elements",
        ),
    ];
    for (header, expected) in cases {
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 4]].concat();
        let error = open_with(&bytes).unwrap_err().to_string();
        assert!(error.contains(expected), "{expected:?} is not in: {error}");
    }
    let dir = copy_of("llama_sharded");
    let entries: String = (0..270_000).map(|i| format!(r#""t{i}":"model-00001-of-00004.safetensors","#)).collect();
    let index = format!(r#"{{"weight_map":{{{}}}}}"#, entries.trim_end_matches(','));
    std::fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
    assert_refused(dir.path(), &["more than 262144 entries"]);
    let config = format!("{{\"id2label\": [{}0]}}", "0,".repeat(3 << 20));
    std::fs::write(dir.path().join("config.json"), config).unwrap();
    assert_refused(dir.path(), &["config.json", "too many"]);
}

#[test]
fn a_missing_shard_is_named() {
    let dir = copy_of("llama_sharded");
    std::fs::remove_file(dir.path().join("model-00002-of-00004.safetensors")).unwrap();
    let error = BaseModel::open(dir.path()).unwrap_err();
    assert!(
        matches!(
            error,
            BaseError::WeightFiles(WeightFilesError::Open(OpenError::Io { .. }) | WeightFilesError::Safetensors(_))
        ),
        "{error:?}"
    );
}

#[test]
fn tensors_that_are_missing_unknown_or_misshapen() {
    let (mut header, data) = take_apart(&original());
    let moved = header.as_object_mut().unwrap().remove("model.norm.weight").unwrap();
    header["model.invented.weight"] = moved;
    let error = open_with(&safetensors(&header, &data)).unwrap_err();
    assert!(matches!(&error, BaseError::MissingTensor { name, .. } if name == "model.norm.weight"), "{error:?}");

    let extra = with_tensor(&original(), "model.layers.0.mlp.router.weight", "F32", &[2], &[0; 8]);
    let error = open_with(&extra).unwrap_err();
    assert!(matches!(&error, BaseError::UnknownTensor { name, .. } if name.ends_with("router.weight")), "{error:?}");

    let (mut header, data) = take_apart(&original());
    header["model.layers.0.self_attn.k_proj.weight"]["shape"] = json!([64, 32]);
    let error = open_with(&safetensors(&header, &data)).unwrap_err();
    assert!(matches!(&error, BaseError::TensorShape { expected, .. } if expected == &[32, 64]), "{error:?}");
}

#[test]
fn buffers_of_older_transformers_versions_are_ignored() {
    let bytes = with_tensor(&original(), "model.layers.0.self_attn.rotary_emb.inv_freq", "F32", &[8], &[0; 32]);
    assert!(open_with(&bytes).is_ok());
}

#[test]
fn a_stored_tied_head_must_equal_the_embeddings() {
    let dir = copy_of("llama_tied");
    let path = dir.path().join(WEIGHTS);
    let bytes = std::fs::read(&path).unwrap();
    let (header, data) = take_apart(&bytes);
    let offsets = header["model.embed_tokens.weight"]["data_offsets"].as_array().unwrap();
    let mut head = data[offsets[0].as_u64().unwrap() as usize..offsets[1].as_u64().unwrap() as usize].to_vec();
    std::fs::write(&path, with_tensor(&bytes, "lm_head.weight", "BF16", &[160, 64], &head)).unwrap();
    BaseModel::open(dir.path()).unwrap();
    // The same values in another dtype.
    let values: Vec<f32> = head.as_chunks::<2>().0.iter().map(|bits| bf16_to_f32(u16::from_le_bytes(*bits))).collect();
    std::fs::write(&path, with_tensor(&bytes, "lm_head.weight", "F32", &[160, 64], &f32_bytes(&values))).unwrap();
    BaseModel::open(dir.path()).unwrap();
    let mut other = values;
    *other.last_mut().unwrap() += 1.0;
    std::fs::write(&path, with_tensor(&bytes, "lm_head.weight", "F32", &[160, 64], &f32_bytes(&other))).unwrap();
    assert_refused(dir.path(), &["lm_head.weight differs"]);
    head[0] ^= 1;
    std::fs::write(&path, with_tensor(&bytes, "lm_head.weight", "BF16", &[160, 64], &head)).unwrap();
    let error = BaseModel::open(dir.path()).unwrap_err();
    assert!(matches!(error, BaseError::TiedHeadDiffers { .. }), "{error:?}");
}

#[test]
fn paths_without_a_model_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    assert_refused(dir.path(), &["config.json"]);
    assert_refused(&dir.path().join("nowhere"), &["nowhere", "no such file"]);
    let file = dir.path().join("notes.txt");
    std::fs::write(&file, "hello").unwrap();
    assert_refused(&file, &["not a base model", ".gguf"]);
    let copy = copy_of("llama");
    std::fs::remove_file(copy.path().join(WEIGHTS)).unwrap();
    assert_refused(copy.path(), &["model.safetensors"]);
}

#[test]
fn configurations_that_change_the_computation_are_refused() {
    let cases = [
        ("model_type", json!("mixtral"), "mixtral"),
        ("model_type", json!(null), "`model_type` is missing"),
        ("architectures", json!(["LlamaForSequenceClassification"]), "LlamaForSequenceClassification"),
        ("hidden_act", json!("gelu"), "`hidden_act` is \"gelu\""),
        ("pretraining_tp", json!(2), "`pretraining_tp`"),
        ("attention_dropout", json!(0.1), "`attention_dropout`"),
        ("partial_rotary_factor", json!(0.5), "`partial_rotary_factor`"),
        ("sliding_window", json!(128), "unknown key `sliding_window`"),
        ("logit_scale", json!(0.25), "unknown key `logit_scale`"),
        ("num_attention_heads", json!(0), "`num_attention_heads` is 0"),
        ("num_attention_heads", json!("four"), "`num_attention_heads` is \"four\""),
        ("num_key_value_heads", json!(3), "not a multiple"),
        ("num_hidden_layers", json!(100_000_000), "`num_hidden_layers`"),
        ("head_dim", json!(15), "head_dim is 15"),
        ("layer_types", json!(["full_attention", "sliding_attention"]), "`layer_types`"),
        (
            "rope_parameters",
            json!({"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}),
            "`rope_parameters.rope_type`",
        ),
        ("rope_parameters", json!({"rope_type": "linear", "rope_theta": 1e4}), "`rope_parameters.factor` is missing"),
        ("rope_parameters", json!({"rope_theta": 1e4, "mrope_section": [1]}), "`rope_parameters.mrope_section`"),
        ("quantization_config", json!({"quant_method": "gptq"}), "gptq"),
        ("quantization_config", json!({"quant_method": "bitsandbytes", "load_in_8bit": true}), "8 bits"),
    ];
    for (key, value, text) in cases {
        let dir = copy_of("llama");
        edit_json(dir.path(), "config.json", |config| {
            config.insert(key.into(), value.clone());
        });
        assert_refused(dir.path(), &["config.json", text]);
    }
}

#[test]
fn gemma_configurations_that_change_the_computation_are_refused() {
    let cases = [
        ("gemma", "hidden_act", json!("silu"), "supported is gelu_pytorch_tanh or gelu"),
        ("gemma2", "hidden_activation", json!("gelu"), "supported is gelu_pytorch_tanh"),
        ("gemma2", "final_logit_softcapping", json!(-30.0), "`final_logit_softcapping` is -30.0"),
        ("gemma2", "sliding_window_size", json!(8), "the same as sliding_window"),
        ("gemma3", "sliding_window", json!(null), "supported is a number while there are sliding layers"),
        ("gemma2", "use_bidirectional_attention", json!(true), "`use_bidirectional_attention`"),
        ("gemma3", "attn_logit_softcapping", json!(50.0), "unknown key `attn_logit_softcapping`"),
        ("gemma3", "rope_parameters", json!({"chunked_attention": {}}), "`rope_parameters.chunked_attention`"),
        (
            "gemma3",
            "rope_parameters",
            json!({"full_attention": {"rope_type": "yarn"}}),
            "`rope_parameters.full_attention.rope_type`",
        ),
        ("gemma3", "architectures", json!(["Gemma3ForConditionalGeneration"]), "Gemma3ForConditionalGeneration"),
    ];
    for (family, key, value, text) in cases {
        let dir = copy_of(family);
        edit_json(dir.path(), "config.json", |config| {
            config.insert(key.into(), value.clone());
        });
        assert_refused(dir.path(), &["config.json", text]);
    }
}

#[test]
fn keys_with_their_only_supported_value_are_accepted() {
    let dir = copy_of("llama");
    edit_json(dir.path(), "config.json", |config| {
        config.insert("rope_interleaved".into(), false.into());
        config.insert("partial_rotary_factor".into(), json!(1.0));
        config.insert("temperature".into(), json!(0.7));
        config.insert("something_new".into(), json!(null));
        config.insert("_flash_attn_2_enabled".into(), json!(true));
        config.insert("max_sequence_length".into(), json!(2048));
        config.insert("eos_token".into(), json!("</s>"));
        config.insert("quantization_config".into(), json!({}));
    });
    BaseModel::open(dir.path()).unwrap();
}

#[test]
fn a_configuration_that_is_not_json_is_refused() {
    let dir = copy_of("llama");
    std::fs::write(dir.path().join("config.json"), "{\"model_type\": \"llama\",").unwrap();
    assert_refused(dir.path(), &["config.json", "line 1"]);
    std::fs::write(dir.path().join("config.json"), "[]").unwrap();
    assert_refused(dir.path(), &["config.json", "object"]);
}

#[test]
fn an_unknown_key_is_a_config_error() {
    let dir = copy_of("llama");
    edit_json(dir.path(), "config.json", |config| {
        config.insert("attn_temperature_tuning".into(), json!(4));
    });
    let error = BaseModel::open(dir.path()).unwrap_err();
    assert!(
        matches!(&error, BaseError::Config(ConfigError::UnknownKey { key, .. }) if key == "attn_temperature_tuning")
    );
}

proptest! {
    /// Random bytes as a weight file.
    #[test]
    fn random_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(open_with(&bytes).is_err());
    }

    /// Random JSON-like headers with their correct length.
    #[test]
    fn random_headers_are_refused(text in r#"[{}\[\]",:0-9a-zA-Z_ ]{0,200}"#, data in prop::collection::vec(any::<u8>(), 0..64)) {
        let bytes = [&(text.len() as u64).to_le_bytes()[..], text.as_bytes(), &data].concat();
        prop_assert!(open_with(&bytes).is_err());
    }

    /// A valid file with some changed bytes is opened or refused. If it is opened, it can be read.
    #[test]
    fn changed_bytes_never_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), header_only: bool) {
        let mut bytes = original();
        let len = if header_only { 2200 } else { bytes.len() };
        for (at, value) in changes {
            bytes[at.index(len)] = value;
        }
        if let Ok(model) = open_with(&bytes) {
            for name in model.weight_names() {
                let weight = model.weight(&name);
                prop_assert!(weight.is_ok());
            }
        }
    }
}
