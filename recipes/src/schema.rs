//! Every key that a recipe knows, as one table.
//!
//! Responsible for: names, types, ranges, defaults and explanations. Validation, suggestions, `tonfall init`,
//! `plan.toml` and the documentation all read this table, so that a key is described once.

use serde::de::DeserializeOwned;
use toml::{Table, Value};

/// What a value may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Any text.
    Text,
    /// Lower-case letters, digits and hyphens.
    Name,
    /// A directory, a GGUF file, or `hf:owner/name`.
    Base,
    /// A directory that will be made.
    OutputDir,
    /// A file or directory that exists, relative to the recipe.
    Path,
    /// One such path or a list of them.
    Paths,
    Bool,
    Integer {
        min: i64,
        max: i64,
    },
    Float {
        min: f64,
        max: f64,
        /// Whether `min` itself is too small, and `max` itself too large.
        open: (bool, bool),
    },
    Choice(&'static [&'static str]),
    /// The word `all-linear`, or a list of module names.
    Modules,
}

/// What holds when a key is absent, written as TOML.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Default {
    Value(&'static str),
    /// The key may be absent and has no value then.
    Absent,
    Required,
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Dotted path: `training.learning_rate`.
    pub path: &'static str,
    pub kind: Kind,
    pub default: Default,
    pub doc: &'static str,
}

const fn key(path: &'static str, kind: Kind, default: Default, doc: &'static str) -> Key {
    Key { path, kind, default, doc }
}

const fn is(text: &'static str) -> Default {
    Default::Value(text)
}

const COUNT: Kind = Kind::Integer { min: 0, max: i64::MAX };
const POSITIVE: Kind = Kind::Integer { min: 1, max: i64::MAX };
/// From 0, without 1.
const SHARE: Kind = Kind::Float { min: 0.0, max: 1.0, open: (false, true) };
const NOT_NEGATIVE: Kind = Kind::Float { min: 0.0, max: f64::MAX, open: (false, false) };
const ABOVE_ZERO: Kind = Kind::Float { min: 0.0, max: f64::MAX, open: (true, false) };

/// The table, in the order in which recipes and plans are written.
#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    key("name", Kind::Name, is("\"run\""), "Name of the run: lower-case letters, digits, hyphens. Default: the recipe's file name."),
    key("base", Kind::Base, Default::Required, "Base model: a Hugging Face directory, a .gguf file, or hf:owner/name."),
    key("quantization", Kind::Choice(&["nf4", "native", "none"]), is("\"nf4\""), "How the frozen base is kept: nf4 (4 bits, double quantisation), native (a GGUF file's own blocks), none (dense)."),
    key("allow_download", Kind::Bool, is("false"), "Whether an hf: base may be downloaded when the local Hub cache lacks it."),
    key("seed", COUNT, is("42"), "Decides initial adapter values, order of examples, dropout and splits."),
    key("output_dir", Kind::OutputDir, is("\"runs\""), "Where run directories are made, relative to the current directory."),
    key("adapter.kind", Kind::Choice(&["lora", "full"]), is("\"lora\""), "lora trains an adapter, full trains every weight."),
    key("lora.rank", Kind::Integer { min: 1, max: 4096 }, is("16"), "Rank r of the adapter."),
    key("lora.alpha", ABOVE_ZERO, is("32.0"), "Scale: the adapter counts alpha / rank times."),
    key("lora.dropout", SHARE, is("0.0"), "Probability that an input of the adapter is zeroed in training."),
    key("lora.use_rslora", Kind::Bool, is("false"), "Scale by alpha / sqrt(rank) instead."),
    key("lora.target_modules", Kind::Modules, is("\"all-linear\""), "Layers with an adapter: \"all-linear\", or a list such as [\"q_proj\", \"v_proj\"]."),
    key("lora.init", Kind::Path, Default::Absent, "A PEFT adapter to start from."),
    key("data.train", Kind::Paths, Default::Required, "Training data: one JSONL or Parquet file, or a list."),
    key("data.eval", Kind::Paths, is("[]"), "Held-out data of the same form."),
    key("data.eval_fraction", SHARE, is("0.0"), "Share of the training rows that is held out instead, chosen by the seed."),
    key("data.format", Kind::Choice(&["auto", "messages", "prompt_completion", "text"]), is("\"auto\""), "Form of the rows; auto recognises it by the columns."),
    key("data.messages_column", Kind::Text, is("\"messages\""), "Column with conversations."),
    key("data.prompt_column", Kind::Text, is("\"prompt\""), "Column with prompts."),
    key("data.completion_column", Kind::Text, is("\"completion\""), "Column with completions."),
    key("data.text_column", Kind::Text, is("\"text\""), "Column with plain text."),
    key("data.train_on", Kind::Choice(&["assistant", "last_assistant", "all"]), is("\"assistant\""), "Which tokens are learned: every assistant turn, the last one, or everything."),
    key("data.max_seq_len", POSITIVE, is("1024"), "Longest example in tokens."),
    key("data.overflow", Kind::Choice(&["error", "drop", "truncate"]), is("\"error\""), "What happens to longer examples; they are counted in any case."),
    key("data.shuffle", Kind::Bool, is("true"), "Whether each epoch has its own order, decided by the seed."),
    key("training.epochs", ABOVE_ZERO, is("1.0"), "Passes over the training data."),
    key("training.max_steps", POSITIVE, Default::Absent, "Upper limit of optimizer steps."),
    key("training.micro_batch_size", POSITIVE, is("4"), "Sequences that go through the model together."),
    key("training.gradient_accumulation_steps", POSITIVE, is("1"), "Micro-batches of one optimizer step, weighted by their trained tokens."),
    key("training.learning_rate", ABOVE_ZERO, is("2e-4"), "Highest learning rate."),
    key("training.schedule", Kind::Choice(&["constant", "linear", "cosine"]), is("\"cosine\""), "Course of the learning rate behind the warm-up."),
    key("training.warmup_ratio", SHARE, is("0.03"), "Share of the steps with a rising learning rate."),
    key("training.warmup_steps", COUNT, Default::Absent, "The same in steps; instead of warmup_ratio."),
    key("training.weight_decay", NOT_NEGATIVE, is("0.01"), "AdamW's weight decay, on matrices."),
    key("training.beta1", SHARE, is("0.9"), "AdamW's decay of the first moment."),
    key("training.beta2", SHARE, is("0.999"), "AdamW's decay of the second moment."),
    key("training.epsilon", ABOVE_ZERO, is("1e-8"), "AdamW's epsilon."),
    key("training.max_grad_norm", NOT_NEGATIVE, is("1.0"), "Limit of the global gradient norm; 0 = no limit."),
    key("training.recompute", Kind::Choice(&["auto", "on", "off"]), is("\"auto\""), "Compute activations again in the backward pass: less memory, a third more work."),
    key("training.log_every", POSITIVE, is("1"), "Optimizer steps between printed lines."),
    key("training.save_every", COUNT, is("0"), "Optimizer steps between checkpoints; 0 = at the end only."),
    key("training.keep_checkpoints", POSITIVE, is("3"), "Checkpoints that are kept, besides the best."),
    key("evaluation.every", COUNT, is("0"), "Optimizer steps between evaluations; 0 = before and after training only."),
    key("evaluation.prompts", Kind::Path, Default::Absent, "Held-out prompts (JSONL: prompt, expect, avoid), answered before and after training."),
    key("evaluation.max_new_tokens", POSITIVE, is("64"), "Longest answer to such a prompt in tokens."),
    key("export.adapter", Kind::Bool, is("true"), "Write a PEFT adapter."),
    key("export.merged", Kind::Bool, is("false"), "Write base and adapter merged, as safetensors."),
];

/// The key of a dotted path.
pub fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// Whether a dotted path is a table, such as `training`.
pub fn is_table(path: &str) -> bool {
    KEYS.iter().any(|key| key.path.split_once('.').is_some_and(|(table, _)| table == path))
}

impl Key {
    /// The table and the name within it; the table of a top-level key is empty.
    pub fn parts(&self) -> (&'static str, &'static str) {
        self.path.split_once('.').unwrap_or(("", self.path))
    }

    /// The default as a value.
    pub fn default_value(&self) -> Option<Value> {
        match self.default {
            Default::Value(text) => Some(parse(text)),
            Default::Absent | Default::Required => None,
        }
    }
}

fn parse(text: &str) -> Value {
    let table: Table = toml::from_str(&format!("value = {text}"))
        .unwrap_or_else(|error| unreachable!("the schema's default {text} is TOML: {error}"));
    table["value"].clone()
}

/// All defaults of one table as its part of the plan.
pub(crate) fn defaults<T: DeserializeOwned>(table: &str) -> T {
    let of_table = KEYS.iter().filter(|key| key.parts().0 == table);
    let values: Table = of_table.filter_map(|key| Some((key.parts().1.to_owned(), key.default_value()?))).collect();
    values.try_into().unwrap_or_else(|error| unreachable!("the defaults of [{table}] are complete: {error}"))
}

/// Values by dotted path, written as a commented document in the order of the table.
pub(crate) fn document(values: &Value) -> String {
    let mut text = String::new();
    let mut open = "";
    for key in KEYS {
        let (table, name) = key.parts();
        let holder = if table.is_empty() { Some(values) } else { values.get(table) };
        let Some(value) = holder.and_then(|holder| holder.get(name)) else { continue };
        if table != open {
            text.push_str(&format!("\n[{table}]\n"));
            open = table;
        }
        text.push_str(&format!("# {}\n{name} = {value}\n", key.doc));
    }
    text
}

/// The table as Markdown, for the documentation.
pub fn reference() -> String {
    let mut text = String::from("| key | values | default | meaning |\n|---|---|---|---|\n");
    for key in KEYS {
        let default = match key.default {
            Default::Value(value) => format!("`{value}`"),
            Default::Absent => "none".to_owned(),
            Default::Required => "required".to_owned(),
        };
        text.push_str(&format!("| `{}` | {} | {default} | {} |\n", key.path, key.kind.describe(), key.doc));
    }
    text
}

impl Kind {
    /// What a value may be, for people.
    pub fn describe(&self) -> String {
        match self {
            Self::Text => "text".to_owned(),
            Self::Name => "lower-case letters, digits and hyphens".to_owned(),
            Self::Base => "a path, or hf:owner/name".to_owned(),
            Self::OutputDir | Self::Path => "a path".to_owned(),
            Self::Paths => "a path, or a list of paths".to_owned(),
            Self::Bool => "true or false".to_owned(),
            Self::Integer { min, max: i64::MAX } => format!("a whole number, at least {min}"),
            Self::Integer { min, max } => format!("a whole number from {min} to {max}"),
            Self::Float { min, max, open } => {
                let lower = if open.0 { format!("above {min}") } else { format!("at least {min}") };
                match (*max == f64::MAX, open.1) {
                    (true, _) => format!("a number {lower}"),
                    (false, true) => format!("a number {lower} and below {max}"),
                    (false, false) => format!("a number {lower} and at most {max}"),
                }
            }
            Self::Choice(words) => words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", "),
            Self::Modules => "\"all-linear\", or a list of module names".to_owned(),
        }
    }
}
