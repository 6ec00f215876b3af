//! GGUF models: their weights equal those of the Hugging Face directory that they were converted from.

use std::borrow::Cow;

use tonfall_adapters::{BaseKind, BaseModel, RopeScaling};
use tonfall_blocks::Format;

use crate::files::gguf::{Tensor, of_model, q8_0};
use crate::files::{f32_bytes, fixture, values};

fn family(name: &str) -> BaseModel {
    BaseModel::open(&fixture("families").join(name)).unwrap()
}

#[test]
fn llama_rows_are_read_in_hugging_face_order() {
    let source = family("llama_tied");
    let (_dir, path) = of_model(&source, "llama", true).write();
    let model = BaseModel::open(&path).unwrap();
    assert_eq!(model.kind(), BaseKind::Gguf);
    for name in source.weight_names() {
        assert_eq!(values(&model, &name), values(&source, &name), "{name}");
        let borrowed = matches!(model.weight(&name).unwrap().bytes, Cow::Borrowed(_));
        let rotated = name.contains("q_proj") || name.contains("k_proj");
        assert_eq!(borrowed, !rotated, "{name}");
    }
    let mut expected = source.description().clone();
    expected.rope.scaling = RopeScaling::None;
    expected.bos_token_id = None;
    assert_eq!(model.description(), &expected);
}

#[test]
fn qwen_rows_are_not_permuted() {
    for (name, architecture) in [("qwen2", "qwen2"), ("qwen3", "qwen3")] {
        let source = family(name);
        let (_dir, path) = of_model(&source, architecture, false).write();
        let model = BaseModel::open(&path).unwrap();
        assert_eq!(model.description().family, source.description().family);
        for name in source.weight_names() {
            assert_eq!(values(&model, &name), values(&source, &name), "{name}");
        }
    }
}

#[test]
fn llama_biases_are_read_in_hugging_face_order() {
    let source = family("llama_tied");
    let mut gguf = of_model(&source, "llama", true);
    for layer in 0..2 {
        for (part, len) in [("attn_q", 64), ("attn_k", 32), ("attn_v", 32), ("attn_output", 64)] {
            let data = f32_bytes(&(0..len).map(|i| i as f32).collect::<Vec<_>>());
            gguf.tensors.push(Tensor { name: format!("blk.{layer}.{part}.bias"), dims: vec![len], kind: 0, data });
        }
    }
    let (_dir, path) = gguf.write();
    let model = BaseModel::open(&path).unwrap();
    // A head has size 16. GGUF interleaves its two halves, so the first two elements are the first of each half.
    let k = values(&model, "model.layers.0.self_attn.k_proj.bias");
    assert_eq!(k[..3], [0.0, 2.0, 4.0]);
    assert_eq!(k[8..11], [1.0, 3.0, 5.0]);
    assert_eq!(k[16], 16.0);
    assert_eq!(values(&model, "model.layers.0.self_attn.v_proj.bias")[..3], [0.0, 1.0, 2.0]);
    assert!(model.description().output_bias);
}

#[test]
fn blocks_stay_in_their_format() {
    let source = family("llama_tied");
    let mut gguf = of_model(&source, "llama", true);
    for part in ["attn_q", "ffn_down"] {
        let tensor = gguf.tensor(&format!("blk.0.{part}.weight"));
        let dense: Vec<f32> = tensor.data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        tensor.data = q8_0(&dense);
        tensor.kind = 8;
    }
    let (_dir, path) = gguf.write();
    let model = BaseModel::open(&path).unwrap();
    assert!(model.is_quantized());
    for name in ["model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.down_proj.weight"] {
        assert_eq!(model.weight(name).unwrap().format, Format::Q8_0);
        let (found, exact) = (values(&model, name), values(&source, name));
        let largest = exact.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
        assert!(found.iter().zip(&exact).all(|(a, b)| (a - b).abs() <= largest / 200.0), "{name}");
    }
}

/// llama.cpp uses Q5_0 and Q5_1 if the row length is not a multiple of 256.
#[test]
fn five_bit_blocks_are_read() {
    let source = family("llama_tied");
    let mut gguf = of_model(&source, "llama", true);
    let tensor = gguf.tensor("blk.0.ffn_down.weight");
    let dense: Vec<f32> = tensor.data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    (tensor.data, tensor.kind) = (crate::files::gguf::q5_0(&dense), 6);
    let (_dir, path) = gguf.write();
    let model = BaseModel::open(&path).unwrap();
    let name = "model.layers.0.mlp.down_proj.weight";
    assert_eq!(model.weight(name).unwrap().format, Format::Q5_0);
    let largest = dense.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    let close = |(a, b): (&f32, &f32)| (a - b).abs() <= largest / 25.0;
    assert!(values(&model, name).iter().zip(&dense).all(close));
}

#[test]
fn any_part_of_a_split_file_opens_the_whole_model() {
    let source = family("llama_tied");
    let dir = crate::files::gguf::write_parts(&crate::files::gguf::split_in_two(&of_model(&source, "llama", true)));
    let mut fingerprints = Vec::new();
    for part in ["model-00001-of-00002.gguf", "model-00002-of-00002.gguf"] {
        let model = BaseModel::open(&dir.path().join(part)).unwrap();
        for name in source.weight_names() {
            assert_eq!(values(&model, &name), values(&source, &name), "{name}");
        }
        fingerprints.push((model.config_fingerprint(), model.weights_fingerprint()));
    }
    assert_eq!(fingerprints[0], fingerprints[1]);
}

#[test]
fn llama_3_scaling_is_recognised_by_its_factors() {
    let source = family("llama_tied");
    let mut gguf = of_model(&source, "llama", true);
    let mut description = source.description().clone();
    description.rope.theta = 500_000.0;
    description.rope.scaling = RopeScaling::None;
    let plain = description.inv_freq(&description.rope);
    let scaling = RopeScaling::Llama3 {
        factor: 32.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };
    description.rope.scaling = scaling;
    let factors: Vec<f32> =
        plain.iter().zip(description.inv_freq(&description.rope)).map(|(plain, scaled)| plain / scaled).collect();
    gguf.set("llama.rope.freq_base", crate::files::gguf::f32(500_000.0));
    let data = f32_bytes(&factors);
    gguf.tensors.push(Tensor { name: "rope_freqs.weight".to_owned(), dims: vec![8], kind: 0, data });
    let (_dir, path) = gguf.write();
    let found = BaseModel::open(&path).unwrap().description().rope.scaling;
    let RopeScaling::Llama3 { factor, original_max_position_embeddings, .. } = found else { panic!("{found:?}") };
    assert!((factor - 32.0).abs() < 1e-4 && original_max_position_embeddings == 8192, "{found:?}");
}
