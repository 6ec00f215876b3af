//! PEFT adapters: reading PEFT's files, and reading back our own.

use std::ops::ControlFlow;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;
use tonfall_adapters::export::{self, Artifact, ExportError, ExportSettings, Trained};
use tonfall_adapters::peft::{self, Adapter, AdapterConfig, AdapterTensor, PeftError};
use tonfall_adapters::{BaseModel, ChatSettings};

use crate::files::{edit_json, fixture, safetensors_of, take_apart};

pub fn trained() -> Adapter {
    peft::read(&fixture("peft_steps/final")).unwrap()
}

fn small() -> Adapter {
    let tensor = |name: &str, shape: [usize; 2]| AdapterTensor {
        name: format!("model.layers.0.self_attn.q_proj.{name}.weight"),
        shape,
        values: (0..shape[0] * shape[1]).map(|i| i as f32 * 0.25 - 1.0).collect(),
    };
    let config = AdapterConfig {
        base_model_name_or_path: Some("base".to_owned()),
        revision: None,
        r: 2,
        lora_alpha: 4.0,
        lora_dropout: 0.05,
        target_modules: vec!["q_proj".to_owned()],
        use_rslora: false,
    };
    Adapter { config, tensors: vec![tensor("lora_A", [2, 5]), tensor("lora_B", [3, 2])] }
}

fn written() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    peft::write_files(dir.path(), &small()).unwrap();
    dir
}

#[test]
fn an_adapter_of_peft_is_read() {
    let adapter = trained();
    assert_eq!((adapter.config.r, adapter.config.lora_alpha), (16, 32.0));
    assert_eq!(adapter.tensors.len(), 28);
    assert_eq!(adapter.modules().len(), 14);
    assert_eq!(adapter.scale(), 2.0);
    let b = adapter.by_name()["model.layers.1.mlp.down_proj.lora_B.weight"];
    assert_eq!((b.shape, b.values.len()), ([64, 16], 1024));
    assert!(adapter.pairs().contains_key("model.layers.1.self_attn.k_proj"));
}

#[test]
fn written_adapters_round_trip_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("deep/adapter");
    let mut adapter = trained();
    adapter.config.use_rslora = true;
    peft::write_files(&target, &adapter).unwrap();
    assert_eq!(peft::read(&target).unwrap(), adapter);
    assert_eq!(adapter.scale(), 8.0, "alpha / √r");
    assert!(
        !std::fs::read_dir(&target).unwrap().any(|entry| entry.unwrap().file_name().to_string_lossy().starts_with('.'))
    );
}

#[test]
fn written_files_have_the_format_of_peft() {
    let dir = written();
    let config: Value =
        serde_json::from_slice(&std::fs::read(dir.path().join("adapter_config.json")).unwrap()).unwrap();
    let expected = json!({
        "auto_mapping": null, "base_model_name_or_path": "base", "bias": "none", "exclude_modules": null,
        "fan_in_fan_out": false, "inference_mode": true, "init_lora_weights": true, "layers_pattern": null,
        "layers_to_transform": null, "lora_alpha": 4, "lora_bias": false, "lora_dropout": 0.05,
        "modules_to_save": null, "peft_type": "LORA", "peft_version": "0.21.2", "r": 2, "rank_pattern": {},
        "alpha_pattern": {}, "revision": null, "target_modules": ["q_proj"], "target_parameters": null,
        "task_type": "CAUSAL_LM", "trainable_token_indices": null, "use_dora": false, "use_rslora": false,
    });
    assert_eq!(config, expected);
    let bytes = std::fs::read(dir.path().join("adapter_model.safetensors")).unwrap();
    let (header, _) = take_apart(&bytes);
    assert_eq!(header["__metadata__"], json!({ "format": "pt" }));
    let a = &header["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"];
    assert_eq!((&a["dtype"], &a["shape"]), (&json!("F32"), &json!([2, 5])));
    // The `safetensors` crate reads the file too.
    assert_eq!(safetensors::SafeTensors::deserialize(&bytes).unwrap().len(), 2);
}

#[test]
fn keys_that_change_the_computation_are_refused() {
    let cases = [
        ("use_dora", json!(true), "`use_dora`"),
        ("bias", json!("all"), "`bias` is \"all\""),
        ("modules_to_save", json!(["lm_head"]), "`modules_to_save`"),
        ("rank_pattern", json!({"q_proj": 4}), "one rank"),
        ("alpha_pattern", json!({"q_proj": 4}), "one alpha"),
        ("init_lora_weights", json!("pissa"), "path_initial_model_for_weight_conversion"),
        ("fan_in_fan_out", json!(true), "`fan_in_fan_out`"),
        ("trainable_token_indices", json!([1]), "`trainable_token_indices`"),
        ("peft_type", json!("IA3"), "\"LORA\""),
        ("use_hyperlora", json!(true), "unknown key `use_hyperlora`"),
        ("r", json!(0), "`r` must be a positive integer"),
        ("r", json!(3), "its rank is 2"),
        ("lora_alpha", json!("much"), "`lora_alpha` must be a number"),
    ];
    for (key, value, expected) in cases {
        let dir = written();
        edit_json(dir.path(), "adapter_config.json", |config| {
            config.insert(key.into(), value.clone());
        });
        let error = peft::read(dir.path()).unwrap_err().to_string();
        assert!(error.contains(expected), "{key}: {expected:?} is not in: {error}");
    }
    let dir = written();
    edit_json(dir.path(), "adapter_config.json", |config| {
        config.insert("use_qalora".into(), false.into());
        config.insert("some_future_config".into(), Value::Null);
    });
    peft::read(dir.path()).unwrap();
}

fn with_tensors(tensors: &[(&str, &'static str, Vec<usize>, Vec<u8>)]) -> PeftError {
    let dir = written();
    let full = |name: &str| format!("base_model.model.model.layers.0.self_attn.q_proj.{name}");
    let tensors: Vec<_> =
        tensors.iter().map(|(name, dtype, shape, data)| (full(name), *dtype, shape.clone(), data.clone())).collect();
    std::fs::write(dir.path().join("adapter_model.safetensors"), safetensors_of(&tensors)).unwrap();
    peft::read(dir.path()).unwrap_err()
}

#[test]
fn tensors_that_are_no_adapter_are_refused() {
    let a = ("lora_A.weight", "F32", vec![2, 5], vec![0; 40]);
    let error = with_tensors(std::slice::from_ref(&a)).to_string();
    assert!(error.contains("counterpart"), "{error}");
    let magnitude = ("lora_magnitude_vector", "F32", vec![3, 1], vec![0; 12]);
    assert!(matches!(with_tensors(&[a.clone(), magnitude]), PeftError::Tensor { .. }));
    let integers = ("lora_B.weight", "I32", vec![3, 2], vec![0; 24]);
    assert!(with_tensors(&[a.clone(), integers]).to_string().contains("dtype I32"));
    let cube = ("lora_B.weight", "F32", vec![3, 2, 1], vec![0; 24]);
    assert!(with_tensors(&[a.clone(), cube]).to_string().contains("no matrix"));
    let mut nan = vec![0; 24];
    nan[8..12].copy_from_slice(&f32::NAN.to_le_bytes());
    assert!(with_tensors(&[a, ("lora_B.weight", "F32", vec![3, 2], nan)]).to_string().contains("value 2 is NaN"));
    assert!(matches!(with_tensors(&[]), PeftError::Empty { .. }));
}

#[test]
fn other_dtypes_are_widened() {
    let dir = written();
    let bf16 =
        |values: &[f32]| values.iter().flat_map(|value| tonfall_blocks::bf16_from_f32(*value).to_le_bytes()).collect();
    let name = |part: &str| format!("base_model.model.model.layers.0.self_attn.q_proj.{part}.weight");
    let tensors = [
        (name("lora_A"), "BF16", vec![2, 1], bf16(&[1.5, -2.0])),
        (name("lora_B"), "BF16", vec![1, 2], bf16(&[0.25, 3.0])),
    ];
    std::fs::write(dir.path().join("adapter_model.safetensors"), safetensors_of(&tensors)).unwrap();
    let adapter = peft::read(dir.path()).unwrap();
    assert_eq!(adapter.tensors[0].values, [1.5, -2.0]);
}

#[test]
fn directories_without_an_adapter_are_named() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(peft::read(dir.path()), Err(PeftError::NotAnAdapter { .. })));
    std::fs::write(dir.path().join("adapter_model.bin"), b"\x80\x02").unwrap();
    let error = peft::read(dir.path()).unwrap_err().to_string();
    assert!(error.contains("adapter_model.bin") && error.contains("pickle"), "{error}");
}

#[test]
fn invalid_adapters_are_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |edit: fn(&mut Adapter), expected: &str| {
        let mut adapter = small();
        edit(&mut adapter);
        let error = peft::write_files(dir.path(), &adapter).unwrap_err().to_string();
        assert!(error.contains(expected), "{expected:?} is not in: {error}");
    };
    refused(|adapter| adapter.tensors.clear(), "no tensors");
    refused(|adapter| adapter.tensors[1].values[0] = f32::INFINITY, "diverged");
    refused(|adapter| adapter.tensors[1].shape = [2, 3], "rank is 3");
    refused(|adapter| adapter.tensors.truncate(1), "counterpart");
    assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none(), "nothing was written");
}

#[test]
fn an_unwritable_directory_is_named() {
    let error = peft::write_files(Path::new("/proc/no-such-place"), &small()).unwrap_err();
    assert!(matches!(error, PeftError::Durable(_)), "{error:?}");
    assert!(error.to_string().contains("/proc"), "{error}");
}

#[test]
fn an_exported_adapter_appears_complete_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let base = BaseModel::open(&fixture("families/llama")).unwrap();
    let export = |adapter: &Adapter, name: &str| {
        let chat = ChatSettings { template: Some("the run's".to_owned()), end_tokens: Vec::new() };
        let artifact = Artifact {
            name: "",
            lineage: &[],
            render_chat: None,
            base: &base,
            trained: Trained::Adapter(adapter),
            chat: &chat,
        };
        let peft = export::find("peft").unwrap();
        let out = dir.path().join(name);
        peft.run(&artifact, &ExportSettings::default(), &out, &mut |_, _| ControlFlow::Continue(()))
    };
    let report = export(&small(), "adapter").unwrap();
    assert_eq!(
        report.files,
        ["adapter_model.safetensors", "adapter_config.json", "chat_template.jinja", "SERVE.md", "lineage.json"]
    );
    assert!(report.files.iter().all(|file| dir.path().join("adapter").join(file).is_file()));
    let error = export(&small(), "adapter").unwrap_err();
    assert!(matches!(error, ExportError::OutputExists { .. }), "{error:?}");

    let mut diverged = small();
    diverged.tensors[1].values[0] = f32::NAN;
    export(&diverged, "second").unwrap_err();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

/// With a linear search for each tensor, 40,000 modules took 21 seconds.
#[test]
fn an_adapter_of_many_modules_is_read() {
    let tensor = |module: usize, matrix: &str| AdapterTensor {
        name: format!("model.layers.{module}.mlp.up_proj.{matrix}.weight"),
        shape: [2, 2],
        values: vec![0.5; 4],
    };
    let tensors = (0..40_000).flat_map(|module| [tensor(module, "lora_A"), tensor(module, "lora_B")]).collect();
    let dir = tempfile::tempdir().unwrap();
    peft::write_files(dir.path(), &Adapter { tensors, ..small() }).unwrap();
    let adapter = peft::read(dir.path()).unwrap();
    assert_eq!((adapter.pairs().len(), adapter.modules().len()), (40_000, 40_000));
}

#[cfg(unix)]
#[test]
fn pipes_are_refused() {
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        let dir = written();
        crate::files::replace_by_fifo(&dir.path().join(file));
        let error = peft::read(dir.path()).unwrap_err().to_string();
        assert!(error.contains(file) && error.contains("not a regular file"), "{error}");
    }
}
