//! Opening the fixtures of all families.

use std::borrow::Cow;

use tonfall_adapters::{Activation, BaseKind, BaseModel, Family, Rope, RopeScaling, Shape};
use tonfall_blocks::Format;

use crate::files::{copy_of, edit_json, fixture, values};

fn open(family: &str) -> BaseModel {
    BaseModel::open(&fixture("families").join(family)).unwrap()
}

#[test]
fn every_family_opens_with_its_description() {
    let llama = open("llama");
    let description = llama.description();
    assert_eq!((description.family, llama.kind()), (Family::Llama, BaseKind::HuggingFace));
    assert_eq!((description.num_attention_heads, description.num_key_value_heads, description.head_dim), (4, 2, 16));
    assert_eq!(description.layer_windows, [None, None]);
    assert!(!description.tie_word_embeddings);
    let llama3 = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 16,
    };
    assert_eq!((description.rope.theta, description.rope.scaling), (10_000.0, llama3));
    assert_eq!((description.bos_token_id, description.eos_token_ids.as_slice()), (Some(1), &[2][..]));

    let tied = open("llama_tied");
    assert!(tied.description().tie_word_embeddings);
    assert!(tied.weight("lm_head.weight").is_err());

    let mistral = open("mistral");
    assert_eq!(mistral.description().family, Family::Mistral);
    assert!(mistral.description().layer_windows.iter().all(Option::is_some), "every layer slides");

    let qwen2 = open("qwen2");
    assert!(qwen2.description().attention_bias && !qwen2.description().output_bias);
    assert_eq!(qwen2.weight("model.layers.0.self_attn.k_proj.bias").unwrap().cols, 32);

    let qwen3 = open("qwen3");
    assert!(qwen3.description().qk_norm && !qwen3.description().attention_bias);
    assert_eq!(qwen3.weight("model.layers.1.self_attn.q_norm.weight").unwrap().cols, qwen3.description().head_dim);
}

#[test]
fn every_gemma_version_opens_with_its_description() {
    let gemma = open("gemma");
    let description = gemma.description();
    assert_eq!((description.family, description.activation), (Family::Gemma, Activation::GeluTanh));
    assert_eq!((description.embedding_scale, description.unit_offset), (Some(8.0), true));
    assert!(!description.output_norms && !description.qk_norm && description.tie_word_embeddings);
    assert_eq!(description.attention_scale(), 32f64.sqrt().recip());

    let gemma2 = open("gemma2");
    let description = gemma2.description();
    assert_eq!((description.attn_logit_softcapping, description.final_logit_softcapping), (Some(2.0), Some(3.0)));
    assert_eq!(description.attention_scale(), 24f64.sqrt().recip());
    assert_eq!(description.layer_windows, [Some(7), None]);
    assert!(description.output_norms && description.local_rope.is_none());
    assert_eq!(gemma2.weight("model.layers.1.post_feedforward_layernorm.weight").unwrap().cols, 64);

    let gemma3 = open("gemma3");
    let description = gemma3.description();
    assert_eq!((description.attn_logit_softcapping, description.final_logit_softcapping), (None, None));
    assert_eq!(description.rope, Rope { theta: 1e6, scaling: RopeScaling::Linear { factor: 8.0 } });
    assert_eq!(description.local_rope, Some(Rope { theta: 1e4, scaling: RopeScaling::None }));
    assert!(description.output_norms && description.qk_norm);
}

#[test]
fn gemma_configurations_may_omit_defaults_and_repeat_keys() {
    let gemma2 = copy_of("gemma2");
    edit_json(gemma2.path(), "config.json", |config| {
        config.insert("hidden_act".into(), "gelu_pytorch_tanh".into());
        config.insert("sliding_window_size".into(), 7.into());
        config.insert("cache_implementation".into(), "hybrid".into());
        ["layer_types", "tie_word_embeddings"].iter().for_each(|key| {
            config.remove(*key);
        });
    });
    assert_eq!(BaseModel::open(gemma2.path()).unwrap().description(), open("gemma2").description());
    // Without the key, the caps are those of the release; with `null` there are none.
    edit_json(gemma2.path(), "config.json", |config| {
        config.remove("attn_logit_softcapping");
        config.insert("final_logit_softcapping".into(), serde_json::Value::Null);
    });
    let edited = BaseModel::open(gemma2.path()).unwrap();
    assert_eq!(edited.description().attn_logit_softcapping, Some(50.0));
    assert_eq!(edited.description().final_logit_softcapping, None);

    let gemma = copy_of("gemma");
    edit_json(gemma.path(), "config.json", |config| {
        config.insert("hidden_act".into(), "gelu".into());
    });
    assert_eq!(BaseModel::open(gemma.path()).unwrap().description(), open("gemma").description());

    let gemma3 = copy_of("gemma3");
    edit_json(gemma3.path(), "config.json", |config| {
        config.remove("rope_parameters");
        config.insert("rope_theta".into(), 1e6.into());
        config.insert("rope_local_base_freq".into(), 1e4.into());
        config.insert("rope_scaling".into(), serde_json::json!({"rope_type": "linear", "factor": 8.0}));
    });
    assert_eq!(BaseModel::open(gemma3.path()).unwrap().description(), open("gemma3").description());
    edit_json(gemma3.path(), "config.json", |config| {
        config.remove("layer_types");
        config.remove("_sliding_window_pattern");
        config.insert("sliding_window_pattern".into(), 2.into());
    });
    assert_eq!(BaseModel::open(gemma3.path()).unwrap().description(), open("gemma3").description());
}

#[test]
fn weights_are_borrowed_from_the_file_and_have_the_described_shapes() {
    for family in ["llama", "llama_tied", "llama_sharded", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3"] {
        let model = open(family);
        assert_eq!(model.weight_names().len(), model.description().tensors().len());
        for (name, shape) in model.description().tensors() {
            let weight = model.weight(&name).unwrap();
            assert_eq!((weight.rows, weight.cols), shape.rows_cols(), "{family}: {name}");
            assert_eq!(weight.format, Format::Bf16);
            assert!(matches!(weight.bytes, Cow::Borrowed(_)), "{family}: {name} was copied");
            assert_eq!(weight.bytes.len(), weight.rows * weight.cols * 2);
        }
    }
}

#[test]
fn a_sharded_model_equals_the_single_file() {
    let (single, sharded) = (open("llama"), open("llama_sharded"));
    assert_eq!(single.description(), sharded.description());
    for name in single.weight_names() {
        assert_eq!(values(&single, &name), values(&sharded, &name), "{name}");
    }
}

#[test]
fn the_fingerprints_follow_the_content_and_not_the_path() {
    let copy = copy_of("llama");
    let of = |base: &BaseModel| (base.config_fingerprint(), base.weights_fingerprint());
    let before = of(&open("llama"));
    assert!(before.0.starts_with("sha256:") && before.1.starts_with("sha256:"), "{before:?}");
    assert_eq!(of(&BaseModel::open(copy.path()).unwrap()), before);
    let path = copy.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let weights = of(&BaseModel::open(copy.path()).unwrap());
    assert!(weights.0 == before.0 && weights.1 != before.1, "{weights:?}");
    edit_json(copy.path(), "config.json", |config| drop(config.insert("rope_theta".into(), 20_000.0.into())));
    edit_json(copy.path(), "config.json", |config| drop(config.remove("rope_parameters")));
    let config = of(&BaseModel::open(copy.path()).unwrap());
    assert!(config.0 != before.0 && config.1 == weights.1, "{config:?}");
}

#[test]
fn old_and_new_rotary_keys_are_equivalent() {
    let copy = copy_of("llama");
    edit_json(copy.path(), "config.json", |config| {
        let parameters = config.remove("rope_parameters").unwrap();
        config.insert("rope_theta".into(), parameters["rope_theta"].clone());
        let mut scaling = parameters.as_object().unwrap().clone();
        scaling.remove("rope_theta");
        config.insert("rope_scaling".into(), scaling.into());
    });
    assert_eq!(BaseModel::open(copy.path()).unwrap().description(), open("llama").description());
}

#[test]
fn rotary_frequencies_are_those_of_transformers() {
    // transformers 5.23 on PyTorch 2.11: head_dim 16, theta 10000, without scaling and with llama3 (8, 1, 4, 16).
    const PLAIN: [f32; 8] = [1.0, 0.316_227_76, 0.1, 0.031_622_78, 0.01, 0.003_162_277_9, 0.001, 0.000_316_227_8];
    const LLAMA3: [f32; 8] =
        [0.576_056_36, 0.039_528_47, 0.012_5, 0.003_952_847_3, 0.001_25, 0.000_395_284_73, 0.000_125, 3.952_847_3e-5];
    let mut description = open("llama").description().clone();
    assert_eq!(description.inv_freq(&description.rope), LLAMA3);
    description.rope.scaling = RopeScaling::None;
    assert_eq!(description.inv_freq(&description.rope), PLAIN);
    description.rope.scaling = RopeScaling::Linear { factor: 4.0 };
    assert_eq!(description.inv_freq(&description.rope), PLAIN.map(|frequency| frequency / 4.0));
}

#[test]
fn qwen_windows_begin_where_the_configuration_says() {
    let copy = copy_of("qwen2");
    edit_json(copy.path(), "config.json", |config| {
        config.insert("use_sliding_window".into(), true.into());
        config.insert("sliding_window".into(), 7.into());
        config.insert("max_window_layers".into(), 1.into());
        config.remove("layer_types");
    });
    let model = BaseModel::open(copy.path()).unwrap();
    assert_eq!(model.description().layer_windows, [None, Some(7)]);
}

#[test]
fn generation_config_adds_end_tokens() {
    let copy = copy_of("llama");
    std::fs::write(copy.path().join("generation_config.json"), r#"{"eos_token_id": [2, 7]}"#).unwrap();
    assert_eq!(BaseModel::open(copy.path()).unwrap().description().eos_token_ids, [2, 7]);
}

#[test]
fn shapes_compute_their_rows() {
    assert_eq!(Shape::Vector(5).rows_cols(), (1, 5));
    assert_eq!(Shape::Matrix(5, 3).dims(), [5, 3]);
}
