//! Every key of a recipe, as one table.
//!
//! Responsible for: [`KEYS`], from which come validation, did-you-mean, defaults, the commented recipe of `tonfall init`,
//! the reference in the documentation and the comments of `plan.toml`. A new key is a row here and a field in `plan.rs`.
//! Must not depend on: how recipes are parsed, what values mean together (that is `rules.rs`).

use std::fmt;
use std::ops::Bound::{self, Excluded, Included, Unbounded};

use serde::de::DeserializeOwned;
use toml::{Table, Value};

/// A key of a recipe.
#[derive(Debug)]
pub struct Key {
    /// With its table: `lora.rank`.
    pub path: &'static str,
    pub kind: Kind,
    pub default: KeyDefault,
    /// One line for people.
    pub doc: &'static str,
}

impl Key {
    /// The table, empty for top-level keys, and the name in it.
    pub fn split(&self) -> (&'static str, &'static str) {
        self.path.split_once('.').unwrap_or(("", self.path))
    }

    /// The value that a recipe without this key has, for keys with a fixed one.
    pub fn default_value(&self) -> Option<Value> {
        match self.default {
            KeyDefault::Value(text) => Some(parse(text)),
            _ => None,
        }
    }
}

/// What values a key takes.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Bool,
    /// Whole numbers from the first to the second, both included.
    Integer(i64, i64),
    Number(Bound<f64>, Bound<f64>),
    Choice(&'static [&'static str]),
    Text,
    /// Small letters, digits and hyphens.
    Name,
    /// A model: a directory, a GGUF file or a name on the Hub.
    Base,
    /// One path or a list of paths of files that exist.
    Files,
    /// A path of a file that exists.
    File,
    /// A path of a directory that exists.
    Directory,
    /// A path of a directory that will be made, relative to the current directory.
    NewDirectory,
    /// `"all-linear"` or a list of module names.
    Modules,
}

/// What holds when a recipe doesn't set a key.
#[derive(Clone, Copy, Debug)]
pub enum KeyDefault {
    /// The recipe must set it; an example.
    Required(&'static str),
    /// A value, in TOML.
    Value(&'static str),
    /// Nothing; an example.
    Unset(&'static str),
    /// It follows from something else, which these words name.
    Derived(&'static str),
}

use KeyDefault::{Derived, Required, Unset, Value as Is};
use Kind::{Base, Bool, Choice, Directory, File, Files, Integer, Modules, Name, NewDirectory, Number, Text};

/// More steps, tokens or sequences than this are a slip of the finger.
const MANY: i64 = 1_000_000_000;
const NOT_NEGATIVE: Kind = Number(Included(0.0), Unbounded);
const POSITIVE: Kind = Number(Excluded(0.0), Unbounded);
const SHARE: Kind = Number(Included(0.0), Excluded(1.0));

/// The tables of a recipe in the order in which they are written, with what they are about.
pub const TABLES: [(&str, &str); 7] = [
    ("", "the run"),
    ("adapter", "what is trained"),
    ("lora", "the adapter, with kind = \"lora\""),
    ("data", "what it learns from"),
    ("training", "how it learns"),
    ("evaluation", "what is measured on the way"),
    ("export", "what is written at the end"),
];

/// All keys, in the order in which they are written.
#[rustfmt::skip]
pub static KEYS: &[Key] = &[
    Key { path: "name", kind: Name, default: Derived("the recipe's file name"), doc: "how the names of its runs begin" },
    Key { path: "base", kind: Base, default: Required("path/to/model"), doc: "Hugging Face directory, GGUF file or hf:owner/name[@revision]" },
    Key { path: "quantization", kind: Choice(&["nf4", "native", "none"]), default: Is("\"nf4\""), doc: "the frozen base: nf4 in 4 bits | native in a GGUF's own blocks | none dense" },
    Key { path: "allow_download", kind: Bool, default: Is("false"), doc: "may fetch an hf: base that is not in the local cache" },
    Key { path: "seed", kind: Integer(0, i64::MAX), default: Is("42"), doc: "decides every random choice of the run" },
    Key { path: "output_dir", kind: NewDirectory, default: Is("\"runs\""), doc: "run directories are made in here; relative to the current directory" },

    Key { path: "adapter.kind", kind: Choice(&["lora", "full"]), default: Is("\"lora\""), doc: "lora: a small adapter beside the frozen base | full: every weight" },

    Key { path: "lora.rank", kind: Integer(1, 4096), default: Is("16"), doc: "width of the adapter's bottleneck" },
    Key { path: "lora.alpha", kind: POSITIVE, default: Is("32.0"), doc: "the adapter's output is scaled by alpha / rank" },
    Key { path: "lora.dropout", kind: SHARE, default: Is("0.0"), doc: "share of the adapter's inputs dropped while training" },
    Key { path: "lora.use_rslora", kind: Bool, default: Is("false"), doc: "scale by alpha / sqrt(rank) instead" },
    Key { path: "lora.target_modules", kind: Modules, default: Is("\"all-linear\""), doc: "\"all-linear\" or a list such as [\"q_proj\", \"v_proj\"]" },
    Key { path: "lora.init", kind: Directory, default: Unset("path/to/adapter"), doc: "a PEFT adapter to start from; it decides rank, alpha, use_rslora and target_modules" },

    Key { path: "data.train", kind: Files, default: Required("train.jsonl"), doc: "JSONL or Parquet files, one or a list" },
    Key { path: "data.eval", kind: Files, default: Is("[]"), doc: "held-out files, one or a list" },
    Key { path: "data.eval_fraction", kind: SHARE, default: Is("0.0"), doc: "share of train to hold out; only without eval" },
    Key { path: "data.format", kind: Choice(&["auto", "messages", "prompt_completion", "text"]), default: Is("\"auto\""), doc: "auto | messages | prompt_completion | text" },
    Key { path: "data.messages_column", kind: Text, default: Is("\"messages\""), doc: "column of conversations" },
    Key { path: "data.prompt_column", kind: Text, default: Is("\"prompt\""), doc: "column of prompts" },
    Key { path: "data.completion_column", kind: Text, default: Is("\"completion\""), doc: "column of completions" },
    Key { path: "data.text_column", kind: Text, default: Is("\"text\""), doc: "column of plain texts" },
    Key { path: "data.train_on", kind: Choice(&["assistant", "last_assistant", "all"]), default: Is("\"assistant\""), doc: "learn from: assistant every answer | last_assistant the last one | all everything" },
    Key { path: "data.max_seq_len", kind: Integer(2, 1 << 24), default: Is("1024"), doc: "tokens" },
    Key { path: "data.overflow", kind: Choice(&["error", "drop", "truncate"]), default: Is("\"error\""), doc: "a row longer than max_seq_len: error | drop | truncate" },
    Key { path: "data.shuffle", kind: Bool, default: Is("true"), doc: "a new order each epoch, from the seed" },

    Key { path: "training.epochs", kind: Number(Excluded(0.0), Included(1e6)), default: Is("1.0"), doc: "passes over the data" },
    Key { path: "training.max_steps", kind: Integer(1, MANY), default: Unset("1000"), doc: "optimizer steps; whichever of epochs and max_steps comes first" },
    Key { path: "training.micro_batch_size", kind: Integer(1, 1 << 20), default: Is("4"), doc: "sequences computed at once" },
    Key { path: "training.gradient_accumulation_steps", kind: Integer(1, 1 << 20), default: Is("1"), doc: "micro-batches per optimizer step" },
    Key { path: "training.learning_rate", kind: Number(Excluded(0.0), Included(10.0)), default: Is("2e-4"), doc: "the highest of the schedule" },
    Key { path: "training.schedule", kind: Choice(&["cosine", "linear", "constant"]), default: Is("\"cosine\""), doc: "cosine | linear | constant" },
    Key { path: "training.warmup_ratio", kind: SHARE, default: Is("0.03"), doc: "share of the steps in which the learning rate rises from zero" },
    Key { path: "training.warmup_steps", kind: Integer(0, MANY), default: Unset("100"), doc: "the same in optimizer steps, instead of warmup_ratio" },
    Key { path: "training.weight_decay", kind: NOT_NEGATIVE, default: Is("0.01"), doc: "AdamW, as PyTorch names and sets it" },
    Key { path: "training.beta1", kind: SHARE, default: Is("0.9"), doc: "AdamW" },
    Key { path: "training.beta2", kind: SHARE, default: Is("0.999"), doc: "AdamW" },
    Key { path: "training.epsilon", kind: POSITIVE, default: Is("1e-8"), doc: "AdamW" },
    Key { path: "training.max_grad_norm", kind: NOT_NEGATIVE, default: Is("1.0"), doc: "gradients are clipped to this global norm; 0 = never" },
    Key { path: "training.recompute", kind: Choice(&["auto", "on", "off"]), default: Is("\"auto\""), doc: "compute activations again in the backward pass, less memory for more time: auto | on | off" },
    Key { path: "training.log_every", kind: Integer(1, MANY), default: Is("1"), doc: "optimizer steps between lines of progress" },
    Key { path: "training.save_every", kind: Integer(0, MANY), default: Is("0"), doc: "optimizer steps between checkpoints; 0 = only at the end" },
    Key { path: "training.keep_checkpoints", kind: Integer(1, MANY), default: Is("3"), doc: "newest checkpoints that are kept, besides the best" },

    Key { path: "evaluation.every", kind: Integer(0, MANY), default: Is("0"), doc: "optimizer steps between evaluations; 0 = at the start and the end" },
    Key { path: "evaluation.prompts", kind: File, default: Unset("prompts.jsonl"), doc: "held-out prompts, answered before and after: {\"prompt\", \"expect\", \"avoid\"} a line" },
    Key { path: "evaluation.max_new_tokens", kind: Integer(1, 1 << 20), default: Is("64"), doc: "longest answer" },

    Key { path: "export.adapter", kind: Bool, default: Is("true"), doc: "write a PEFT adapter" },
    Key { path: "export.merged", kind: Bool, default: Is("false"), doc: "write base and adapter in one, as safetensors" },
];

/// The row of a key.
pub fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// The rows of a table, `""` for the top level.
pub fn table(name: &str) -> impl Iterator<Item = &'static Key> {
    KEYS.iter().filter(move |key| key.split().0 == name)
}

/// A part of the plan with the defaults of its table.
pub(crate) fn defaults<T: DeserializeOwned>(name: &str) -> T {
    let values = table(name).filter_map(|key| Some((key.split().1.to_owned(), key.default_value()?)));
    values.collect::<Table>().try_into().expect("a test reads the defaults of every table")
}

fn parse(text: &str) -> Value {
    let document: Table = toml::from_str(&format!("v = {text}")).expect("a test parses every default");
    document["v"].clone()
}

/// The values in words, to stand behind "must be".
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool => f.write_str("true or false"),
            Self::Integer(min, max) if *max >= MANY => write!(f, "a whole number of at least {min}"),
            Self::Integer(min, max) => write!(f, "a whole number from {min} to {max}"),
            Self::Number(min, max) => {
                f.write_str("a number")?;
                match min {
                    Included(min) => write!(f, " of at least {min}")?,
                    Excluded(min) => write!(f, " above {min}")?,
                    Unbounded => {}
                }
                match max {
                    Included(max) => write!(f, " and at most {max}"),
                    Excluded(max) => write!(f, " and below {max}"),
                    Unbounded => Ok(()),
                }
            }
            Self::Choice(choices) => {
                let quoted: Vec<_> = choices.iter().map(|choice| format!("\"{choice}\"")).collect();
                match quoted.split_last() {
                    Some((last, rest)) if !rest.is_empty() => write!(f, "{} or {last}", rest.join(", ")),
                    _ => f.write_str(&quoted.concat()),
                }
            }
            Self::Text => f.write_str("a text"),
            Self::Name => f.write_str("a name of small letters, digits and hyphens"),
            Self::Base => f.write_str("a path or hf:owner/name"),
            Self::Files => f.write_str("a path or a list of paths"),
            Self::File => f.write_str("the path of a file"),
            Self::Directory | Self::NewDirectory => f.write_str("the path of a directory"),
            Self::Modules => f.write_str("\"all-linear\" or a list of module names"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_stands_in_a_known_table_once_and_has_a_valid_default() {
        for (index, key) in KEYS.iter().enumerate() {
            assert!(TABLES.iter().any(|(name, _)| *name == key.split().0), "{}", key.path);
            assert!(KEYS[..index].iter().all(|other| other.path != key.path), "{} stands twice", key.path);
            assert!(!key.doc.is_empty() && !key.doc.contains('\n'), "{}", key.path);
            key.default_value();
        }
    }

    #[test]
    fn keys_stand_in_the_order_of_their_tables() {
        let order: Vec<_> = KEYS.iter().map(|key| TABLES.iter().position(|(name, _)| *name == key.split().0)).collect();
        assert!(order.is_sorted());
    }

    #[test]
    fn ranges_in_words() {
        assert_eq!(Integer(1, 4096).to_string(), "a whole number from 1 to 4096");
        assert_eq!(Integer(0, MANY).to_string(), "a whole number of at least 0");
        assert_eq!(SHARE.to_string(), "a number of at least 0 and below 1");
        assert_eq!(POSITIVE.to_string(), "a number above 0");
        assert_eq!(Choice(&["a", "b", "c"]).to_string(), "\"a\", \"b\" or \"c\"");
    }
}
