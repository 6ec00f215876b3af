//! GGUF exports: models and adapters, read back.

use std::ops::ControlFlow;
use std::path::Path;

use serde_json::json;
use tempfile::TempDir;
use tonfall_adapters::export::{self, Artifact, ExportError, ExportReport, ExportSettings, GgufTypes, Trained};
use tonfall_adapters::peft::{Adapter, AdapterTensor};
use tonfall_adapters::{BaseModel, ChatSettings, ModelDescription};
use tonfall_blocks::Format;

use crate::files::{copy_of, edit_json, values};
use crate::peft_files::trained;

/// A family's fixture with a tokenizer, and with the attention scale that llama.cpp computes.
fn with_tokenizer(family: &str) -> TempDir {
    let dir = copy_of(family);
    let pre = json!({ "type": "Sequence", "pretokenizers": [
        { "type": "Digits", "individual_digits": true },
        { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
    ]});
    let token = |id: usize, content: &str| {
        json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true })
    };
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": [token(1, "<s>"), token(2, "</s>")],
        "pre_tokenizer": pre,
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                   "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                   "vocab": { "a": 0, "<s>": 1, "</s>": 2, "b": 3, "ab": 4 }, "merges": [["a", "b"]] },
    });
    std::fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let config = json!({ "bos_token": "<s>", "eos_token": "</s>", "chat_template": "{{ messages }}" });
    std::fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    if ["gemma2", "gemma3"].contains(&family) {
        edit_json(dir.path(), "config.json", |config| {
            drop(config.insert("query_pre_attn_scalar".to_owned(), 32.into()))
        });
    }
    dir
}

/// The adapter of the fixture `llama`, with the shapes of another model's linear layers.
fn adapter_for(base: &BaseModel) -> Adapter {
    let mut adapter = trained();
    let (mut tensors, mut number) = (Vec::new(), 0.0f32);
    for (name, shape) in base.description().tensors() {
        let Some(module) = name.strip_suffix("_proj.weight") else { continue };
        let (rows, cols) = shape.rows_cols();
        for (matrix, shape) in [("lora_A", [16, cols]), ("lora_B", [rows, 16])] {
            let values = (0..shape[0] * shape[1])
                .map(|_| {
                    number += 1.0;
                    (number * 0.7).sin() * 0.1
                })
                .collect();
            tensors.push(AdapterTensor { name: format!("{module}_proj.{matrix}.weight"), shape, values });
        }
    }
    adapter.tensors = tensors;
    adapter
}

fn run(
    kind: &str,
    base: &BaseModel,
    trained: Trained<'_>,
    types: &[&str],
    out: &Path,
) -> Result<ExportReport, ExportError> {
    let chat = ChatSettings { template: Some("the run's".to_owned()), end_tokens: vec![2, 4] };
    let lineage = [("recipe".to_owned(), "abc".to_owned())];
    let artifact = Artifact { name: "letters", base, trained, chat: &chat, lineage: &lineage, render_chat: None };
    let types = types.iter().map(|name| GgufTypes::find(name).unwrap()).collect();
    let settings = ExportSettings { types, ..ExportSettings::default() };
    let mut last = (0, 0);
    let report = export::find(kind).unwrap().run(&artifact, &settings, out, &mut |done, total| {
        assert!(done >= last.0 && done <= total);
        last = (done, total);
        ControlFlow::Continue(())
    })?;
    assert_eq!(last.0, last.1, "progress ends at the total");
    Ok(report)
}

/// The values of a merged model, in the dtype F32.
fn merged(base: &BaseModel, adapter: &Adapter, dir: &Path) -> BaseModel {
    let chat = ChatSettings::default();
    let artifact =
        Artifact { name: "", base, trained: Trained::Adapter(adapter), chat: &chat, lineage: &[], render_chat: None };
    let settings = ExportSettings { dtype: Some(Format::F32), ..ExportSettings::default() };
    let safetensors = export::find("safetensors").unwrap();
    safetensors.run(&artifact, &settings, dir, &mut |_, _| ControlFlow::Continue(())).unwrap();
    BaseModel::open(dir).unwrap()
}

#[test]
fn every_family_is_written_as_gguf_and_read_back() {
    for family in ["llama", "llama_tied", "llama_sharded", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3"] {
        let dir = with_tokenizer(family);
        let base = BaseModel::open(dir.path()).unwrap();
        let adapter = adapter_for(&base);
        let report = run("gguf", &base, Trained::Adapter(&adapter), &["F32"], &dir.path().join("gguf")).unwrap();
        assert_eq!(report.files, ["model-F32.gguf", "SERVE.md"], "{family}");
        assert_eq!(report.changed_tensors, 14, "{family}");
        let model = BaseModel::open(&dir.path().join("gguf/model-F32.gguf")).unwrap();
        let expected = merged(&base, &adapter, &dir.path().join("merged"));
        for name in base.weight_names() {
            let same = |(found, expected): (f32, f32)| {
                // Norms of Gemma are stored with 1 added.
                (found - expected).abs() <= if base.description().unit_offset { 1e-6 } else { 0.0 }
            };
            assert!(values(&model, &name).into_iter().zip(values(&expected, &name)).all(same), "{family}: {name}");
        }
        let described = ModelDescription {
            // GGUF has no Mistral and no sliding window for it.
            family: base.description().family,
            layer_windows: base.description().layer_windows.clone(),
            eos_token_ids: base.description().eos_token_ids.clone(),
            ..model.description().clone()
        };
        assert_eq!(described, *base.description(), "{family}");
        assert_eq!(model.description().eos_token_ids, [2, 4], "{family}: the run's end of turn");
        assert_eq!(
            report.notices.is_empty(),
            !["mistral", "gemma3"].contains(&family),
            "{family}: {:?}",
            report.notices
        );
        assert_eq!(model.tokenizer().unwrap().chat_template.as_deref(), Some("the run's"));
    }
}

#[test]
fn a_gguf_base_keeps_its_tokenizer_and_its_types() {
    let dir = with_tokenizer("llama_tied");
    let source = BaseModel::open(dir.path()).unwrap();
    run("gguf", &source, Trained::Nothing, &["Q8_0"], &dir.path().join("base")).unwrap();
    let base = BaseModel::open(&dir.path().join("base/model-Q8_0.gguf")).unwrap();
    let adapter = adapter_for(&base);
    let report = run("gguf", &base, Trained::Adapter(&adapter), &["base", "F16"], &dir.path().join("out")).unwrap();
    assert_eq!(report.files, ["model-base.gguf", "model-F16.gguf", "SERVE.md"]);
    let model = BaseModel::open(&dir.path().join("out/model-base.gguf")).unwrap();
    for name in base.weight_names() {
        assert_eq!(model.weight_format(&name), base.weight_format(&name), "{name}");
    }
    assert_eq!(model.tokenizer().unwrap().tokenizer_json, base.tokenizer().unwrap().tokenizer_json);
    // Weights that the adapter doesn't change are copied.
    let embedding = "model.embed_tokens.weight";
    assert_eq!(model.weight(embedding).unwrap().bytes, base.weight(embedding).unwrap().bytes);
}

#[test]
fn an_adapter_is_written_with_its_own_scale_and_the_order_of_rows() {
    let dir = with_tokenizer("llama_tied");
    let base = BaseModel::open(dir.path()).unwrap();
    let mut adapter = adapter_for(&base);
    adapter.config.use_rslora = true;
    let report = run("gguf-adapter", &base, Trained::Adapter(&adapter), &[], &dir.path().join("out")).unwrap();
    assert_eq!((report.files, report.tensors), (vec!["adapter.gguf".to_owned(), "SERVE.md".to_owned()], 28));
    let bytes = std::fs::read(dir.path().join("out/adapter.gguf")).unwrap();
    let find =
        |text: &str| bytes.windows(text.len()).position(|window| window == text.as_bytes()).unwrap() + text.len();
    // After a key: its type, then its value. alpha / √16 · 16 = 4 · alpha.
    let alpha = find("adapter.lora.alpha");
    let alpha = f32::from_le_bytes(bytes[alpha + 4..alpha + 8].try_into().unwrap());
    assert_eq!(f64::from(alpha), 4.0 * adapter.config.lora_alpha);
    assert!(bytes.windows(14).any(|window| window == b"tonfall.recipe"), "the lineage");
    for name in ["blk.1.attn_q.weight.lora_b", "blk.0.ffn_down.weight.lora_a"] {
        find(name);
    }
    // Two heads of 16 rows for k: the second row in the file is the first of the second half.
    let b = adapter.by_name()["model.layers.0.self_attn.k_proj.lora_B.weight"];
    let pair: Vec<u8> =
        [0, 8].iter().flat_map(|row| &b.values[row * 16..][..16]).flat_map(|v| v.to_le_bytes()).collect();
    assert!(bytes.windows(pair.len()).any(|window| window == pair));
}

#[test]
fn models_that_llama_cpp_computes_differently_are_refused() {
    let dir = with_tokenizer("gemma2");
    edit_json(dir.path(), "config.json", |config| drop(config.insert("query_pre_attn_scalar".to_owned(), 24.into())));
    let base = BaseModel::open(dir.path()).unwrap();
    let error = run("gguf", &base, Trained::Nothing, &["F16"], &dir.path().join("out")).unwrap_err().to_string();
    assert!(error.contains("llama.cpp can't run this model") && error.contains("24"), "{error}");
    assert!(!dir.path().join("out").exists());
}

#[test]
fn an_adapter_without_effect_or_of_another_model_is_refused() {
    let dir = with_tokenizer("llama_tied");
    let base = BaseModel::open(dir.path()).unwrap();
    let mut empty = adapter_for(&base);
    empty.tensors.iter_mut().filter(|tensor| tensor.name.contains("lora_B")).for_each(|tensor| tensor.values.fill(0.0));
    let mut foreign = adapter_for(&base);
    foreign.tensors.iter_mut().for_each(|tensor| tensor.name = tensor.name.replace("layers.1.", "layers.7."));
    for kind in ["gguf", "gguf-adapter", "peft", "safetensors"] {
        let out = dir.path().join(kind);
        let error = run(kind, &base, Trained::Adapter(&empty), &["Q8_0"], &out).unwrap_err();
        assert!(matches!(error, ExportError::NoEffect { .. }), "{kind}: {error:?}");
        let result = run(kind, &base, Trained::Adapter(&foreign), &["Q8_0"], &out);
        match kind {
            // A PEFT adapter is written as it is.
            "peft" => assert!(result.is_ok(), "{result:?}"),
            _ => assert!(matches!(result, Err(ExportError::NoSuchModule { .. })), "{kind}: {result:?}"),
        }
    }
    let values = |_: &str| Ok(Vec::new());
    let error = run("gguf-adapter", &base, Trained::Full(&values), &[], &dir.path().join("x")).unwrap_err();
    assert!(matches!(error, ExportError::NeedsAdapter { .. }), "{error:?}");
}
