//! Names of weights in Hugging Face and GGUF files, and names of tensors that don't belong to the model.
//!
//! Must not depend on: file formats.

/// Names of a layer's modules without the suffix `.weight` or `.bias`: in Hugging Face after `model.layers.N.`, in GGUF
/// after `blk.N.`.
const LAYER: [(&str, &str); 11] = [
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// The names that differ in layers with norms on the outputs of attention and MLP (Gemma 2 and 3).
const LAYER_WITH_OUTPUT_NORMS: [(&str, &str); 3] = [
    ("post_attention_layernorm", "post_attention_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
];

const OUTSIDE: [(&str, &str); 3] =
    [("model.embed_tokens", "token_embd"), ("model.norm", "output_norm"), ("lm_head", "output")];

/// The GGUF name of a weight. `output_norms`: whether layers have norms on the outputs of attention and MLP. Unknown names
/// are returned unchanged.
pub(crate) fn to_gguf(name: &str, output_norms: bool) -> String {
    let translated = || {
        let (module, suffix) = name.rsplit_once('.')?;
        let Some(rest) = module.strip_prefix("model.layers.") else {
            let (_, gguf) = OUTSIDE.iter().find(|(hf, _)| *hf == module)?;
            return Some(format!("{gguf}.{suffix}"));
        };
        let (layer, part) = rest.split_once('.')?;
        let own: &[_] = if output_norms { &LAYER_WITH_OUTPUT_NORMS } else { &[] };
        let (_, gguf) = own.iter().chain(&LAYER).find(|(hf, _)| *hf == part)?;
        Some(format!("blk.{layer}.{gguf}.{suffix}"))
    };
    translated().unwrap_or_else(|| name.to_owned())
}

/// Whether the weight is that of a norm.
pub(crate) fn is_norm(name: &str) -> bool {
    name.ends_with("norm.weight")
}

/// Whether the tensor is a buffer that older software saved with the weights. Its values follow from the configuration.
pub(crate) fn is_rotary_buffer(name: &str) -> bool {
    name.ends_with(".rotary_emb.inv_freq")
}
