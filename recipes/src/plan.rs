//! What a run is declared to be, with nothing left open.
//!
//! Responsible for: the plan's fields, its form as `plan.toml` and its hash. A plan is made from a recipe by
//! [`crate::recipe::RecipeFile::plan`] and never changes afterwards.
//! Must not depend on: recipes, files on disk.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;
use toml::{Table, Value};
use tonfall_durable::hex;

use crate::schema;

/// A run, declared. All paths are absolute; every default is written out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// How the run's name begins: `[a-z0-9-]+`.
    pub name: String,
    pub base: Base,
    pub quantization: Quantization,
    pub allow_download: bool,
    pub seed: u64,
    pub output_dir: PathBuf,
    pub adapter: AdapterPlan,
    pub lora: LoraPlan,
    pub data: DataPlan,
    /// Further data.
    pub source: Vec<SourcePlan>,
    pub template: Vec<TemplatePlan>,
    pub audit: AuditPlan,
    pub training: TrainingPlan,
    pub evaluation: EvaluationPlan,
    pub export: ExportPlan,
}

/// The table `[adapter]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdapterPlan {
    pub kind: AdapterKind,
}

/// The table `[lora]`, PEFT's names. Without a meaning in full training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraPlan {
    pub rank: usize,
    pub alpha: f64,
    pub dropout: f64,
    pub use_rslora: bool,
    pub target_modules: TargetModules,
    /// Directory of a PEFT adapter to start from. It decides rank, alpha, use_rslora and target_modules.
    pub init: Option<PathBuf>,
}

/// The table `[data]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataPlan {
    /// Files, directories and patterns.
    pub train: Vec<PathBuf>,
    /// Empty without an eval split of its own.
    pub eval: Vec<PathBuf>,
    /// Share of `train` to hold out, by the seed; 0 when `eval` isn't empty.
    pub eval_fraction: f64,
    pub format: DataFormat,
    /// Columns of `train` and `eval` by the format's field.
    pub columns: BTreeMap<String, String>,
    /// Rows of all sources.
    pub max_bad_rows: u64,
    pub train_on: TrainOn,
    pub thinking: Thinking,
    /// A Jinja file in the place of the base's own.
    pub chat_template: Option<PathBuf>,
    /// Tokens.
    pub max_seq_len: usize,
    pub overflow: Overflow,
    pub packing: Packing,
    pub shuffle: bool,
    pub cache: bool,
}

/// A table `[[source]]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourcePlan {
    /// Files, directories and patterns; at least one.
    pub files: Vec<PathBuf>,
    pub split: Split,
    pub format: DataFormat,
    /// Columns by the format's field.
    pub columns: BTreeMap<String, String>,
    /// An SQL expression.
    pub filter: Option<String>,
    /// How often a row comes in an epoch.
    pub weight: f64,
    /// ISO 639 code.
    pub language: Option<String>,
    pub no_answer: Option<String>,
}

/// A table `[[template]]`. `{names}` in its texts stand for fields of a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemplatePlan {
    pub kind: TemplateKind,
    pub user: String,
    /// `None` only for [`TemplateKind::Context`].
    pub assistant: Option<String>,
    pub system: Option<String>,
    pub language: Option<String>,
}

/// The table `[audit]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditPlan(BTreeMap<AuditRule, Severity>);

impl AuditPlan {
    /// What a finding of `rule` means.
    pub fn severity(&self, rule: AuditRule) -> Severity {
        self.0.get(&rule).copied().unwrap_or(Severity::Error)
    }

    /// The same plan with another severity of `rule`.
    #[must_use]
    pub fn with(mut self, rule: AuditRule, severity: Severity) -> Self {
        self.0.insert(rule, severity);
        self
    }
}

impl Plan {
    /// Everything that data comes from: `data.train`, `data.eval`, then each `[[source]]`.
    pub fn sources(&self) -> Vec<SourcePlan> {
        let simple = |files: &[PathBuf], split| SourcePlan {
            files: files.to_vec(),
            split,
            format: self.data.format,
            columns: self.data.columns.clone(),
            filter: None,
            weight: 1.0,
            language: None,
            no_answer: None,
        };
        let simple = [simple(&self.data.train, Split::Train), simple(&self.data.eval, Split::Eval)];
        simple.into_iter().filter(|source| !source.files.is_empty()).chain(self.source.iter().cloned()).collect()
    }
}

/// The table `[training]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingPlan {
    pub epochs: f64,
    /// Optimizer steps; whichever of `epochs` and `max_steps` comes first.
    pub max_steps: Option<u64>,
    /// Sequences.
    pub micro_batch_size: usize,
    pub gradient_accumulation_steps: usize,
    pub learning_rate: f64,
    pub schedule: Schedule,
    pub warmup_ratio: f64,
    /// Optimizer steps; goes before `warmup_ratio`.
    pub warmup_steps: Option<u64>,
    pub optimizer: OptimizerKind,
    pub weight_decay: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    /// 0 turns clipping off.
    pub max_grad_norm: f64,
    pub recompute: Recompute,
    /// GiB that the run may take on its device; `None`: what is free.
    pub max_memory: Option<f64>,
    /// The same bits in every run on one device.
    pub deterministic: bool,
    /// Optimizer steps.
    pub log_every: u64,
    /// Optimizer steps; 0 saves only at the end.
    pub save_every: u64,
    pub keep_checkpoints: usize,
}

/// The table `[evaluation]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluationPlan {
    /// Optimizer steps; 0 evaluates at the start and the end.
    pub every: u64,
    pub prompts: Option<PathBuf>,
    pub max_new_tokens: usize,
}

/// The table `[export]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportPlan {
    pub adapter: bool,
    pub merged: bool,
}

/// Defaults come from the schema, so that they are written once.
macro_rules! default_from_schema {
    ($($plan:ty = $table:literal),*) => {$(
        impl Default for $plan {
            fn default() -> Self {
                schema::defaults($table)
            }
        }
    )*};
}
default_from_schema!(
    AdapterPlan = "adapter",
    LoraPlan = "lora",
    AuditPlan = "audit",
    TrainingPlan = "training",
    EvaluationPlan = "evaluation",
    ExportPlan = "export"
);

/// The base model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", from = "String")]
pub enum Base {
    /// A Hugging Face directory or a GGUF file.
    Local(PathBuf),
    /// `owner/name` or `owner/name@revision`, without the `hf:`.
    Hub(String),
}

impl Base {
    /// The path of a local base.
    pub fn local(&self) -> Option<&Path> {
        match self {
            Self::Local(path) => Some(path),
            Self::Hub(_) => None,
        }
    }

    /// Whether it is a GGUF file, by its extension.
    pub fn is_gguf(&self) -> bool {
        let extension = self.local().and_then(Path::extension);
        extension.is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
    }
}

impl From<String> for Base {
    fn from(text: String) -> Self {
        match text.strip_prefix("hf:") {
            Some(name) => Self::Hub(name.to_owned()),
            None => Self::Local(text.into()),
        }
    }
}

impl From<Base> for String {
    fn from(base: Base) -> Self {
        base.to_string()
    }
}

/// As it stands in a recipe.
impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(path) => write!(f, "{}", path.display()),
            Self::Hub(name) => write!(f, "hf:{name}"),
        }
    }
}

/// An enum of a recipe's choices. Their names are those of the schema, which a test compares.
macro_rules! choices {
    ($($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident),* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[$variant_doc])* $variant),* }
    )*};
}
choices! {
    /// How the frozen base lies in memory.
    Quantization {
        /// NF4 in blocks of 64 with double quantisation.
        Nf4,
        /// A GGUF's own blocks.
        Native,
        /// Dense.
        None
    }
    /// What is trained.
    AdapterKind { Lora, Full }
    /// How a row of data is built.
    DataFormat {
        /// By the columns that are there.
        Auto, Messages, Sharegpt, Alpaca, PromptCompletion, Text, Preference, Style, Terminology
    }
    /// What data is for.
    Split { Train, Eval }
    /// What a row of style or terms is turned into.
    TemplateKind { Rewrite, Write, Usage, Correction, Definition, Contrast, Context }
    /// What becomes of the thoughts of a reasoning model.
    Thinking { Keep, Drop, Mask }
    /// What a sequence is.
    Packing {
        /// A row.
        Off,
        /// Several rows, each a segment of its own.
        BestFit
    }
    /// What the audit looks for.
    AuditRule {
        NoTrainedToken, NoEndToken, DoubleBos, Truncated, OtherTemplate, ToolsLeftOut, Duplicates, NearDuplicates, Leakage, EmptyText,
        LongText, Mojibake, Language, UnusedTerm, ForbiddenTerm, PersonalData, Secrets
    }
    /// What a finding means.
    Severity { Error, Warn, Off }
    /// Which tokens have a label.
    TrainOn { Assistant, LastAssistant, All }
    /// What becomes of a row that is longer than `max_seq_len`.
    Overflow { Error, Drop, Truncate }
    /// How the optimizer keeps what it remembers of each trained value.
    OptimizerKind {
        /// Two moments in f32.
        Adamw,
        /// Two moments in a byte each, as bitsandbytes keeps them.
        #[serde(rename = "adamw_8bit")]
        Adamw8bit
    }
    /// How the learning rate falls behind the warm-up.
    Schedule { Cosine, Linear, Constant }
    /// Whether activations are computed again in the backward pass.
    Recompute {
        /// Where memory is short.
        Auto,
        On,
        /// On, and what is kept for it, the layers' inputs, waits in the host's memory.
        Offload,
        Off
    }
}

/// Which linear layers get an adapter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "WordOrList", into = "WordOrList")]
pub enum TargetModules {
    /// Every linear layer of the blocks, not the output head.
    AllLinear,
    /// Module names, matched as PEFT matches them: the whole name or its end behind a dot.
    List(Vec<String>),
}

/// [`TargetModules`] as it is written.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum WordOrList {
    Word(Word),
    List(Vec<String>),
}

#[derive(Serialize, Deserialize)]
enum Word {
    #[serde(rename = "all-linear")]
    AllLinear,
}

impl From<WordOrList> for TargetModules {
    fn from(written: WordOrList) -> Self {
        match written {
            WordOrList::Word(Word::AllLinear) => Self::AllLinear,
            WordOrList::List(names) => Self::List(names),
        }
    }
}

impl From<TargetModules> for WordOrList {
    fn from(modules: TargetModules) -> Self {
        match modules {
            TargetModules::AllLinear => Self::Word(Word::AllLinear),
            TargetModules::List(names) => Self::List(names),
        }
    }
}

impl TargetModules {
    /// The names of a list; none for `all-linear`.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let names: &[String] = match self {
            Self::AllLinear => &[],
            Self::List(names) => names,
        };
        names.iter().map(String::as_str)
    }

    /// The entry that selects the linear layer `module`, say `model.layers.0.self_attn.q_proj`.
    pub fn matching(&self, module: &str) -> Option<&str> {
        let is_match =
            |name: &&str| module.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        match self {
            Self::AllLinear => Some("all-linear"),
            Self::List(_) => self.names().find(is_match),
        }
    }
}

/// Why `plan.toml` can't be read.
#[derive(Debug, Error)]
#[error("no plan of this version of tonfall: {0}")]
pub struct PlanError(#[from] toml::de::Error);

impl Plan {
    /// `plan.toml`: every key with its comment.
    pub fn to_toml(&self) -> String {
        let values = Table::try_from(self).expect("a plan has UTF-8 paths and numbers that TOML has");
        let mut text =
            String::from("# The plan of this run, every value written out. Changing this file changes nothing.\n");
        let (mut lists, mut end_of_top) = (String::new(), None);
        for (table, about) in schema::TABLES {
            let tables: Vec<(String, &Table)> = match values.get(table) {
                None if table.is_empty() => vec![(String::new(), &values)],
                Some(Value::Table(inner)) => vec![(format!("\n[{table}]  # {about}\n"), inner)],
                Some(Value::Array(items)) => {
                    let items = items.iter().filter_map(Value::as_table);
                    items.map(|item| (format!("\n[[{table}]]  # {about}\n"), item)).collect()
                }
                _ => Vec::new(),
            };
            if tables.is_empty() {
                lists.push_str(&format!("{table} = []\n"));
            }
            for (header, inner) in tables {
                if !table.is_empty() {
                    end_of_top.get_or_insert(text.len());
                }
                text.push_str(&header);
                for key in schema::table(table) {
                    let name = key.split().1;
                    text.push_str(&match inner.get(name) {
                        Some(value) => format!("{name} = {value}  # {}\n", key.doc),
                        None => format!("# {name} is not set: {}\n", key.doc),
                    });
                }
            }
        }
        // Top-level keys go before the first table.
        text.insert_str(end_of_top.unwrap_or(text.len()), &lists);
        text
    }

    /// Reads what [`Plan::to_toml`] wrote.
    ///
    /// # Errors
    /// When a key is missing, unknown or of the wrong type.
    pub fn from_toml(text: &str) -> Result<Self, PlanError> {
        Ok(toml::from_str(text)?)
    }

    /// SHA-256 of the plan as JSON, fields in order, in hexadecimal.
    pub fn hash(&self) -> String {
        let canonical = serde_json::to_vec(self).expect("a plan has UTF-8 paths");
        hex(&Sha256::digest(canonical))
    }
}

#[cfg(test)]
mod tests;
