//! The plan: what a run is declared to be, with every default explicit.
//!
//! Responsible for: plain, immutable, hashed data. Values are checked before a plan exists (see `recipe`).
//! Must not depend on: TOML spans, files.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::schema;

/// Everything that decides a run. Paths are absolute.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    pub name: String,
    /// A directory, a GGUF file, or `hf:owner/name`.
    pub base: String,
    pub quantization: Quantization,
    pub allow_download: bool,
    pub seed: u64,
    pub output_dir: PathBuf,
    pub adapter: AdapterPlan,
    pub lora: LoraPlan,
    pub data: DataPlan,
    pub training: TrainingPlan,
    pub evaluation: EvaluationPlan,
    pub export: ExportPlan,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quantization {
    /// 4-bit NormalFloat with double quantisation.
    Nf4,
    /// The blocks of a GGUF file as they are.
    Native,
    None,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdapterPlan {
    pub kind: AdapterKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdapterKind {
    Lora,
    /// No adapter: every weight is trained.
    Full,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraPlan {
    pub rank: usize,
    pub alpha: f64,
    pub dropout: f64,
    pub use_rslora: bool,
    pub target_modules: TargetModules,
    /// A PEFT adapter to start from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<PathBuf>,
}

/// Which linear layers get an adapter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TargetModules {
    /// The word `all-linear`: every linear layer except the head.
    All(AllLinear),
    /// Module names or their last parts: `q_proj`, `model.layers.3.mlp.up_proj`.
    List(Vec<String>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AllLinear {
    #[serde(rename = "all-linear")]
    AllLinear,
}

impl TargetModules {
    /// The names of a list; empty for `all-linear`.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let list: &[String] = match self {
            Self::All(_) => &[],
            Self::List(names) => names,
        };
        list.iter().map(String::as_str)
    }

    /// The entry that selects `module`: the module itself for `all-linear`, or the listed name that equals it or its
    /// last parts.
    pub fn matching<'a>(&'a self, module: &'a str) -> Option<&'a str> {
        let selects =
            |name: &&str| module == *name || module.strip_suffix(name).is_some_and(|rest| rest.ends_with('.'));
        match self {
            Self::All(_) => Some(module),
            Self::List(_) => self.names().find(selects),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataPlan {
    pub train: Vec<PathBuf>,
    pub eval: Vec<PathBuf>,
    pub eval_fraction: f64,
    pub format: DataFormat,
    pub messages_column: String,
    pub prompt_column: String,
    pub completion_column: String,
    pub text_column: String,
    pub train_on: TrainOn,
    /// Tokens.
    pub max_seq_len: usize,
    pub overflow: Overflow,
    pub shuffle: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DataFormat {
    Auto,
    Messages,
    PromptCompletion,
    Text,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrainOn {
    Assistant,
    LastAssistant,
    All,
}

/// What happens to a row that is longer than `max_seq_len`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overflow {
    Error,
    Drop,
    Truncate,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingPlan {
    pub epochs: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<u64>,
    /// Sequences.
    pub micro_batch_size: usize,
    pub gradient_accumulation_steps: usize,
    pub learning_rate: f64,
    pub schedule: Schedule,
    pub warmup_ratio: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_steps: Option<u64>,
    pub weight_decay: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    pub max_grad_norm: f64,
    pub recompute: Recompute,
    pub log_every: u64,
    pub save_every: u64,
    pub keep_checkpoints: usize,
}

impl Default for TrainingPlan {
    /// The defaults of the schema.
    fn default() -> Self {
        schema::defaults("training")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    Constant,
    Linear,
    Cosine,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recompute {
    Auto,
    On,
    Off,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluationPlan {
    /// Optimizer steps; 0 = before and after training only.
    pub every: u64,
    /// Held-out prompts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompts: Option<PathBuf>,
    pub max_new_tokens: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportPlan {
    pub adapter: bool,
    pub merged: bool,
}

impl Plan {
    /// Canonical TOML: every key, in the schema's order, each with its line of explanation.
    pub fn to_toml(&self) -> String {
        let value = toml::Value::try_from(self).unwrap_or_else(|error| unreachable!("a plan is plain data: {error}"));
        schema::document(&value)
    }

    /// Reads what [`Plan::to_toml`] wrote.
    ///
    /// # Errors
    /// When the text is not a complete plan.
    pub fn from_toml(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }

    /// SHA-256 of the plan's canonical form, in hexadecimal.
    pub fn hash(&self) -> String {
        let digest = Sha256::digest(self.to_toml().as_bytes());
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
