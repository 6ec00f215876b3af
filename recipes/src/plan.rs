//! A resolved run declaration: every value is set.
//!
//! Responsible for: the fields of a plan. [`crate::recipe::RecipeFile::plan`] creates a plan from a recipe. A plan
//! never changes after that.
//! Must not depend on: recipes, files on disk, the text of `plan.toml` (that is `plan/stored.rs`).

mod stored;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use self::stored::{PlanError, text_hash, text_matches};
use crate::schema;

/// The declaration of a run. All paths are absolute, every default is set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Prefix of the run's name: `[a-z0-9-]+`.
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
    pub style: Vec<StylePlan>,
    pub gate: Vec<GatePlan>,
    pub publish: PublishPlan,
    pub hook: Vec<HookPlan>,
    pub nightly: NightlyPlan,
    pub notify: NotifyPlan,
}

/// The table `[adapter]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdapterPlan {
    pub kind: AdapterKind,
}

/// The table `[lora]`, with PEFT's names. Unused in full training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraPlan {
    pub rank: usize,
    pub alpha: f64,
    pub dropout: f64,
    pub use_rslora: bool,
    pub target_modules: TargetModules,
    /// Directory of a PEFT adapter to start from. Its rank, alpha, use_rslora and target_modules apply.
    pub init: Option<PathBuf>,
}

/// The table `[data]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataPlan {
    /// Files, directories and glob patterns.
    pub train: Vec<PathBuf>,
    /// Empty if there are no separate files for the eval split.
    pub eval: Vec<PathBuf>,
    /// Fraction of `train` that is held out, chosen by the seed; 0 if `eval` isn't empty.
    pub eval_fraction: f64,
    /// The rows that the split by `eval_fraction` keeps together. Plans of builds without this key split row by row.
    pub split_by: SplitBy,
    pub format: DataFormat,
    /// Column names of `train` and `eval` by field of the format.
    pub columns: BTreeMap<String, String>,
    /// Faulty rows that are allowed, summed over all sources.
    pub max_bad_rows: u64,
    pub train_on: TrainOn,
    pub thinking: Thinking,
    /// A Jinja file that replaces the chat template of the base model.
    pub chat_template: Option<PathBuf>,
    /// Further variables of the chat template, by name.
    pub template_variables: BTreeMap<String, Variable>,
    /// Maximum length of a sequence in tokens.
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
    /// Column names by field of the format.
    pub columns: BTreeMap<String, String>,
    /// An SQL expression.
    pub filter: Option<String>,
    /// Repetitions of each row per epoch.
    pub weight: f64,
    /// ISO 639 code.
    pub language: Option<String>,
    /// ISO 639 code. A plan without this value has the same hash as in builds without this key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub translate_from: Option<String>,
    pub no_answer: Option<String>,
}

/// A table `[[template]]`. Each `{name}` in its texts is replaced by that field of the row.
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
    /// The severity of a finding of `rule`. If the plan's build did not have the rule, a finding is a warning, because
    /// the run began without the rule.
    pub fn severity(&self, rule: AuditRule) -> Severity {
        self.0.get(&rule).copied().unwrap_or(Severity::Warn)
    }

    /// The rules that drop the examples they find.
    pub fn dropping(&self) -> impl Iterator<Item = AuditRule> {
        self.0.iter().filter(|(_, severity)| **severity == Severity::Drop).map(|(rule, _)| *rule)
    }

    /// The same plan with another severity of `rule`.
    #[must_use]
    pub fn with(mut self, rule: AuditRule, severity: Severity) -> Self {
        self.0.insert(rule, severity);
        self
    }
}

impl Plan {
    /// The name in the store.
    pub fn published_name(&self) -> &str {
        self.publish.name.as_deref().unwrap_or(&self.name)
    }

    /// All sources of data: `data.train`, `data.eval`, then each `[[source]]`.
    pub fn sources(&self) -> Vec<SourcePlan> {
        let simple = |files: &[PathBuf], split| SourcePlan {
            files: files.to_vec(),
            split,
            format: self.data.format,
            columns: self.data.columns.clone(),
            filter: None,
            weight: 1.0,
            language: None,
            translate_from: None,
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
    /// Passes over the data; `None` if only `max_steps` limits the run.
    pub epochs: Option<f64>,
    /// Maximum optimizer steps. The run ends at the first of `epochs` and `max_steps`.
    pub max_steps: Option<u64>,
    /// Sequences per micro-batch.
    pub micro_batch_size: usize,
    pub gradient_accumulation_steps: usize,
    pub learning_rate: f64,
    pub schedule: Schedule,
    pub warmup_ratio: f64,
    /// Optimizer steps of warm-up; takes precedence over `warmup_ratio`.
    pub warmup_steps: Option<u64>,
    pub optimizer: OptimizerKind,
    pub weight_decay: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    /// Maximum gradient norm; 0 turns clipping off.
    pub max_grad_norm: f64,
    pub recompute: Recompute,
    /// Upper limit in GiB on the device; `None` for all free memory.
    pub max_memory: Option<f64>,
    /// Bit-identical results in every run on one device.
    pub deterministic: bool,
    /// Optimizer steps between log lines.
    pub log_every: u64,
    /// Optimizer steps between checkpoints; 0 saves only at the end.
    pub save_every: u64,
    pub keep_checkpoints: usize,
}

/// The table `[evaluation]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluationPlan {
    /// Optimizer steps between evaluations; 0 evaluates at the start and the end.
    pub every: u64,
    pub prompts: Option<PathBuf>,
    pub max_new_tokens: usize,
    /// A general text, UTF-8; `None` for the built-in one.
    pub retention: Option<PathBuf>,
    pub address: Address,
}

/// The table `[export]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportPlan {
    /// Names of exports, each once.
    pub to: Vec<String>,
    /// Names of file types of GGUF models, or `base`.
    pub types: Vec<String>,
    /// Whether quantised GGUF models are calibrated.
    pub calibrate: bool,
    /// Whether each export is compared with the trained model.
    pub verify: bool,
}

/// A table `[[style]]`: a rule that generations are measured by. It has at least one demand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StylePlan {
    /// Unique.
    pub name: String,
    /// A valid regular expression, as the next one.
    pub must_match: Option<String>,
    pub must_not_match: Option<String>,
    /// Words of which at least one occurs; empty for no demand.
    pub must_use: Vec<String>,
    pub must_not_use: Vec<String>,
    /// `de` or `en`, by any tag or name. `None` for all languages.
    pub language: Option<String>,
}

/// A table `[[gate]]`. At least one condition is set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatePlan {
    pub measure: String,
    pub at_least: Option<f64>,
    pub at_most: Option<f64>,
    /// How much better than the base model; negative: how much worse it may be.
    pub over_base: Option<f64>,
    /// The same against the published adapter.
    pub over_published: Option<f64>,
    /// At least 0.5 and below 1.
    pub confidence: f64,
}

/// The table `[publish]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishPlan {
    pub store: PathBuf,
    /// `None` for the name of the plan.
    pub name: Option<String>,
    /// Versions to keep.
    pub keep: usize,
}

/// A table `[[hook]]`. One of `server` and `command` is set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HookPlan {
    pub server: Option<String>,
    pub command: Option<String>,
    /// Seconds.
    pub timeout: u64,
}

/// The table `[nightly]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NightlyPlan {
    pub start_from: StartFrom,
    /// Hours.
    pub max_duration: Option<f64>,
    pub keep_runs: usize,
    pub nice: u8,
}

/// The table `[notify]`. Webhook and token name the place of a secret, they don't contain it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NotifyPlan {
    pub webhook: Option<String>,
    pub token: Option<String>,
    pub command: Option<String>,
}

/// Implements `Default` with the defaults of the schema.
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
    ExportPlan = "export",
    PublishPlan = "publish",
    NightlyPlan = "nightly",
    NotifyPlan = "notify"
);

/// The base model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", from = "String")]
pub enum Base {
    /// A Hugging Face directory or a GGUF file.
    Local(PathBuf),
    /// `owner/name` or `owner/name@revision`, without `hf:`.
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

    /// Whether the base is a GGUF file, by its extension.
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

/// Written as in a recipe.
impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(path) => write!(f, "{}", path.display()),
            Self::Hub(name) => write!(f, "hf:{name}"),
        }
    }
}

/// Enums for the choices of a recipe. A test compares their names with the schema.
macro_rules! choices {
    ($($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident),* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[$variant_doc])* $variant),* }
    )*};
}
choices! {
    /// Storage format of the frozen base in memory.
    Quantization {
        /// NF4 in blocks of 64, with double quantization.
        Nf4,
        /// The blocks of a GGUF file, as stored.
        Native,
        /// Stored unquantized.
        None
    }
    /// The trained parameters.
    AdapterKind { Lora, Full }
    /// Format of the rows.
    DataFormat {
        /// Detected from the columns.
        Auto, Messages, Sharegpt, Alpaca, PromptCompletion, Text, Preference, Style, Terminology
    }
    /// The split that the data belongs to.
    Split { Train, Eval }
    /// The unit that the split by `eval_fraction` keeps together.
    SplitBy {
        /// Equal and nearly equal examples.
        Similar,
        /// The examples of one row.
        Row
    }
    /// The task made from a row of style or terms.
    TemplateKind { Rewrite, Write, Usage, Correction, Definition, Contrast, Context, Translation }
    /// Handling of the thinking blocks of a reasoning model.
    Thinking { Keep, Drop, Mask }
    /// Content of a training sequence.
    Packing {
        /// One example.
        Off,
        /// Several examples. Attention treats each as its own segment.
        BestFit
    }
    /// Rules of the audit.
    AuditRule {
        NoTrainedToken, NoEndToken, DoubleBos, Truncated, OtherTemplate, MessagesLeftOut, ToolsLeftOut, SpecialTokens,
        BrokenReasoning, Duplicates, NearDuplicates, Leakage, EmptyText,
        LongText, Mojibake, Language, UnusedTerm, ForbiddenTerm, UnknownStatus, PersonalData, Secrets
    }
    /// The consequence of a finding.
    Severity {
        Error,
        Warn,
        /// The example is dropped and counted.
        Drop,
        Off
    }
    /// The tokens that have a label.
    TrainOn { Assistant, LastAssistant, All }
    /// The treatment of a row longer than `max_seq_len`. `Split` cuts plain text into several examples.
    Overflow { Error, Drop, Truncate, Split }
    /// The optimizer, and the format of its state.
    OptimizerKind {
        /// AdamW, both moments in f32.
        Adamw,
        /// AdamW, both moments in 8 bits, in bitsandbytes' format.
        #[serde(rename = "adamw_8bit")]
        Adamw8bit
    }
    /// The form of address that German generations are measured by.
    Address {
        /// Either of both, but only one in a generation.
        Consistent, Sie, Du
    }
    /// The learning-rate schedule after warm-up.
    Schedule { Cosine, Linear, Constant }
    /// Whether activations are recomputed in the backward pass.
    Recompute {
        /// Recompute if memory is short.
        Auto,
        On,
        /// Recompute, and store layer inputs in host memory.
        Offload,
        Off
    }
    /// The adapter that a nightly run starts from.
    StartFrom { Base, Published }
}

/// The value of a template variable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Variable {
    Bool(bool),
    Integer(i64),
    Number(f64),
    Text(String),
    List(Vec<String>),
}

/// Which linear layers get an adapter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "WordOrList", into = "WordOrList")]
pub enum TargetModules {
    /// Every linear layer of the blocks, not the output head.
    AllLinear,
    /// Module names, matched as in PEFT: the whole name or its end after a dot.
    List(Vec<String>),
}

/// The TOML form of [`TargetModules`].
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
    /// The names of the list; empty for `all-linear`.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let names: &[String] = match self {
            Self::AllLinear => &[],
            Self::List(names) => names,
        };
        names.iter().map(String::as_str)
    }

    /// The entry that selects the linear layer `module`, for example `model.layers.0.self_attn.q_proj`.
    pub fn matching(&self, module: &str) -> Option<&str> {
        let is_match =
            |name: &&str| module.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        match self {
            Self::AllLinear => Some("all-linear"),
            Self::List(_) => self.names().find(is_match),
        }
    }
}

#[cfg(test)]
mod tests;
