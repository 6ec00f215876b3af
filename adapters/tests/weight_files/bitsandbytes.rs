//! bitsandbytes' 4-bit checkpoints as a base model, generated from the fixture's numbers.

use std::ops::ControlFlow;

use safetensors::SafeTensors;
use serde_json::json;
use tempfile::TempDir;
use tonfall_adapters::export::{self, Artifact, ExportSettings, Trained};
use tonfall_adapters::{BaseError, BaseModel, BitsAndBytesError, ChatSettings};
use tonfall_blocks::{DYNAMIC_MAP, Format, NF4, Nf4View, dequantize, quantize_nf4};

use crate::files::{copy_of, edit_json, f32_bytes, fixture, safetensors_of, values};

type Tensors = Vec<(String, &'static str, Vec<usize>, Vec<u8>)>;

/// The tied Llama fixture with linear layers in bitsandbytes' format.
fn quantised() -> (TempDir, Tensors) {
    let dir = copy_of("llama_tied");
    let model = BaseModel::open(dir.path()).unwrap();
    let mut tensors: Tensors = Vec::new();
    for (name, shape) in model.description().tensors() {
        let values = values(&model, &name);
        if !name.contains("proj") {
            tensors.push((name, "F32", shape.dims(), f32_bytes(&values)));
            continue;
        }
        let bytes = quantize_nf4(&values);
        let view = Nf4View::from_bytes(&bytes, values.len()).unwrap();
        let nested: Vec<f32> = view.nested_absmax().collect();
        let state = json!({
            "quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": shape.dims(),
            "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": f64::from(view.offset()),
        });
        let state = state.to_string().into_bytes();
        let part = |suffix: &str| format!("{name}{suffix}");
        tensors.push((part(""), "U8", vec![view.codes().len(), 1], view.codes().to_vec()));
        tensors.push((part(".absmax"), "U8", vec![view.absmax().len()], view.absmax().to_vec()));
        tensors.push((part(".quant_map"), "F32", vec![16], f32_bytes(&NF4)));
        tensors.push((part(".nested_absmax"), "F32", vec![nested.len()], f32_bytes(&nested)));
        tensors.push((part(".nested_quant_map"), "F32", vec![256], f32_bytes(&DYNAMIC_MAP)));
        tensors.push((part(".quant_state.bitsandbytes__nf4"), "U8", vec![state.len()], state));
    }
    edit_json(dir.path(), "config.json", |config| {
        config.insert("quantization_config".into(), json!({"quant_method": "bitsandbytes", "load_in_4bit": true}));
    });
    (dir, tensors)
}

fn open((dir, tensors): &(TempDir, Tensors)) -> Result<BaseModel, BaseError> {
    std::fs::write(dir.path().join("model.safetensors"), safetensors_of(tensors)).unwrap();
    BaseModel::open(dir.path())
}

#[test]
fn weights_equal_the_values_that_bitsandbytes_stored() {
    let source = BaseModel::open(&fixture("families/llama_tied")).unwrap();
    let model = open(&quantised()).unwrap();
    assert!(model.is_quantized());
    for name in source.weight_names().iter().filter(|name| name.contains("proj")) {
        let weight = model.weight(name).unwrap();
        assert_eq!(weight.format, Format::Nf4);
        assert_eq!(*weight.bytes, quantize_nf4(&values(&source, name)), "{name}");
    }
    assert_eq!(values(&model, "model.norm.weight"), values(&source, "model.norm.weight"));
}

/// A checkpoint with one matrix, whose parts bitsandbytes itself wrote.
#[test]
fn parts_written_by_bitsandbytes_dequantize_to_its_values() {
    let file = std::fs::read(fixture("nf4.safetensors")).unwrap();
    let fixture = SafeTensors::deserialize(&file).unwrap();
    let part = |name: &str| fixture.tensor(&format!("square.{name}")).unwrap();
    let shape = part("values").shape().to_vec();
    let dir = copy_of("llama_tied");
    edit_json(dir.path(), "config.json", |config| {
        config.insert("vocab_size".into(), shape[0].into());
    });
    let model = {
        let mut made = quantised();
        made.1.retain(|(name, ..)| !name.starts_with("model.layers.0.self_attn.o_proj.weight"));
        let name = "model.layers.0.self_attn.o_proj.weight";
        let offset = f32::from_le_bytes(part("offset").data().try_into().unwrap());
        let state = json!({
            "quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [64, 64],
            "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": f64::from(offset),
        });
        assert_eq!(shape, [64, 64], "the fixture's shape is that of o_proj");
        let data = |name: &str| part(name).data().to_vec();
        let state = state.to_string().into_bytes();
        made.1.push((name.into(), "U8", vec![2048, 1], data("codes")));
        made.1.push((format!("{name}.absmax"), "U8", vec![64], data("absmax")));
        made.1.push((format!("{name}.quant_map"), "F32", vec![16], f32_bytes(&NF4)));
        made.1.push((format!("{name}.nested_absmax"), "F32", vec![1], data("nested_absmax")));
        made.1.push((
            format!("{name}.nested_quant_map"),
            "F32",
            vec![256],
            fixture.tensor("dynamic_map").unwrap().data().to_vec(),
        ));
        made.1.push((format!("{name}.quant_state.bitsandbytes__nf4"), "U8", vec![state.len()], state));
        open(&made).unwrap()
    };
    let weight = model.weight("model.layers.0.self_attn.o_proj.weight").unwrap();
    let mut found = vec![0.0; 64 * 64];
    dequantize(weight.format, &weight.bytes, 64, 64, 0, &mut found);
    assert_eq!(f32_bytes(&found), part("values").data());
}

#[test]
fn unsupported_variants_are_refused() {
    let cases: [(&str, &str, &str); 3] = [
        (r#""quant_type":"nf4""#, r#""quant_type":"fp4""#, "fp4"),
        (r#""blocksize":64"#, r#""blocksize":32"#, "block size is 32"),
        (r#""nested_blocksize":256"#, r#""nested_blocksize":null"#, "second time"),
    ];
    for (from, to, expected) in cases {
        let mut made = quantised();
        for (name, _, shape, data) in &mut made.1 {
            if name.ends_with("bitsandbytes__nf4") {
                *data = String::from_utf8(data.clone()).unwrap().replacen(from, to, 1).into_bytes();
                *shape = vec![data.len()];
            }
        }
        let error = open(&made).unwrap_err();
        assert!(matches!(&error, BaseError::BitsAndBytes(BitsAndBytesError::Variant { .. })), "{error:?}");
        assert!(error.to_string().contains(expected), "{error}");
    }
    let mut made = quantised();
    let map = made.1.iter_mut().find(|(name, ..)| name.ends_with(".quant_map")).unwrap();
    map.3[4..8].copy_from_slice(&0.5f32.to_le_bytes());
    assert!(open(&made).unwrap_err().to_string().contains("not bitsandbytes' table"));
}

#[test]
fn damaged_parts_are_refused() {
    for part in [".absmax", ".nested_absmax", ".nested_quant_map", ".quant_state.bitsandbytes__nf4"] {
        let mut made = quantised();
        made.1.retain(|(name, ..)| name != &format!("model.layers.1.mlp.up_proj.weight{part}"));
        assert!(open(&made).is_err(), "without {part}");
    }
    let mut made = quantised();
    let state = made.1.iter_mut().find(|(name, ..)| name.ends_with("bitsandbytes__nf4")).unwrap();
    state.3[0] = b'[';
    let error = open(&made).unwrap_err();
    assert!(matches!(&error, BaseError::BitsAndBytes(BitsAndBytesError::Damaged { .. })), "{error:?}");
    let mut made = quantised();
    made.1.push(("model.norm.weight.absmax".into(), "U8", vec![1], vec![0]));
    assert!(matches!(open(&made).unwrap_err(), BaseError::UnknownTensor { .. }), "a companion without its weight");
}

#[test]
fn merging_writes_the_dequantised_weights_with_a_notice() {
    let made = quantised();
    let base = open(&made).unwrap();
    let (adapter, dir) = (crate::peft_files::trained(), tempfile::tempdir().unwrap());
    let out = dir.path().join("merged");
    let artifact = Artifact {
        name: "",
        lineage: &[],
        render_chat: None,
        base: &base,
        trained: Trained::Adapter(&adapter),
        chat: &ChatSettings::default(),
    };
    let safetensors = export::find("safetensors").unwrap();
    let report = safetensors.run(&artifact, &ExportSettings::default(), &out, &mut |_, _| ControlFlow::Continue(()));
    let report = report.unwrap();
    assert!(report.notices.len() == 1 && report.notices[0].contains("quantised"), "{:?}", report.notices);
    let merged = BaseModel::open(&out).unwrap();
    assert!(!merged.is_quantized() && merged.description() == base.description());
    assert_eq!(values(&merged, "model.norm.weight"), values(&base, "model.norm.weight"));
    let name = "model.layers.1.mlp.down_proj";
    let (a, b) = adapter.pairs()[name];
    let (found, before) = (values(&merged, &format!("{name}.weight")), values(&base, &format!("{name}.weight")));
    let (rank, cols) = (a.shape[0], a.shape[1]);
    for (i, (found, before)) in found.into_iter().zip(before).enumerate() {
        let (row, col) = (i / cols, i % cols);
        let delta: f32 = (0..rank).map(|k| b.values[row * rank + k] * a.values[k * cols + col]).sum();
        assert!((found - before - adapter.scale() * delta).abs() < 1e-5, "value {i}");
    }
    let config = std::fs::read_to_string(out.join("config.json")).unwrap();
    assert!(!config.contains("quantization_config"), "{config}");
}
