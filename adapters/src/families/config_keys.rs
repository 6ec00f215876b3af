//! Reads a `config.json` in a way that no key is ignored by accident.
//!
//! Responsible for: typed access, the table of keys without influence, the table of keys with a single supported value,
//! and refusing all other keys. Must not depend on: a particular family.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use thiserror::Error;

use crate::description::{Family, MAX_LAYERS, ModelDescription, Rope, Sizes};

/// Faults of a model's configuration.
#[derive(Debug, Error)]
pub enum ConfigError {
    #[error("{}: {what} is not supported; the known ones are {known}", path.display())]
    Architecture { path: PathBuf, what: String, known: String },

    #[error("{}: `{key}` is missing; take config.json from the model's original release", path.display())]
    Missing { path: PathBuf, key: String },

    #[error("{}: `{key}` is {found}, but must be {expected}", path.display())]
    Type { path: PathBuf, key: String, found: String, expected: &'static str },

    #[error(
        "{}: `{key}` is {found}, which changes the model's mathematics and is not supported; supported is {supported}",
        path.display()
    )]
    Unsupported { path: PathBuf, key: String, found: String, supported: String },

    #[error(
        "{}: unknown key `{key}` (value {found}); it could change the model's mathematics. If it is known to have no \
         influence on them, remove it from the file",
        path.display()
    )]
    UnknownKey { path: PathBuf, key: String, found: String },

    #[error("{}: {reason}", path.display())]
    Sizes { path: PathBuf, reason: String },
}

/// Keys without influence on a forward pass: bookkeeping, generation defaults, tokens that the tokenizer defines, the
/// choice of a kernel. The context length is read from `max_position_embeddings`; its copies are not read.
const WITHOUT_INFLUENCE: [&str; 84] = [
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_attn_implementation_internal",
    "_commit_hash",
    "_experts_implementation",
    "_flash_attn_2_enabled",
    "_from_model_config",
    "_model_name_or_path",
    "_name_or_path",
    "architectures",
    "additional_special_tokens",
    "attn_implementation",
    "bad_words_ids",
    "base_model_name",
    "begin_suppress_tokens",
    "bos_token",
    "cache_implementation",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "eos_token",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "id2label",
    "initializer_range",
    "is_llama_config",
    "label2id",
    "length_penalty",
    "keys_to_ignore_at_inference",
    "max_length",
    "max_seq_len",
    "max_seq_length",
    "max_sequence_length",
    "model_max_length",
    "n_ctx",
    "min_length",
    "model_type",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "pad_token",
    "pad_token_id",
    "padding_side",
    "prefix",
    "problem_type",
    "quantization_config",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "typical_p",
    "unk_token",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
    "use_flash_attention",
    "use_flash_attention_2",
    "use_flash_attn",
    "mask_token_id",
    "unk_token_id",
    "model_name",
    "auto_map",
];

/// The supported value of a key with a single supported value, which is the one that the decoder computes.
fn only_value(key: &str) -> Option<Value> {
    Some(match key {
        "hidden_act" | "hidden_activation" => json!("silu"),
        "pretraining_tp" | "partial_rotary_factor" => json!(1),
        "attention_dropout" | "resid_pdrop" | "embd_pdrop" | "hidden_dropout" | "chunk_size_feed_forward" => json!(0),
        "add_cross_attention"
        | "cross_attention_hidden_size"
        | "is_encoder_decoder"
        | "tie_encoder_decoder"
        | "rope_interleaved"
        | "use_mrope"
        | "use_sliding_window"
        | "use_bidirectional_attention"
        | "mlp_bias"
        | "attention_bias"
        | "qkv_bias"
        | "no_bias" => json!(false),
        "is_decoder" => json!(false),
        "pruned_heads" => json!({}),
        _ => return None,
    })
}

/// One JSON object of a configuration. Tracks which keys were read.
pub(crate) struct Config<'a> {
    path: &'a Path,
    /// Path of the object in the file, with a final dot. Empty for the top-level object.
    prefix: String,
    values: &'a Map<String, Value>,
    read: BTreeSet<String>,
}

impl<'a> Config<'a> {
    pub(super) fn new(path: &'a Path, values: &'a Map<String, Value>) -> Self {
        Self { path, prefix: String::new(), values, read: BTreeSet::new() }
    }

    pub(super) fn nested(&self, key: &str, values: &'a Map<String, Value>) -> Self {
        Self { path: self.path, prefix: format!("{}{key}.", self.prefix), values, read: BTreeSet::new() }
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// The value. `None` if it is absent or null.
    fn get(&mut self, key: &str) -> Option<&'a Value> {
        self.read.insert(key.to_owned());
        self.values.get(key).filter(|value| !value.is_null())
    }

    fn typed<T>(
        &mut self,
        key: &str,
        expected: &'static str,
        convert: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        convert(value).map(Some).ok_or_else(|| ConfigError::Type {
            path: self.path.to_owned(),
            key: format!("{}{key}", self.prefix),
            found: value.to_string(),
            expected,
        })
    }

    fn required<T>(&self, key: &str, value: Option<T>) -> Result<T, ConfigError> {
        let missing = || ConfigError::Missing { path: self.path.to_owned(), key: format!("{}{key}", self.prefix) };
        value.ok_or_else(missing)
    }

    /// A positive integer.
    pub(super) fn optional_usize(&mut self, key: &str) -> Result<Option<usize>, ConfigError> {
        // Far above every model, and small enough that the product of two sizes can't overflow.
        const LARGEST: u64 = 1 << 28;
        let convert = |value: &Value| value.as_u64().filter(|size| (1..=LARGEST).contains(size));
        Ok(self.typed(key, "a positive integer", convert)?.map(|size| size as usize))
    }

    pub(super) fn usize(&mut self, key: &str) -> Result<usize, ConfigError> {
        let value = self.optional_usize(key)?;
        self.required(key, value)
    }

    /// Reads the keys that every family has. All other settings are those of Llama 2.
    pub(super) fn decoder(&mut self, family: Family, rope: Rope) -> Result<ModelDescription, ConfigError> {
        let num_attention_heads = self.usize("num_attention_heads")?;
        let hidden_size = self.usize("hidden_size")?;
        let sizes = Sizes {
            vocab_size: self.usize("vocab_size")?,
            hidden_size,
            intermediate_size: self.usize("intermediate_size")?,
            num_hidden_layers: self.layers()?,
            num_attention_heads,
            num_key_value_heads: self.usize_or("num_key_value_heads", num_attention_heads)?,
            head_dim: self.usize_or("head_dim", hidden_size / num_attention_heads)?,
        };
        let plain = ModelDescription::plain(family, sizes);
        Ok(ModelDescription {
            rms_norm_eps: self.f64_or("rms_norm_eps", plain.rms_norm_eps)?,
            rope,
            max_position_embeddings: self.usize("max_position_embeddings")?,
            tie_word_embeddings: self.bool_or("tie_word_embeddings", false)?,
            bos_token_id: self.token_id("bos_token_id")?,
            eos_token_ids: self.token_ids("eos_token_id")?,
            ..plain
        })
    }

    /// `num_hidden_layers`. It is limited because every layer is listed by name before the weights are read.
    pub(super) fn layers(&mut self) -> Result<usize, ConfigError> {
        const KEY: &str = "num_hidden_layers";
        match self.usize(KEY)? {
            layers @ 1..=MAX_LAYERS => Ok(layers),
            layers => Err(self.unsupported(KEY, &layers.into(), &format!("up to {MAX_LAYERS}"))),
        }
    }

    pub(super) fn usize_or(&mut self, key: &str, default: usize) -> Result<usize, ConfigError> {
        Ok(self.optional_usize(key)?.unwrap_or(default))
    }

    pub(super) fn optional_f64(&mut self, key: &str) -> Result<Option<f64>, ConfigError> {
        self.typed(key, "a positive number", |value| value.as_f64().filter(|number| *number > 0.0))
    }

    pub(super) fn f64(&mut self, key: &str) -> Result<f64, ConfigError> {
        let value = self.optional_f64(key)?;
        self.required(key, value)
    }

    pub(super) fn f64_or(&mut self, key: &str, default: f64) -> Result<f64, ConfigError> {
        Ok(self.optional_f64(key)?.unwrap_or(default))
    }

    pub(super) fn bool_or(&mut self, key: &str, default: bool) -> Result<bool, ConfigError> {
        Ok(self.typed(key, "true or false", Value::as_bool)?.unwrap_or(default))
    }

    pub(super) fn optional_string(&mut self, key: &str) -> Result<Option<String>, ConfigError> {
        self.typed(key, "a string", |value| value.as_str().map(str::to_owned))
    }

    pub(super) fn string(&mut self, key: &str) -> Result<String, ConfigError> {
        let value = self.optional_string(key)?;
        self.required(key, value)
    }

    /// A name that, if present, must be one of `names`.
    pub(super) fn one_of(&mut self, key: &str, names: &[&str]) -> Result<(), ConfigError> {
        match self.optional_string(key)? {
            Some(name) if !names.contains(&name.as_str()) => {
                Err(self.unsupported(key, &name.into(), &names.join(" or ")))
            }
            _ => Ok(()),
        }
    }

    /// The value of a soft cap. Null means no cap.
    pub(super) fn soft_cap(&mut self, key: &str, default: Option<f64>) -> Result<Option<f64>, ConfigError> {
        if self.has(key) { self.optional_f64(key) } else { Ok(default) }
    }

    pub(super) fn optional_object(&mut self, key: &str) -> Result<Option<&'a Map<String, Value>>, ConfigError> {
        self.typed(key, "an object", Value::as_object)
    }

    pub(super) fn token_id(&mut self, key: &str) -> Result<Option<u32>, ConfigError> {
        // Some configurations write -1 for "none".
        let convert = |value: &Value| match value.as_i64() {
            Some(-1) => Some(None),
            other => u32::try_from(other?).ok().map(Some),
        };
        Ok(self.typed(key, "a token id", convert)?.flatten())
    }

    /// One id, or a list of ids.
    pub(super) fn token_ids(&mut self, key: &str) -> Result<Vec<u32>, ConfigError> {
        if self.values.get(key).is_some_and(Value::is_array) {
            let one = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
            let all = |value: &Value| value.as_array()?.iter().map(one).collect();
            return Ok(self.typed(key, "a list of token ids", all)?.unwrap_or_default());
        }
        Ok(self.token_id(key)?.into_iter().collect())
    }

    pub(super) fn architecture(&mut self) -> Result<Option<String>, ConfigError> {
        let first = |value: &Value| value.as_array()?.first()?.as_str().map(str::to_owned);
        self.typed("architectures", "a list of names", first)
    }

    pub(super) fn unsupported(&self, key: &str, found: &Value, supported: &str) -> ConfigError {
        ConfigError::Unsupported {
            path: self.path.to_owned(),
            key: format!("{}{key}", self.prefix),
            found: found.to_string(),
            supported: supported.to_owned(),
        }
    }

    /// Checks that `layer_types`, if present, is `full_attention` for all layers.
    pub(super) fn full_attention_only(&mut self, layers: usize) -> Result<(), ConfigError> {
        match self.layer_types(layers)? {
            Some(types) if types.contains(&true) => {
                Err(self.unsupported("layer_types", &json!("sliding_attention"), "full_attention for this family"))
            }
            _ => Ok(()),
        }
    }

    /// Qwen's windows. `use_sliding_window` enables them, and `layer_types` or `max_window_layers` selects the layers.
    pub(super) fn upper_layer_windows(&mut self, layers: usize) -> Result<Vec<Option<usize>>, ConfigError> {
        let used = self.bool_or("use_sliding_window", false)?;
        let size = self.optional_usize("sliding_window")?.unwrap_or(4096);
        let first = self.typed("max_window_layers", "an integer", Value::as_u64)?.unwrap_or(28) as usize;
        let types = self.layer_types(layers)?.unwrap_or_else(|| (0..layers).map(|i| used && i >= first).collect());
        if !used && types.contains(&true) {
            let key = "layer_types";
            return Err(self.unsupported(
                key,
                &json!("sliding_attention"),
                "full_attention while use_sliding_window is false",
            ));
        }
        Ok(types.into_iter().map(|sliding| sliding.then_some(size)).collect())
    }

    /// Gemma's windows: `sliding_window` for the sliding layers in `layer_types` or, without that key, for those of
    /// `slides`.
    pub(super) fn windows_by_type(
        &mut self,
        layers: usize,
        slides: impl Fn(usize) -> bool,
    ) -> Result<Vec<Option<usize>>, ConfigError> {
        let size = if self.has("sliding_window") { self.optional_usize("sliding_window")? } else { Some(4096) };
        // The first releases have the window under both names.
        if let Some(other) = self.optional_usize("sliding_window_size")?.filter(|other| Some(*other) != size) {
            return Err(self.unsupported("sliding_window_size", &other.into(), "the same as sliding_window"));
        }
        let types = self.layer_types(layers)?.unwrap_or_else(|| (0..layers).map(slides).collect());
        if size.is_none() && types.contains(&true) {
            return Err(self.unsupported("sliding_window", &Value::Null, "a number while there are sliding layers"));
        }
        Ok(types.into_iter().map(|sliding| size.filter(|_| sliding)).collect())
    }

    /// For each layer: whether it has a sliding window.
    fn layer_types(&mut self, layers: usize) -> Result<Option<Vec<bool>>, ConfigError> {
        let one = |value: &Value| match value.as_str()? {
            "full_attention" => Some(false),
            "sliding_attention" => Some(true),
            _ => None,
        };
        let all = |value: &Value| -> Option<Vec<bool>> {
            let list = value.as_array().filter(|list| list.len() == layers)?;
            list.iter().map(one).collect()
        };
        self.typed("layer_types", "full_attention or sliding_attention for each layer", all)
    }

    /// Checks every key that was not read: it must have no influence, or have its single supported value.
    pub(super) fn finish(&self) -> Result<(), ConfigError> {
        for (key, value) in self.values {
            if self.read.contains(key) || value.is_null() || WITHOUT_INFLUENCE.contains(&key.as_str()) {
                continue;
            }
            match only_value(key) {
                Some(only) if same(&only, value) => {}
                Some(only) => return Err(self.unsupported(key, value, &only.to_string())),
                None => {
                    return Err(ConfigError::UnknownKey {
                        path: self.path.to_owned(),
                        key: format!("{}{key}", self.prefix),
                        found: value.to_string(),
                    });
                }
            }
        }
        Ok(())
    }

    /// Checks that the sizes don't contradict each other.
    pub(super) fn check_sizes(&self, model: &ModelDescription) -> Result<(), ConfigError> {
        let reason = if !model.num_attention_heads.is_multiple_of(model.num_key_value_heads) {
            format!(
                "num_attention_heads {} is not a multiple of num_key_value_heads {}",
                model.num_attention_heads, model.num_key_value_heads
            )
        } else if !model.head_dim.is_multiple_of(2) || model.head_dim == 0 {
            format!("head_dim is {}, but rotary positions need an even number", model.head_dim)
        } else {
            return Ok(());
        };
        Err(ConfigError::Sizes { path: self.path.to_owned(), reason })
    }
}

/// Equality of JSON values. 1 and 1.0 are equal.
fn same(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}
