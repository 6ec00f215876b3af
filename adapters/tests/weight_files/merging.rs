//! Merged models: values, files, errors.

use std::ops::ControlFlow;
use std::path::Path;

use serde_json::Value;
use tonfall_adapters::export::{self, Artifact, ExportError, ExportReport, ExportSettings, Trained};
use tonfall_adapters::peft::{Adapter, AdapterTensor};
use tonfall_adapters::{BaseError, BaseModel, ChatSettings};
use tonfall_blocks::Format;

use crate::files::gguf::{of_model, text, texts};
use crate::files::{copy_of, fixture, values};
use crate::peft_files::trained;

fn base(family: &str) -> BaseModel {
    BaseModel::open(&fixture("families").join(family)).unwrap()
}

fn run(
    base: &BaseModel,
    adapter: &Adapter,
    out: &Path,
    settings: &ExportSettings,
) -> Result<ExportReport, ExportError> {
    run_with_chat(base, adapter, out, settings, &ChatSettings::default())
}

fn run_with_chat(
    base: &BaseModel,
    adapter: &Adapter,
    out: &Path,
    settings: &ExportSettings,
    chat: &ChatSettings,
) -> Result<ExportReport, ExportError> {
    let artifact =
        Artifact { name: "", lineage: &[], render_chat: None, base, trained: Trained::Adapter(adapter), chat };
    let mut last = (0, 0);
    let report = export::find("safetensors").unwrap().run(&artifact, settings, out, &mut |done, total| {
        assert!(done >= last.0 && done <= total);
        last = (done, total);
        ControlFlow::Continue(())
    })?;
    assert_eq!(last, (2 * report.bytes, 2 * report.bytes), "progress ends at the total");
    Ok(report)
}

/// W + s·B·A in f64.
fn expected(base: &BaseModel, adapter: &Adapter, name: &str) -> Vec<f64> {
    let mut merged: Vec<f64> = values(base, name).into_iter().map(f64::from).collect();
    let module = name.strip_suffix(".weight").unwrap();
    let Some((a, b)) = adapter.pairs().get(module).copied() else { return merged };
    let (rank, cols) = (a.shape[0], a.shape[1]);
    for (i, value) in merged.iter_mut().enumerate() {
        let (row, col) = (i / cols, i % cols);
        let delta: f64 =
            (0..rank).map(|k| f64::from(b.values[row * rank + k]) * f64::from(a.values[k * cols + col])).sum();
        *value += f64::from(adapter.scale()) * delta;
    }
    merged
}

#[test]
fn a_merged_dense_base_keeps_file_names_and_dtypes() {
    for family in ["llama", "llama_sharded"] {
        let (base, adapter, dir) = (base(family), trained(), tempfile::tempdir().unwrap());
        let out = dir.path().join("merged");
        let report = run(&base, &adapter, &out, &ExportSettings::default()).unwrap();
        assert_eq!((report.tensors, report.changed_tensors), (21, 14), "{family}");
        assert!(report.notices.is_empty());
        let model = BaseModel::open(&out).unwrap();
        for name in base.weight_names() {
            assert_eq!(model.weight(&name).unwrap().format, Format::Bf16);
            let exact = expected(&base, &adapter, &name);
            for (found, exact) in values(&model, &name).into_iter().zip(exact) {
                // The result is rounded once: an error of at most half a unit in the last place of bf16, plus f32
                // rounding on ties.
                let bound = exact.abs() / 256.0 * 1.001 + 1e-9;
                assert!((f64::from(found) - exact).abs() <= bound, "{name}: {found} is not {exact}");
            }
        }
        assert_eq!(model.description(), base.description());
        let index = "model.safetensors.index.json";
        let source = fixture("families").join(family).join(index);
        if source.exists() {
            assert_eq!(std::fs::read(source).unwrap(), std::fs::read(out.join(index)).unwrap());
        }
        let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        let mut names: Vec<String> = std::fs::read_dir(&out).unwrap().map(name).collect();
        names.sort();
        let mut reported = report.files.clone();
        reported.sort();
        assert_eq!(names, reported, "{family}");
        let left: Vec<String> = std::fs::read_dir(dir.path()).unwrap().map(name).collect();
        assert_eq!(left, ["merged"], "no scratch is left");
    }
}

#[test]
fn rslora_scales_the_merge() {
    let (base, mut adapter, dir) = (base("llama"), trained(), tempfile::tempdir().unwrap());
    adapter.config.use_rslora = true;
    let options = ExportSettings { dtype: Some(Format::F32), ..ExportSettings::default() };
    run(&base, &adapter, &dir.path().join("m"), &options).unwrap();
    let model = BaseModel::open(&dir.path().join("m")).unwrap();
    let name = "model.layers.1.mlp.gate_proj.weight";
    for (found, exact) in values(&model, name).into_iter().zip(expected(&base, &adapter, name)) {
        assert!((f64::from(found) - exact).abs() < 1e-6);
    }
}

#[test]
fn a_gguf_base_becomes_a_hugging_face_directory() {
    let (source, adapter, dir) = (base("llama"), trained(), tempfile::tempdir().unwrap());
    let mut gguf = of_model(&source, "llama", true);
    gguf.set("tokenizer.ggml.model", text("gpt2"))
        .set("tokenizer.ggml.pre", text("smollm"))
        .set("tokenizer.ggml.tokens", texts(&["a", "b", "ab"]))
        .set("tokenizer.ggml.merges", texts(&["a b"]))
        .set("tokenizer.chat_template", text("{{ x }}"));
    let (_gguf, path) = gguf.write();
    let base = BaseModel::open(&path).unwrap();
    let options = ExportSettings { dtype: Some(Format::F32), max_shard_bytes: 60_000, ..ExportSettings::default() };
    let out = dir.path().join("m");
    let report = run(&base, &adapter, &out, &options).unwrap();
    assert!(report.files[0].starts_with("model-00001-of-0000"), "{:?}", report.files);
    let model = BaseModel::open(&out).unwrap();
    assert_eq!(model.description(), base.description());
    for name in base.weight_names() {
        for (found, exact) in values(&model, &name).into_iter().zip(expected(&base, &adapter, &name)) {
            assert!((f64::from(found) - exact).abs() < 1e-6, "{name}");
        }
    }
    let tokenizer = model.tokenizer().unwrap();
    assert_eq!(tokenizer.chat_template.as_deref(), Some("{{ x }}"));
    assert_eq!(tokenizer.tokenizer_json, base.tokenizer().unwrap().tokenizer_json);
}

#[test]
fn another_dtype_applies_to_all_weights_and_the_configuration() {
    let (base, adapter, dir) = (base("llama_sharded"), trained(), tempfile::tempdir().unwrap());
    let out = dir.path().join("m");
    run(&base, &adapter, &out, &ExportSettings { dtype: Some(Format::F16), ..ExportSettings::default() }).unwrap();
    let model = BaseModel::open(&out).unwrap();
    assert!(base.weight_names().iter().all(|name| model.weight(name).unwrap().format == Format::F16));
    let config: Value = serde_json::from_slice(&std::fs::read(out.join("config.json")).unwrap()).unwrap();
    assert_eq!((&config["dtype"], &config["torch_dtype"]), (&"float16".into(), &"float16".into()));
    assert!(!out.join("model.safetensors.index.json").exists(), "one file needs no index");
}

fn config_of(dir: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(dir.join("config.json")).unwrap()).unwrap()
}

/// A loader that knows one spelling silently uses its default for the other: mlx-lm uses a `rope_theta` of 10,000.
#[test]
fn configurations_have_both_spellings_of_rope_and_dtype() {
    let dir = tempfile::tempdir().unwrap();
    for family in ["llama", "llama_tied", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3"] {
        let base = base(family);
        let parameters = config_of(&fixture("families").join(family))["rope_parameters"].clone();
        let files = base.side_files(None, &ChatSettings::default()).unwrap().files;
        let config = files.iter().find(|file| file.name == "config.json").unwrap();
        let config: Value = serde_json::from_slice(&config.bytes).unwrap();
        let parameters = if parameters.is_null() { config["rope_parameters"].clone() } else { parameters };
        let (full, local) = match parameters.get("full_attention") {
            Some(full) => (full.clone(), Some(parameters["sliding_attention"].clone())),
            None => (parameters.clone(), None),
        };
        assert_eq!(config["rope_parameters"], parameters, "{family}: the base's own spelling is kept");
        assert_eq!(config["rope_theta"].as_f64(), full["rope_theta"].as_f64(), "{family}");
        assert_eq!(config["dtype"], config["torch_dtype"], "{family}");
        assert!(config["dtype"].is_string(), "{family}");
        match full["rope_type"].as_str() {
            Some("default") | None => assert_eq!(config["rope_scaling"], Value::Null, "{family}"),
            _ => {
                let mut scaling = full.clone();
                scaling.as_object_mut().unwrap().remove("rope_theta");
                assert_eq!(config["rope_scaling"], scaling, "{family}");
            }
        }
        if let Some(local) = local {
            assert_eq!(config["rope_local_base_freq"].as_f64(), local["rope_theta"].as_f64());
        }

        // A base model with the old spelling gets the new one, and the model is the same.
        let copy = copy_of(family);
        std::fs::write(copy.path().join("config.json"), {
            let mut old = config.clone();
            let old = old.as_object_mut().unwrap();
            old.remove("rope_parameters");
            old.remove("dtype");
            old.insert("quantization_config".into(), serde_json::json!({}));
            Value::Object(old.clone()).to_string()
        })
        .unwrap();
        let old = BaseModel::open(copy.path()).unwrap();
        let files = old.side_files(None, &ChatSettings::default()).unwrap().files;
        let made = &files.iter().find(|file| file.name == "config.json").unwrap().bytes;
        std::fs::write(copy.path().join("config.json"), made).unwrap();
        let made = config_of(copy.path());
        assert!(made["rope_parameters"].is_object() && made["dtype"].is_string(), "{family}");
        assert!(made.get("quantization_config").is_none(), "{family}");
        assert_eq!(BaseModel::open(copy.path()).unwrap().description(), base.description(), "{family}");
    }
    let out = dir.path().join("m");
    run(&base("llama"), &trained(), &out, &ExportSettings::default()).unwrap();
    assert_eq!(config_of(&out)["rope_theta"], 10_000.0);
}

#[test]
fn the_merged_model_has_the_runs_template_and_end_tokens() {
    let copy = copy_of("llama");
    let write = |name: &str, text: &str| std::fs::write(copy.path().join(name), text).unwrap();
    std::fs::create_dir(copy.path().join("additional_chat_templates")).unwrap();
    write("chat_template.jinja", "the base's");
    write("additional_chat_templates/tool_use.jinja", "the base's");
    write("tokenizer_config.json", r#"{"eos_token": "</s>", "chat_template": "the base's"}"#);
    write("generation_config.json", r#"{"eos_token_id": 2, "top_p": 0.9}"#);
    let base = BaseModel::open(copy.path()).unwrap();
    let json =
        |dir: &Path, name: &str| -> Value { serde_json::from_slice(&std::fs::read(dir.join(name)).unwrap()).unwrap() };

    let chat = ChatSettings { template: Some("the run's".to_owned()), end_tokens: vec![2, 7] };
    let out = copy.path().join("out");
    let report = run_with_chat(&base, &trained(), &out, &ExportSettings::default(), &chat).unwrap();
    assert_eq!(std::fs::read_to_string(out.join("chat_template.jinja")).unwrap(), "the run's");
    assert!(!out.join("additional_chat_templates").exists());
    let tokenizer = json(&out, "tokenizer_config.json");
    assert_eq!((&tokenizer["chat_template"], &tokenizer["eos_token"]), (&"the run's".into(), &"</s>".into()));
    let generation = json(&out, "generation_config.json");
    assert_eq!((&generation["eos_token_id"], &generation["top_p"]), (&serde_json::json!([2, 7]), &0.9.into()));
    let notice = "generation_config.json: end token 7 added to `eos_token_id`";
    assert!(report.notices.iter().any(|found| found.starts_with(notice)), "{:?}", report.notices);

    // The directory of an adapter gets both files too.
    let files = base.adapter_files(&chat).unwrap();
    let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["chat_template.jinja", "generation_config.json"]);

    // If the base has the same end tokens, nothing is changed and no notice is returned.
    let chat = ChatSettings { template: None, end_tokens: vec![2] };
    assert!(base.adapter_files(&chat).unwrap().is_empty());
    let out = copy.path().join("second");
    let report = run_with_chat(&base, &trained(), &out, &ExportSettings::default(), &chat).unwrap();
    assert!(report.notices.is_empty());
    for name in ["chat_template.jinja", "generation_config.json", "tokenizer_config.json"] {
        assert_eq!(std::fs::read(out.join(name)).unwrap(), std::fs::read(copy.path().join(name)).unwrap(), "{name}");
    }

    // If the base has no generation_config.json, the merged model gets one.
    std::fs::remove_file(copy.path().join("generation_config.json")).unwrap();
    let chat = ChatSettings { template: None, end_tokens: vec![7] };
    let out = copy.path().join("third");
    let base = BaseModel::open(copy.path()).unwrap();
    run_with_chat(&base, &trained(), &out, &ExportSettings::default(), &chat).unwrap();
    assert_eq!(json(&out, "generation_config.json")["eos_token_id"], serde_json::json!([2, 7]));
}

#[test]
fn values_that_are_not_finite_are_named_and_never_written() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("m");
    for (tensor, place) in
        [("model.norm.weight", "row 0, column 5"), ("model.layers.1.mlp.up_proj.weight", "row 2, column 5")]
    {
        let copy = copy_of("llama");
        let path = copy.path().join("model.safetensors");
        let mut bytes = std::fs::read(&path).unwrap();
        let (header, _) = crate::files::take_apart(&bytes);
        let data = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let begin = header[tensor]["data_offsets"][0].as_u64().unwrap() as usize;
        let row = if tensor.contains("norm") { 0 } else { 2 };
        bytes[data + begin + 2 * (row * 64 + 5)..][..2].copy_from_slice(&0x7fc0_u16.to_le_bytes());
        std::fs::write(&path, bytes).unwrap();
        let error =
            run(&BaseModel::open(copy.path()).unwrap(), &trained(), &out, &ExportSettings::default()).unwrap_err();
        assert!(matches!(&error, ExportError::BaseNotFinite { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(tensor) && text.contains("NaN") && text.contains(place), "{text}");
    }
    // The matrices are finite, but their product overflows f32.
    let mut adapter = trained();
    adapter.tensors.iter_mut().for_each(|tensor| tensor.values.fill(3e37));
    let error = run(&base("llama"), &adapter, &out, &ExportSettings::default()).unwrap_err();
    assert!(matches!(&error, ExportError::NotFinite { .. }), "{error:?}");
    assert!(error.to_string().contains("inf at row 0, column 0"), "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn an_interrupted_merge_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (base, adapter) = (base("llama"), trained());
    // While writing, and while reading back.
    for stop_at in [1, 2] {
        let mut calls = 0;
        let chat = ChatSettings::default();
        let artifact = Artifact {
            name: "",
            lineage: &[],
            render_chat: None,
            base: &base,
            trained: Trained::Adapter(&adapter),
            chat: &chat,
        };
        let mut progress = |_, _| {
            calls += 1;
            if calls == stop_at { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let safetensors = export::find("safetensors").unwrap();
        let result = safetensors.run(&artifact, &ExportSettings::default(), &dir.path().join("m"), &mut progress);
        assert!(matches!(result, Err(ExportError::Interrupted)), "{result:?}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

#[test]
fn lora_on_the_head_is_merged_unless_the_head_is_the_embedding() {
    let dir = tempfile::tempdir().unwrap();
    let on_head = |base: &BaseModel| {
        let mut adapter = trained();
        let vocabulary = base.description().vocab_size;
        let tensor = |name: &str, shape: [usize; 2]| AdapterTensor {
            name: format!("lm_head.{name}.weight"),
            shape,
            values: vec![0.25; shape[0] * shape[1]],
        };
        adapter.tensors = vec![tensor("lora_A", [16, 64]), tensor("lora_B", [vocabulary, 16])];
        adapter
    };
    let untied = base("llama");
    let adapter = on_head(&untied);
    run(&untied, &adapter, &dir.path().join("m"), &ExportSettings::default()).unwrap();
    let merged = BaseModel::open(&dir.path().join("m")).unwrap();
    for (found, exact) in
        values(&merged, "lm_head.weight").into_iter().zip(expected(&untied, &adapter, "lm_head.weight"))
    {
        assert!((f64::from(found) - exact).abs() <= exact.abs() / 256.0 + 1e-9);
    }
    let tied = base("llama_tied");
    let error = run(&tied, &on_head(&tied), &dir.path().join("n"), &ExportSettings::default()).unwrap_err();
    assert!(matches!(error, ExportError::TiedHead), "{error:?}");
}

#[test]
fn an_adapter_without_effect_is_an_error() {
    let (base, dir) = (base("llama"), tempfile::tempdir().unwrap());
    let mut adapter = trained();
    for tensor in adapter.tensors.iter_mut().filter(|tensor| tensor.name.contains("lora_B")) {
        tensor.values.fill(0.0);
    }
    let out = dir.path().join("m");
    let error = run(&base, &adapter, &out, &ExportSettings::default()).unwrap_err();
    assert!(matches!(&error, ExportError::NoEffect { format } if format == "BF16"), "{error:?}");
    // The adapter is so small that rounding to the base's dtype removes it.
    for tensor in adapter.tensors.iter_mut().filter(|tensor| tensor.name.contains("lora_B")) {
        tensor.values.fill(1e-30);
    }
    let error = run(&base, &adapter, &out, &ExportSettings::default()).unwrap_err();
    assert!(matches!(error, ExportError::NoEffect { .. }), "{error:?}");
    assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none(), "nothing is left behind");
}

#[test]
fn values_beyond_the_dtype_are_an_error() {
    let (base, mut adapter, dir) = (base("llama"), trained(), tempfile::tempdir().unwrap());
    for tensor in adapter.tensors.iter_mut().filter(|tensor| tensor.name.contains("lora_B")) {
        tensor.values.fill(1e7);
    }
    let options = ExportSettings { dtype: Some(Format::F16), ..ExportSettings::default() };
    let error = run(&base, &adapter, &dir.path().join("m"), &options).unwrap_err();
    assert!(matches!(error, ExportError::Overflow { format: Format::F16, .. }), "{error:?}");
    assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none(), "nothing is left behind");
}

#[test]
fn adapters_of_other_models_and_existing_directories_are_refused() {
    let (model, dir) = (base("llama"), tempfile::tempdir().unwrap());
    let refusal =
        |adapter: &Adapter| run(&model, adapter, &dir.path().join("m"), &ExportSettings::default()).unwrap_err();

    let mut adapter = trained();
    for tensor in &mut adapter.tensors {
        tensor.name = tensor.name.replace("layers.1.", "layers.7.");
    }
    assert!(matches!(refusal(&adapter), ExportError::NoSuchModule { module } if module.contains("layers.7.")));
    let qwen3 = base("qwen3");
    let error = run(&qwen3, &trained(), &dir.path().join("m"), &ExportSettings::default()).unwrap_err();
    assert!(matches!(error, ExportError::Shape { .. }), "{error:?}");
    let options = ExportSettings { dtype: Some(Format::Q8_0), ..ExportSettings::default() };
    let error = run(&model, &trained(), &dir.path().join("m"), &options).unwrap_err();
    assert!(matches!(error, ExportError::Format { format: Format::Q8_0 }), "{error:?}");
    let used = copy_of("llama");
    let error = run(&model, &trained(), used.path(), &ExportSettings::default()).unwrap_err();
    assert!(matches!(error, ExportError::OutputExists { .. }), "{error:?}");
    let error = run(&model, &trained(), Path::new("/proc/nowhere/m"), &ExportSettings::default()).unwrap_err();
    assert!(matches!(error, ExportError::Durable(_)), "{error:?}");
    assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none());
}

#[test]
fn side_files_are_copied_byte_for_byte_except_model_cards() {
    let copy = copy_of("llama");
    let carried = [
        "LICENSE",
        "chat_template.jinja",
        "special_tokens_map.json",
        "tokenizer.model",
        "Notice.md",
        "USE_POLICY.md",
        "additional_chat_templates/tool_use.jinja",
    ];
    std::fs::create_dir(copy.path().join("additional_chat_templates")).unwrap();
    for name in carried.iter().chain(&["README.md", "pytorch_model.bin", "notes.py"]) {
        std::fs::write(copy.path().join(name), format!("{{\"this is\": \"{name}\"}}\n")).unwrap();
    }
    let out = copy.path().join("out");
    run(&BaseModel::open(copy.path()).unwrap(), &trained(), &out, &ExportSettings::default()).unwrap();
    for name in carried {
        assert_eq!(std::fs::read(out.join(name)).unwrap(), std::fs::read(copy.path().join(name)).unwrap());
    }
    for name in ["README.md", "pytorch_model.bin", "notes.py"] {
        assert!(!out.join(name).exists(), "{name} was carried");
    }
}

#[test]
fn buffers_of_older_transformers_versions_are_copied() {
    let copy = copy_of("llama");
    let path = copy.path().join("model.safetensors");
    let name = "model.layers.0.self_attn.rotary_emb.inv_freq";
    let bytes = crate::files::with_tensor(&std::fs::read(&path).unwrap(), name, "F32", &[2], &[1, 2, 3, 4, 5, 6, 7, 8]);
    std::fs::write(&path, bytes).unwrap();
    let out = copy.path().join("out");
    let report = run(&BaseModel::open(copy.path()).unwrap(), &trained(), &out, &ExportSettings::default()).unwrap();
    assert_eq!(report.tensors, 22);
    let bytes = std::fs::read(out.join("model.safetensors")).unwrap();
    let merged = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(merged.tensor(name).unwrap().data(), [1, 2, 3, 4, 5, 6, 7, 8]);
}

#[test]
fn a_quantised_base_is_written_dense_with_a_notice() {
    let dir = copy_of("llama_tied");
    let dense = BaseModel::open(dir.path()).unwrap();
    let mut gguf = of_model(&dense, "llama", true);
    let tensor = gguf.tensor("blk.0.ffn_up.weight");
    let values: Vec<f32> = tensor.data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    tensor.data = crate::files::gguf::q8_0(&values);
    tensor.kind = 8;
    gguf.set("tokenizer.ggml.model", text("gpt2"))
        .set("tokenizer.ggml.tokens", texts(&["a", "b", "c"]))
        .set("tokenizer.ggml.merges", texts(&[]));
    let (_gguf, path) = gguf.write();
    let base = BaseModel::open(&path).unwrap();
    let out = dir.path().join("out");
    let report =
        run(&base, &trained(), &out, &ExportSettings { dtype: Some(Format::Bf16), ..ExportSettings::default() });
    let report = report.unwrap();
    assert!(report.notices.len() == 1 && report.notices[0].contains("quantised"), "{:?}", report.notices);
    let merged = BaseModel::open(&out).unwrap();
    let name = "model.layers.0.mlp.up_proj.weight";
    for (found, exact) in crate::files::values(&merged, name).into_iter().zip(expected(&base, &trained(), name)) {
        assert!((f64::from(found) - exact).abs() <= exact.abs() / 256.0 + 1e-9);
    }
}

#[test]
fn errors_of_the_base_are_returned() {
    let copy = copy_of("llama");
    let base = BaseModel::open(copy.path()).unwrap();
    std::fs::remove_dir_all(copy.path()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let error = run(&base, &trained(), &dir.path().join("m"), &ExportSettings::default()).unwrap_err();
    assert!(matches!(error, ExportError::Base(BaseError::Open(_))), "{error:?}");
}

/// LoRA on the head is merged if the base has its own head. If the head is tied, the error names it.
#[test]
fn lora_on_the_head_needs_an_untied_head() {
    let on_the_head = |base: &BaseModel| {
        let mut adapter = trained();
        let [a, b] = ["lora_A", "lora_B"].map(|matrix| format!("model.layers.0.self_attn.q_proj.{matrix}.weight"));
        adapter.tensors.retain(|tensor| tensor.name == a || tensor.name == b);
        let model = base.description();
        for tensor in &mut adapter.tensors {
            let is_a = tensor.name == a;
            let name = if is_a { "lm_head.lora_A.weight" } else { "lm_head.lora_B.weight" };
            tensor.name = name.to_owned();
            tensor.shape =
                if is_a { [adapter.config.r, model.hidden_size] } else { [model.vocab_size, adapter.config.r] };
            tensor.values = vec![0.5; tensor.shape[0] * tensor.shape[1]];
        }
        adapter
    };
    let dir = tempfile::tempdir().unwrap();
    let (untied, tied) = (base("llama"), base("llama_tied"));
    let merged = run(&untied, &on_the_head(&untied), &dir.path().join("untied"), &ExportSettings::default()).unwrap();
    assert_eq!(merged.changed_tensors, 1);
    let refused = run(&tied, &on_the_head(&tied), &dir.path().join("tied"), &ExportSettings::default());
    assert!(matches!(refused, Err(ExportError::TiedHead)), "{refused:?}");
}

#[test]
fn the_files_do_not_depend_on_the_number_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    let written = |threads: usize| {
        let out = dir.path().join(threads.to_string());
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| run(&base("llama"), &trained(), &out, &ExportSettings::default()).unwrap());
        std::fs::read(out.join("model.safetensors")).unwrap()
    };
    assert_eq!(written(1), written(5));
}

#[test]
fn an_adapter_larger_than_the_memory_limit_is_refused() {
    let (dir, settings) =
        (tempfile::tempdir().unwrap(), ExportSettings { max_ram: 1 << 20, ..ExportSettings::default() });
    let error = run(&base("llama"), &trained(), &dir.path().join("m"), &settings).unwrap_err();
    assert!(
        matches!(error, ExportError::Memory { .. }) && error.to_string().contains("but 1 MiB are allowed"),
        "{error}"
    );
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
