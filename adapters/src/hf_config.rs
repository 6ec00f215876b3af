//! Writes `config.json` and `generation_config.json` for a model description, in the format of transformers.
//!
//! Every configuration has both spellings of the keys that transformers 5 renamed: `rope_parameters` in addition to
//! `rope_theta` and `rope_scaling`, and `dtype` in addition to `torch_dtype`. Loaders that know only one spelling would
//! silently use their defaults for the other one.
//! Must not depend on: the source of the description.

use serde_json::{Map, Value, json};
use tonfall_blocks::Format;

use crate::description::{Activation, Family, ModelDescription, RopeScaling};
use crate::families;

/// The name of a dense format in transformers.
pub(crate) fn dtype_name(format: Format) -> &'static str {
    match format {
        Format::F16 => "float16",
        Format::Bf16 => "bfloat16",
        _ => "float32",
    }
}

/// `config.json`, made from a description.
pub(crate) fn config_json(model: &ModelDescription, dtype: Format) -> Map<String, Value> {
    let row = families::Row::of(model.family);
    let window = model.layer_windows.iter().flatten().next().copied();
    let activation = match model.activation {
        Activation::Silu => "silu",
        Activation::GeluTanh => "gelu_pytorch_tanh",
    };
    let kind = |window: &Option<usize>| if window.is_some() { "sliding_attention" } else { "full_attention" };
    let layer_types: Value = model.layer_windows.iter().map(kind).collect();
    let mut map = Map::new();
    let mut put = |key: &str, value: Value| {
        map.insert(key.to_owned(), value);
    };
    put("architectures", json!([row.architecture]));
    put("model_type", row.model_type.into());
    put("vocab_size", model.vocab_size.into());
    put("hidden_size", model.hidden_size.into());
    put("intermediate_size", model.intermediate_size.into());
    put("num_hidden_layers", model.num_hidden_layers.into());
    put("num_attention_heads", model.num_attention_heads.into());
    put("num_key_value_heads", model.num_key_value_heads.into());
    put("head_dim", model.head_dim.into());
    put("hidden_act", activation.into());
    put("max_position_embeddings", model.max_position_embeddings.into());
    put("rms_norm_eps", model.rms_norm_eps.into());
    for (key, value) in rope_keys(model) {
        put(key, value);
    }
    put("tie_word_embeddings", model.tie_word_embeddings.into());
    put("attention_dropout", json!(0.0));
    match model.family {
        Family::Llama => {
            put("attention_bias", model.attention_bias.into());
            put("mlp_bias", model.mlp_bias.into());
        }
        Family::Mistral => put("sliding_window", window.into()),
        Family::Qwen2 | Family::Qwen3 => {
            if model.family == Family::Qwen3 {
                put("attention_bias", model.attention_bias.into());
            }
            put("use_sliding_window", window.is_some().into());
            put("sliding_window", window.into());
            let full = model.layer_windows.iter().take_while(|window| window.is_none()).count();
            put("max_window_layers", full.into());
            put("layer_types", layer_types);
        }
        Family::Gemma => put("attention_bias", model.attention_bias.into()),
        Family::Gemma2 | Family::Gemma3 => {
            put("attention_bias", model.attention_bias.into());
            put("hidden_activation", activation.into());
            put("query_pre_attn_scalar", model.query_pre_attn_scalar.into());
            put("attn_logit_softcapping", model.attn_logit_softcapping.into());
            put("final_logit_softcapping", model.final_logit_softcapping.into());
            put("sliding_window", window.into());
            put("layer_types", layer_types);
        }
    }
    put("bos_token_id", model.bos_token_id.into());
    put("eos_token_id", ids(&model.eos_token_ids));
    put("initializer_range", json!(0.02));
    put("use_cache", true.into());
    for key in DTYPE_KEYS {
        put(key, dtype_name(dtype).into());
    }
    map
}

const DTYPE_KEYS: [&str; 2] = ["torch_dtype", "dtype"];

/// The rotary settings in both spellings.
fn rope_keys(model: &ModelDescription) -> Vec<(&'static str, Value)> {
    let parameters = families::rope_parameters(&model.rope);
    let scaling = match model.rope.scaling {
        RopeScaling::None => Value::Null,
        _ => {
            let mut scaling = parameters.clone();
            scaling.shift_remove("rope_theta");
            Value::Object(scaling)
        }
    };
    let mut keys = vec![("rope_theta", model.rope.theta.into()), ("rope_scaling", scaling)];
    match &model.local_rope {
        None => keys.push(("rope_parameters", Value::Object(parameters))),
        Some(local) => {
            keys.push(("rope_local_base_freq", local.theta.into()));
            let local = families::rope_parameters(local);
            keys.push(("rope_parameters", json!({ "full_attention": parameters, "sliding_attention": local })));
        }
    }
    keys
}

/// The `config.json` of a base, for an export with dense weights: without `quantization_config`, with both spellings.
/// `dtype` is the dtype of the exported weights if it differs from the base, `stored` that of the base.
pub(crate) fn exported(
    config: &Map<String, Value>,
    model: &ModelDescription,
    dtype: Option<Format>,
    stored: Format,
) -> Map<String, Value> {
    let mut map = config.clone();
    map.shift_remove("quantization_config");
    for (key, value) in rope_keys(model) {
        if map.get(key).is_none_or(Value::is_null) {
            map.insert(key.to_owned(), value);
        }
    }
    let own = DTYPE_KEYS.iter().find_map(|key| map.get(*key).filter(|value| !value.is_null()).cloned());
    let name = match dtype {
        Some(dtype) => dtype_name(dtype).into(),
        None => own.unwrap_or_else(|| dtype_name(stored).into()),
    };
    for key in DTYPE_KEYS {
        if dtype.is_some() || map.get(key).is_none_or(Value::is_null) {
            map.insert(key.to_owned(), name.clone());
        }
    }
    map
}

/// `generation_config.json`, with the tokens that end a generation.
pub(crate) fn generation_json(model: &ModelDescription, pad: Option<u32>) -> Map<String, Value> {
    let mut map = Map::new();
    map.insert("bos_token_id".to_owned(), model.bos_token_id.into());
    map.insert("eos_token_id".to_owned(), ids(&model.eos_token_ids));
    map.insert("pad_token_id".to_owned(), pad.into());
    map
}

/// One id is written as a number, as in most files. Several ids are written as a list.
pub(crate) fn ids(ids: &[u32]) -> Value {
    match ids {
        [] => Value::Null,
        [id] => (*id).into(),
        several => several.into(),
    }
}

/// Indented JSON with a final line break.
pub(crate) fn pretty(map: &Map<String, Value>) -> Vec<u8> {
    let mut text = serde_json::to_string_pretty(map).unwrap_or_else(|_| unreachable!("a map of values is JSON"));
    text.push('\n');
    text.into_bytes()
}
