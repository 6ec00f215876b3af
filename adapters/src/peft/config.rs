//! `adapter_config.json`: the PEFT keys that vary, and the supported values of all other keys.
//!
//! Must not depend on: tensors.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::PeftError;

/// The PEFT release whose keys are written.
const PEFT_VERSION: &str = "0.21.2";

/// The settings that vary between adapters, with PEFT's names.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterConfig {
    pub base_model_name_or_path: Option<String>,
    pub revision: Option<String>,
    pub r: usize,
    pub lora_alpha: f64,
    pub lora_dropout: f64,
    /// Names or name suffixes of modules, sorted. If an adapter that was read has a regular expression, it is the only
    /// entry; its modules are then known from the tensors.
    pub target_modules: Vec<String>,
    pub use_rslora: bool,
}

/// Keys that select modules, or describe the training or the file. The modules are known from the tensors.
const WITHOUT_INFLUENCE: [&str; 12] = [
    "auto_mapping",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "runtime_config",
    "task_type",
];

/// A key of which only some values are supported.
struct CertainValues {
    key: &'static str,
    accepts: fn(&Value) -> bool,
    /// The supported values, for error messages.
    supported: &'static str,
}

const CERTAIN_VALUES: [CertainValues; 5] = [
    CertainValues { key: "peft_type", accepts: |value| value == "LORA", supported: "\"LORA\"" },
    CertainValues { key: "bias", accepts: |value| value == "none", supported: "\"none\"" },
    CertainValues {
        key: "init_lora_weights",
        accepts: |value| value.is_boolean() || ["gaussian", "orthogonal", "eva"].iter().any(|name| value == name),
        supported: "true, false, \"gaussian\", \"orthogonal\" or \"eva\": the others change the base as well, so convert \
                    the adapter with PEFT's `path_initial_model_for_weight_conversion` first",
    },
    CertainValues { key: "rank_pattern", accepts: is_off, supported: "{}: one rank for all modules" },
    CertainValues { key: "alpha_pattern", accepts: is_off, supported: "{}: one alpha for all modules" },
];

/// PEFT keys that enable an unsupported feature.
const MUST_BE_OFF: [&str; 17] = [
    "alora_invocation_tokens",
    "arrow_config",
    "corda_config",
    "ensure_weight_tying",
    "fan_in_fan_out",
    "layer_replication",
    "lora_bias",
    "lora_ga_config",
    "megatron_config",
    "modules_to_save",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
    "velora_config",
];

/// Whether a value is null, false or empty.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Array(list) => list.is_empty(),
        Value::Object(object) => object.is_empty(),
        _ => false,
    }
}

impl AdapterConfig {
    /// The text of the file. PEFT's newest keys are omitted, because older loaders refuse them.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let pairs = [
            ("auto_mapping", Value::Null),
            ("base_model_name_or_path", json!(self.base_model_name_or_path)),
            ("bias", json!("none")),
            ("exclude_modules", Value::Null),
            ("fan_in_fan_out", json!(false)),
            ("inference_mode", json!(true)),
            ("init_lora_weights", json!(true)),
            ("layers_pattern", Value::Null),
            ("layers_to_transform", Value::Null),
            ("lora_alpha", shortest(self.lora_alpha)),
            ("lora_bias", json!(false)),
            ("lora_dropout", json!(self.lora_dropout)),
            ("modules_to_save", Value::Null),
            ("peft_type", json!("LORA")),
            ("peft_version", json!(PEFT_VERSION)),
            ("r", json!(self.r)),
            ("rank_pattern", json!({})),
            ("alpha_pattern", json!({})),
            ("revision", json!(self.revision)),
            ("target_modules", json!(self.target_modules)),
            ("target_parameters", Value::Null),
            ("task_type", json!("CAUSAL_LM")),
            ("trainable_token_indices", Value::Null),
            ("use_dora", json!(false)),
            ("use_rslora", json!(self.use_rslora)),
        ];
        crate::hf_config::pretty(&pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    }

    pub(super) fn from_json(path: &Path, bytes: &[u8]) -> Result<Self, PeftError> {
        let fault = |reason: String| PeftError::Config { path: path.to_owned(), reason };
        let map: Map<String, Value> = serde_json::from_slice(bytes).map_err(|error| fault(error.to_string()))?;
        for (key, value) in &map {
            check_key(path, key, value)?;
        }
        let wrong = |key: &str, expected: &str| fault(format!("`{key}` must be {expected}"));
        let get = |key: &str| map.get(key).filter(|value| !value.is_null());
        let text = |key: &str| match get(key) {
            None => Ok(None),
            Some(value) => value.as_str().map(|text| Some(text.to_owned())).ok_or_else(|| wrong(key, "a text")),
        };
        let number = |key: &str, default: Option<f64>| {
            let value = get(key).map_or(default, Value::as_f64);
            value.filter(|number| number.is_finite() && *number >= 0.0).ok_or_else(|| wrong(key, "a number"))
        };
        let positive = |value: &Value| value.as_u64().filter(|r| (1..=1 << 20).contains(r));
        let r = get("r").and_then(positive).ok_or_else(|| wrong("r", "a positive integer"))?;
        if get("peft_type").is_none() {
            return Err(wrong("peft_type", "\"LORA\""));
        }
        let mut target_modules = match get("target_modules") {
            None => Vec::new(),
            Some(Value::String(pattern)) => vec![pattern.clone()],
            Some(Value::Array(list)) => {
                let names: Option<Vec<String>> = list.iter().map(|name| name.as_str().map(str::to_owned)).collect();
                names.ok_or_else(|| wrong("target_modules", "a list of texts"))?
            }
            Some(_) => return Err(wrong("target_modules", "a text or a list of texts")),
        };
        target_modules.sort();
        Ok(Self {
            base_model_name_or_path: text("base_model_name_or_path")?,
            revision: text("revision")?,
            r: r as usize,
            lora_alpha: number("lora_alpha", None)?,
            lora_dropout: number("lora_dropout", Some(0.0))?,
            target_modules,
            use_rslora: match get("use_rslora") {
                None => false,
                Some(value) => value.as_bool().ok_or_else(|| wrong("use_rslora", "true or false"))?,
            },
        })
    }
}

/// The keys that are read into [`AdapterConfig`].
const READ: [&str; 7] =
    ["base_model_name_or_path", "lora_alpha", "lora_dropout", "r", "revision", "target_modules", "use_rslora"];

fn check_key(path: &Path, key: &str, value: &Value) -> Result<(), PeftError> {
    if READ.contains(&key) || WITHOUT_INFLUENCE.contains(&key) || is_off(value) {
        return Ok(());
    }
    let unsupported = |supported: &'static str| PeftError::Unsupported {
        path: path.to_owned(),
        key: key.to_owned(),
        found: value.to_string(),
        supported,
    };
    if let Some(row) = CERTAIN_VALUES.iter().find(|row| row.key == key) {
        return if (row.accepts)(value) { Ok(()) } else { Err(unsupported(row.supported)) };
    }
    if MUST_BE_OFF.contains(&key) {
        return Err(unsupported("null, false or empty"));
    }
    Err(PeftError::UnknownKey { path: path.to_owned(), key: key.to_owned(), found: value.to_string() })
}

/// Writes a whole number as an integer, as PEFT does and some loaders require.
fn shortest(number: f64) -> Value {
    match number.fract() == 0.0 && number.abs() < 1e15 {
        true => json!(number as i64),
        false => json!(number),
    }
}
