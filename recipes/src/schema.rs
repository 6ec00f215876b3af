//! Every key of a recipe, as one table.
//!
//! Responsible for: [`KEYS`]. Validation, suggestions, defaults, the commented recipe of `tonfall init`, the reference
//! in the documentation and the comments of `plan.toml` all use it. A new key is a row here and a field in `plan.rs`.
//! Its default also applies to plans of earlier versions. So the default must be the behaviour of these versions, or
//! [`EARLIER`] needs a row.
//! Must not depend on: how recipes are parsed, values that contradict each other (that is `rules.rs`).

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
    /// One line of help.
    pub doc: &'static str,
}

impl Key {
    /// The table, empty for top-level keys, and the name in it.
    pub fn split(&self) -> (&'static str, &'static str) {
        self.path.split_once('.').unwrap_or(("", self.path))
    }

    /// The value of this key in a plan that lacks it: the default; for file lists that may be unset, an empty list.
    pub(crate) fn plan_default(&self) -> Option<Value> {
        match (self.kind, self.default) {
            (Kind::Files, KeyDefault::Unset(_)) => Some(Value::Array(Vec::new())),
            _ => self.default_value(),
        }
    }

    /// The behaviour of builds without this key, as a value: the default unless [`EARLIER`] has another value.
    pub(crate) fn earlier_value(&self) -> Option<Value> {
        match EARLIER.iter().find(|(path, _)| *path == self.path) {
            Some((_, text)) => Some(parse(text)),
            None => self.plan_default(),
        }
    }

    /// Whether a plan may have no value for this key.
    pub(crate) fn is_optional(&self) -> bool {
        matches!(self.default, KeyDefault::Unset(_))
    }

    /// The default of a key that has a constant default.
    pub fn default_value(&self) -> Option<Value> {
        match self.default {
            KeyDefault::Value(text) => Some(parse(text)),
            _ => None,
        }
    }
}

/// The values that a key accepts.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Bool,
    /// Whole numbers from the first to the second, inclusive.
    Integer(i64, i64),
    Number(Bound<f64>, Bound<f64>),
    Choice(&'static [&'static str]),
    /// One or several of these.
    Choices(&'static [&'static str]),
    Text,
    /// Lower-case letters, digits and hyphens.
    Name,
    /// A model: a directory, a GGUF file or a name on the Hub.
    Base,
    /// One or several files, directories or glob patterns such as `letters/*.jsonl`.
    Files,
    /// `{ field = "column" }`.
    Columns,
    /// `{ name = value }`: each value is a boolean, a number, a string or a list of strings.
    Variables,
    /// The path of an existing file.
    File,
    /// The path of an existing directory.
    Directory,
    /// The path of a directory to create, relative to the current directory.
    NewDirectory,
    /// `"all-linear"` or a list of module names.
    Modules,
    /// One or several texts.
    Texts,
    /// A regular expression in the syntax of the crate regex.
    Pattern,
}

/// The value of a key that the recipe doesn't set.
#[derive(Clone, Copy, Debug)]
pub enum KeyDefault {
    /// No default: the recipe must set the key. The text is an example.
    Required(&'static str),
    /// A value, in TOML.
    Value(&'static str),
    /// No value. The text is an example.
    Unset(&'static str),
    /// Derived from another value, which the text names.
    Derived(&'static str),
}

use KeyDefault::{Derived, Required, Unset, Value as Is};
use Kind::{
    Base, Bool, Choice, Choices, Columns, Directory, File, Files, Integer, Modules, Name, NewDirectory, Number,
    Pattern, Text, Texts, Variables,
};

/// Upper limit for steps, tokens and sequences; a larger number is a typing mistake.
const MANY: i64 = 1_000_000_000;
const NOT_NEGATIVE: Kind = Number(Included(0.0), Unbounded);
const POSITIVE: Kind = Number(Excluded(0.0), Unbounded);
const ANY: Kind = Number(Unbounded, Unbounded);
const SHARE: Kind = Number(Included(0.0), Excluded(1.0));
/// Severities of a rule about single examples, which can be dropped.
const SEVERITY: Kind = Choice(&["error", "warn", "drop", "off"]);
const NOTICE: Kind = Choice(&["error", "warn", "off"]);
const FORMATS: Kind = Choice(&[
    "auto",
    "messages",
    "sharegpt",
    "alpaca",
    "prompt_completion",
    "text",
    "preference",
    "style",
    "terminology",
]);

/// The tables of a recipe in the order in which they are written, with their descriptions.
pub const TABLES: [(&str, &str); 16] = [
    ("", "the run"),
    ("adapter", "the trained parameters"),
    ("lora", "the adapter, with kind = \"lora\""),
    ("data", "the training data"),
    ("source", "more data, each with its own format; can be repeated"),
    ("template", "how a row of style or terms becomes a task; can be repeated"),
    (
        "audit",
        "faults of the data: error stops the run | warn counts and reports | drop leaves the example out and counts it | off",
    ),
    ("training", "optimization"),
    ("evaluation", "measurements during training"),
    ("export", "files written at the end"),
    ("style", "a rule of the house style that generations are measured by; can be repeated"),
    ("gate", "a condition for publishing, on a measure of the evaluation; can be repeated"),
    ("publish", "the store of adapters"),
    ("hook", "a running server that gets each published adapter, or a command; can be repeated"),
    ("nightly", "`tonfall nightly`"),
    ("notify", "messages of `tonfall nightly`; nothing is sent by default"),
];

/// The tables that a recipe writes as `[[name]]`; each may occur several times.
pub const LISTS: [&str; 5] = ["source", "template", "style", "gate", "hook"];

/// Keys added after version 0.1.0 whose default changes the behaviour of a run, with the value that matches 0.1.0.
const EARLIER: [(&str, &str); 4] = [
    ("data.split_by", "\"row\""),
    ("audit.messages_left_out", "\"warn\""),
    ("audit.special_tokens", "\"warn\""),
    ("audit.broken_reasoning", "\"warn\""),
];

/// All keys, in the order in which they are written.
#[rustfmt::skip]
pub static KEYS: &[Key] = &[
    Key { path: "name", kind: Name, default: Derived("the recipe's file name; its folder's name for recipe.toml"), doc: "prefix of the names of its runs" },
    Key { path: "base", kind: Base, default: Required("path/to/model"), doc: "Hugging Face directory, GGUF file or hf:owner/name[@revision]" },
    Key { path: "quantization", kind: Choice(&["nf4", "native", "none"]), default: Is("\"nf4\""), doc: "frozen base model: nf4 in 4 bits | native in a GGUF's own blocks | none dense" },
    Key { path: "allow_download", kind: Bool, default: Is("false"), doc: "may download an hf: base that is not in the local cache" },
    Key { path: "seed", kind: Integer(0, i64::MAX), default: Is("42"), doc: "seed of every random choice" },
    Key { path: "output_dir", kind: NewDirectory, default: Is("\"runs\""), doc: "directory of the run directories; relative to the current directory" },

    Key { path: "adapter.kind", kind: Choice(&["lora", "full"]), default: Is("\"lora\""), doc: "lora: a small adapter on the frozen base | full: all weights" },

    Key { path: "lora.rank", kind: Integer(1, 4096), default: Is("16"), doc: "rank r of the adapter's matrices" },
    Key { path: "lora.alpha", kind: POSITIVE, default: Is("32.0"), doc: "the adapter's output is scaled by alpha / rank" },
    Key { path: "lora.dropout", kind: SHARE, default: Is("0.0"), doc: "fraction of the adapter's inputs that is dropped in training" },
    Key { path: "lora.use_rslora", kind: Bool, default: Is("false"), doc: "scale by alpha / sqrt(rank) instead" },
    Key { path: "lora.target_modules", kind: Modules, default: Is("\"all-linear\""), doc: "\"all-linear\" or a list such as [\"q_proj\", \"v_proj\"]" },
    Key { path: "lora.init", kind: Directory, default: Unset("path/to/adapter"), doc: "a PEFT adapter to start from; it decides rank, alpha, use_rslora and target_modules" },

    Key { path: "data.train", kind: Files, default: Unset("train.jsonl"), doc: "files, directories or patterns: JSONL, Parquet, CSV, TSV, TBX, TXT, also .gz and .zst" },
    Key { path: "data.eval", kind: Files, default: Is("[]"), doc: "the same for the eval split" },
    Key { path: "data.eval_fraction", kind: SHARE, default: Is("0.0"), doc: "fraction of train to hold out, terms by whole concepts; only without eval" },
    Key { path: "data.split_by", kind: Choice(&["similar", "row"]), default: Is("\"similar\""), doc: "examples that eval_fraction keeps on one side: similar: equal and nearly equal examples | row: the examples of one row" },
    Key { path: "data.format", kind: FORMATS, default: Is("\"auto\""), doc: "format of the rows; auto recognizes it by the columns" },
    Key { path: "data.columns", kind: Columns, default: Is("{}"), doc: "names of columns that differ from the format's fields, such as { prompt = \"question\" }" },
    Key { path: "data.max_bad_rows", kind: Integer(0, MANY), default: Is("0"), doc: "faulty rows that are left out and counted before the run stops with an error" },
    Key { path: "data.train_on", kind: Choice(&["assistant", "last_assistant", "all"]), default: Is("\"assistant\""), doc: "tokens with loss: assistant every assistant turn | last_assistant the last one | all every token" },
    Key { path: "data.thinking", kind: Choice(&["keep", "drop", "mask"]), default: Is("\"keep\""), doc: "thinking blocks of reasoning models: keep | drop from the text | mask from the loss" },
    Key { path: "data.chat_template", kind: File, default: Unset("template.jinja"), doc: "a Jinja file that replaces the base's chat template, such as one with {% generation %} blocks" },
    Key { path: "data.template_variables", kind: Variables, default: Is("{}"), doc: "further variables of the chat template, such as { enable_thinking = false }; `tonfall chat` sets them too" },
    Key { path: "data.max_seq_len", kind: Integer(2, 1 << 24), default: Is("1024"), doc: "tokens" },
    Key { path: "data.overflow", kind: Choice(&["error", "drop", "truncate", "split"]), default: Is("\"error\""), doc: "a row longer than max_seq_len: error | drop | truncate | split (plain texts become several examples)" },
    Key { path: "data.packing", kind: Choice(&["off", "best_fit"]), default: Is("\"off\""), doc: "off: one example per sequence | best_fit: several examples share a sequence of max_seq_len, without attending to each other" },
    Key { path: "data.shuffle", kind: Bool, default: Is("true"), doc: "a new order in each epoch, by the seed" },
    Key { path: "data.cache", kind: Bool, default: Is("true"), doc: "store prepared data in the cache directory, under a key of everything it depends on" },

    Key { path: "source.files", kind: Files, default: Required("terms.tbx"), doc: "as data.train" },
    Key { path: "source.split", kind: Choice(&["train", "eval"]), default: Is("\"train\""), doc: "train | eval" },
    Key { path: "source.format", kind: FORMATS, default: Is("\"auto\""), doc: "as data.format" },
    Key { path: "source.columns", kind: Columns, default: Is("{}"), doc: "as data.columns" },
    Key { path: "source.filter", kind: Text, default: Unset("rating >= 4"), doc: "an SQL expression over the columns; other rows are left out and counted" },
    Key { path: "source.weight", kind: Number(Excluded(0.0), Included(1000.0)), default: Is("1.0"), doc: "how often each row occurs in an epoch; 0.5 takes half of the rows, by the seed" },
    Key { path: "source.language", kind: Text, default: Unset("de"), doc: "language of its texts; of terms, those to take, and the language to translate into" },
    Key { path: "source.translate_from", kind: Text, default: Unset("en"), doc: "of terms in several languages, the language to translate from; not set: every other language" },
    Key { path: "source.no_answer", kind: Text, default: Unset("That is not in the documents."), doc: "the answer for a row that has context and no answer" },

    Key { path: "template.kind", kind: Choice(&["rewrite", "write", "usage", "correction", "definition", "contrast", "translation", "context"]), default: Required("rewrite"), doc: "the task: rewrite, write (style) | usage, correction, definition, contrast, translation (terms) | context (places documents before a question)" },
    Key { path: "template.user", kind: Text, default: Required("Say it in our voice: {neutral}"), doc: "the question; {name} is replaced by that field of the row" },
    Key { path: "template.assistant", kind: Text, default: Unset("{styled}"), doc: "the answer; not for context" },
    Key { path: "template.system", kind: Text, default: Unset("You are an editor."), doc: "a system message before the question" },
    Key { path: "template.language", kind: Text, default: Unset("de"), doc: "only for rows of this language" },

    Key { path: "audit.no_trained_token", kind: SEVERITY, default: Is("\"error\""), doc: "an example without tokens with loss" },
    Key { path: "audit.no_end_token", kind: SEVERITY, default: Is("\"error\""), doc: "an answer without an end token, so that the model does not learn to stop" },
    Key { path: "audit.double_bos", kind: SEVERITY, default: Is("\"error\""), doc: "a row that begins with two beginning-of-sequence tokens" },
    Key { path: "audit.truncated", kind: NOTICE, default: Is("\"warn\""), doc: "an answer cut off by overflow = \"truncate\"" },
    Key { path: "audit.other_template", kind: SEVERITY, default: Is("\"error\""), doc: "a conversation that another chat template of the base renders differently" },
    Key { path: "audit.messages_left_out", kind: SEVERITY, default: Is("\"error\""), doc: "a message that the chat template does not render, such as one with an unknown role" },
    Key { path: "audit.tools_left_out", kind: SEVERITY, default: Is("\"error\""), doc: "tools or tool calls that the chat template does not render, so that the model does not learn to call them" },
    Key { path: "audit.special_tokens", kind: SEVERITY, default: Is("\"warn\""), doc: "a text of the data that contains special tokens, such as <|im_end|>" },
    Key { path: "audit.broken_reasoning", kind: SEVERITY, default: Is("\"error\""), doc: "an answer with a thinking block that has no end, or an end without a beginning" },
    Key { path: "audit.duplicates", kind: SEVERITY, default: Is("\"drop\""), doc: "the same training example twice: the same tokens with the same labels" },
    Key { path: "audit.near_duplicates", kind: SEVERITY, default: Is("\"warn\""), doc: "training examples that are almost the same" },
    Key { path: "audit.leakage", kind: SEVERITY, default: Is("\"drop\""), doc: "a training example that is also in the eval split, exactly or almost; drop keeps the one in the eval split" },
    Key { path: "audit.empty_text", kind: SEVERITY, default: Is("\"drop\""), doc: "a question or an answer that is empty or blank" },
    Key { path: "audit.long_text", kind: SEVERITY, default: Is("\"warn\""), doc: "a text of more than a million characters" },
    Key { path: "audit.mojibake", kind: SEVERITY, default: Is("\"error\""), doc: "texts damaged by a wrong encoding, such as GrÃ¼ÃŸe" },
    Key { path: "audit.language", kind: SEVERITY, default: Is("\"warn\""), doc: "answers in another language than source.language says" },
    Key { path: "audit.unused_term", kind: NOTICE, default: Is("\"warn\""), doc: "a preferred term that no training answer uses" },
    Key { path: "audit.forbidden_term", kind: SEVERITY, default: Is("\"warn\""), doc: "a training answer that uses a forbidden term" },
    Key { path: "audit.unknown_status", kind: NOTICE, default: Is("\"warn\""), doc: "a term whose status is not known, so that it counts as admitted" },
    Key { path: "audit.personal_data", kind: SEVERITY, default: Is("\"warn\""), doc: "e-mail addresses and IBANs" },
    Key { path: "audit.secrets", kind: SEVERITY, default: Is("\"warn\""), doc: "keys and passwords" },

    Key { path: "training.epochs", kind: Number(Excluded(0.0), Included(1e6)), default: Unset("1"), doc: "passes over the data; not set: max_steps decides, and 1 if that is not set either" },
    Key { path: "training.max_steps", kind: Integer(1, MANY), default: Unset("1000"), doc: "optimizer steps; if epochs is set too, the run ends at whichever comes first" },
    Key { path: "training.micro_batch_size", kind: Integer(1, 1 << 20), default: Is("4"), doc: "sequences per forward and backward pass" },
    Key { path: "training.gradient_accumulation_steps", kind: Integer(1, 1 << 20), default: Is("1"), doc: "micro-batches per optimizer step" },
    Key { path: "training.learning_rate", kind: Number(Excluded(0.0), Included(10.0)), default: Is("2e-4"), doc: "peak of the schedule" },
    Key { path: "training.schedule", kind: Choice(&["cosine", "linear", "constant"]), default: Is("\"cosine\""), doc: "cosine | linear | constant" },
    Key { path: "training.warmup_ratio", kind: SHARE, default: Is("0.03"), doc: "share of the steps in which the learning rate rises linearly; step i of n warm-up steps has i / n of it" },
    Key { path: "training.warmup_steps", kind: Integer(0, MANY), default: Unset("100"), doc: "the same in optimizer steps, instead of warmup_ratio" },
    Key { path: "training.optimizer", kind: Choice(&["adamw", "adamw_8bit"]), default: Is("\"adamw\""), doc: "adamw | adamw_8bit: both moments in 8 bits instead of f32, in bitsandbytes' format" },
    Key { path: "training.weight_decay", kind: NOT_NEGATIVE, default: Is("0.01"), doc: "AdamW, with PyTorch's names and defaults" },
    Key { path: "training.beta1", kind: SHARE, default: Is("0.9"), doc: "AdamW" },
    Key { path: "training.beta2", kind: SHARE, default: Is("0.999"), doc: "AdamW" },
    Key { path: "training.epsilon", kind: POSITIVE, default: Is("1e-8"), doc: "AdamW" },
    Key { path: "training.max_grad_norm", kind: NOT_NEGATIVE, default: Is("1.0"), doc: "gradients are clipped to this global norm; 0 = never" },
    Key { path: "training.recompute", kind: Choice(&["auto", "on", "offload", "off"]), default: Is("\"auto\""), doc: "recompute activations in the backward pass, which saves memory and costs time: auto if memory is short | on | offload: on, and store layer inputs in host memory | off" },
    Key { path: "training.max_memory", kind: POSITIVE, default: Unset("16.0"), doc: "GiB that the run may use on its device, instead of the free memory; micro-batches become smaller if they don't fit" },
    Key { path: "training.deterministic", kind: Bool, default: Is("false"), doc: "bit-identical results in every run on one GPU, slightly slower; always so on the CPU" },
    Key { path: "training.log_every", kind: Integer(1, MANY), default: Is("1"), doc: "optimizer steps between progress lines" },
    Key { path: "training.save_every", kind: Integer(0, MANY), default: Is("0"), doc: "optimizer steps between checkpoints; 0 = at the end and at each evaluation that is the best so far" },
    Key { path: "training.keep_checkpoints", kind: Integer(1, MANY), default: Is("3"), doc: "number of newest checkpoints to keep, besides the best" },

    Key { path: "evaluation.every", kind: Integer(0, MANY), default: Is("0"), doc: "optimizer steps between evaluations; 0 = at the start and the end" },
    Key { path: "evaluation.prompts", kind: File, default: Unset("prompts.jsonl"), doc: "held-out prompts, generated for before and after training: {\"prompt\", \"expect\", \"avoid\", \"reference\", \"language\"} per line" },
    Key { path: "evaluation.max_new_tokens", kind: Integer(1, 1 << 20), default: Is("64"), doc: "maximum tokens of a generation" },
    Key { path: "evaluation.retention", kind: File, default: Unset("general.txt"), doc: "a general text whose perplexity `tonfall eval` measures; not set: a built-in text in German and English" },
    Key { path: "evaluation.address", kind: Choice(&["consistent", "sie", "du"]), default: Is("\"consistent\""), doc: "address that German generations are measured by: consistent either of both, but only one in a generation | sie | du" },

    Key { path: "export.to", kind: Choices(&["peft", "safetensors", "gguf", "gguf-adapter", "ollama"]), default: Is("[\"peft\"]"), doc: "what is written at the end: peft a PEFT adapter | safetensors the merged model | gguf the merged model for llama.cpp | gguf-adapter an adapter for llama.cpp | ollama a folder for `ollama create`. Full training writes safetensors by default" },
    Key { path: "export.types", kind: Choices(&["F32", "BF16", "F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_1", "Q4_0", "base"]), default: Is("[\"F16\"]"), doc: "number formats of GGUF models, one file each; base: those of a GGUF base" },
    Key { path: "export.calibrate", kind: Bool, default: Is("false"), doc: "calibrate quantised GGUF models on the eval split or, without one, on the held-out prompts and the model's answers to them" },
    Key { path: "export.verify", kind: Bool, default: Is("true"), doc: "compare what each export of an adapter computes with what the trained model computes, before the run succeeds" },

    Key { path: "style.name", kind: Name, default: Required("no-shouting"), doc: "name of the rule; its measure is style.<name>" },
    Key { path: "style.must_match", kind: Pattern, default: Unset("^(Dear|Hello) "), doc: "a regular expression that generations must match" },
    Key { path: "style.must_not_match", kind: Pattern, default: Unset("!{2}"), doc: "a regular expression that generations must not match" },
    Key { path: "style.must_use", kind: Texts, default: Is("[]"), doc: "words of which a generation must use one or more, also inflected" },
    Key { path: "style.must_not_use", kind: Texts, default: Is("[]"), doc: "words that generations must not use, also inflected" },
    Key { path: "style.language", kind: Text, default: Unset("de"), doc: "the rule applies only to generations in this language, de or en; its words have the endings of this language" },

    Key { path: "gate.measure", kind: Text, default: Required("terms.preferred"), doc: "name of a measure; `tonfall eval` lists them" },
    Key { path: "gate.at_least", kind: ANY, default: Unset("0.9"), doc: "minimum value" },
    Key { path: "gate.at_most", kind: ANY, default: Unset("0.05"), doc: "maximum value" },
    Key { path: "gate.over_base", kind: ANY, default: Unset("0.1"), doc: "the value must be better than the base model's by at least this; negative: how much worse it may be" },
    Key { path: "gate.over_published", kind: ANY, default: Unset("-0.02"), doc: "the same against the adapter that is now published" },
    Key { path: "gate.confidence", kind: Number(Included(0.5), Excluded(1.0)), default: Is("0.95"), doc: "confidence with which over_base and over_published must hold" },

    Key { path: "publish.store", kind: NewDirectory, default: Is("\"store\""), doc: "directory of the published adapters; relative to the current directory" },
    Key { path: "publish.name", kind: Name, default: Unset("house-style"), doc: "name in the store, and of the adapter in servers; not set: the name of the recipe" },
    Key { path: "publish.keep", kind: Integer(1, MANY), default: Is("5"), doc: "number of newest versions to keep, besides the current one and the one before it" },

    Key { path: "hook.server", kind: Text, default: Unset("http://localhost:8000"), doc: "address of a vLLM, SGLang or llama-server; its API key is in TONFALL_API_KEY" },
    Key { path: "hook.command", kind: Text, default: Unset("systemctl restart llama"), doc: "command for `sh -c` with TONFALL_NAME, TONFALL_VERSION, TONFALL_ADAPTER and TONFALL_PREVIOUS in its environment" },
    Key { path: "hook.timeout", kind: Integer(1, 86_400), default: Is("120"), doc: "seconds until the hook has failed" },

    Key { path: "nightly.start_from", kind: Choice(&["base", "published"]), default: Is("\"base\""), doc: "base: train a new adapter | published: continue to train the published one" },
    Key { path: "nightly.max_duration", kind: POSITIVE, default: Unset("6.0"), doc: "hours from the start of the command; then training saves a checkpoint and stops, and the next night continues" },
    Key { path: "nightly.keep_runs", kind: Integer(1, MANY), default: Is("14"), doc: "number of newest nightly runs to keep" },
    Key { path: "nightly.nice", kind: Integer(0, 19), default: Is("0"), doc: "niceness added to the process: 19 gives way to every other process" },

    Key { path: "notify.webhook", kind: Text, default: Unset("env:NIGHTLY_WEBHOOK"), doc: "where the summary is sent as JSON with POST: env:NAME or file:PATH holds the URL; or the URL itself, if it is no secret" },
    Key { path: "notify.token", kind: Text, default: Unset("file:/run/secrets/token"), doc: "env:NAME or file:PATH of a token for `Authorization: Bearer`" },
    Key { path: "notify.command", kind: Text, default: Unset("mail -s tonfall ops@example.org"), doc: "command for `sh -c` with the summary as JSON on stdin and its result in TONFALL_RESULT" },
];

/// The row of a key. The key of a list item has an index: `source[0].files`.
pub fn find(path: &str) -> Option<&'static Key> {
    let (table, name) = path.split_once('.').unwrap_or(("", path));
    let table = match item(table) {
        Some((list, _)) => list,
        None if LISTS.contains(&table) => return None,
        None => table,
    };
    KEYS.iter().find(|key| key.split() == (table, name))
}

/// List and index of an item such as `source[0]`.
pub(crate) fn item(table: &str) -> Option<(&'static str, usize)> {
    let (name, number) = table.strip_suffix(']')?.split_once('[')?;
    let list = LISTS.into_iter().find(|list| *list == name)?;
    Some((list, number.parse().ok()?))
}

/// The rows of a table; `""` is the top level.
pub fn table(name: &str) -> impl Iterator<Item = &'static Key> {
    KEYS.iter().filter(move |key| key.split().0 == name)
}

/// The part of a plan for a table, with all defaults.
pub(crate) fn defaults<T: DeserializeOwned>(name: &str) -> T {
    let values = table(name).filter_map(|key| Some((key.split().1.to_owned(), key.default_value()?)));
    values.collect::<Table>().try_into().expect("a test reads the defaults of every table")
}

fn parse(text: &str) -> Value {
    let document: Table = toml::from_str(&format!("v = {text}")).expect("a test parses every default");
    document["v"].clone()
}

/// `"a", "b" or "c"`.
fn alternatives(choices: &[&str]) -> String {
    let quoted: Vec<_> = choices.iter().map(|choice| format!("\"{choice}\"")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}

/// The accepted values in words, after "must be".
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
            Self::Choice(choices) => f.write_str(&alternatives(choices)),
            Self::Choices(choices) => write!(f, "a list of {}", alternatives(choices)),
            Self::Text => f.write_str("a text"),
            Self::Name => f.write_str("a name of lower-case letters, digits and hyphens"),
            Self::Base => f.write_str("a path or hf:owner/name"),
            Self::Files => f.write_str("a path or a list of paths"),
            Self::Columns => f.write_str("a table { field = \"column\" }"),
            Self::Variables => f.write_str("a table { name = value }"),
            Self::File => f.write_str("the path of a file"),
            Self::Directory | Self::NewDirectory => f.write_str("the path of a directory"),
            Self::Modules => f.write_str("\"all-linear\" or a list of module names"),
            Self::Texts => f.write_str("a text or a list of texts"),
            Self::Pattern => f.write_str("a regular expression"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_in_a_known_table_once_and_has_a_valid_default() {
        for (index, key) in KEYS.iter().enumerate() {
            assert!(TABLES.iter().any(|(name, _)| *name == key.split().0), "{}", key.path);
            assert!(KEYS[..index].iter().all(|other| other.path != key.path), "{} stands twice", key.path);
            assert!(!key.doc.is_empty() && !key.doc.contains('\n'), "{}", key.path);
            key.default_value();
        }
    }

    #[test]
    fn keys_are_in_the_order_of_their_tables() {
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
