//! Pre-tokenization rules by their name in `tokenizer.ggml.pre`.
//!
//! Sources: the `tokenizer.json` of each family, and llama.cpp's table (`llama-vocab.cpp`), so that llama.cpp's server
//! produces the same tokens. To add a rule, add a row to [`PRE_TOKENIZERS`] and texts with known tokens to the tests.

use serde_json::{Value, json};

use super::tokenizer_json::steps;

/// One pre-tokenization rule.
pub(crate) struct PreTokenizer {
    /// Values of `tokenizer.ggml.pre`.
    pub names: &'static [&'static str],
    /// The text is split by each expression in turn. Each match becomes a piece.
    pub splits: &'static [&'static str],
    /// Whether a piece that is a token is used without merging.
    pub ignore_merges: bool,
    /// Whether texts are normalized to NFC.
    pub nfc: bool,
    /// Whether texts start with BOS if the metadata doesn't state it.
    pub add_bos: bool,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

pub(crate) const PRE_TOKENIZERS: [PreTokenizer; 6] = [
    PreTokenizer { names: &["gpt-2"], splits: &[GPT2], ignore_merges: false, nfc: false, add_bos: false },
    PreTokenizer {
        names: &["smollm", "starcoder", "refact", "codeshell"],
        splits: &[r"\p{N}", GPT2],
        ignore_merges: false,
        nfc: false,
        add_bos: false,
    },
    PreTokenizer {
        names: &["llama-bpe", "llama3", "llama-v3"],
        splits: &[LLAMA3],
        ignore_merges: true,
        nfc: false,
        add_bos: true,
    },
    PreTokenizer {
        names: &["qwen2", "deepseek-r1-qwen"],
        splits: &[QWEN2],
        ignore_merges: false,
        nfc: true,
        add_bos: false,
    },
    PreTokenizer { names: &["tekken"], splits: &[TEKKEN], ignore_merges: true, nfc: false, add_bos: true },
    // llama.cpp's rule for files without a name.
    PreTokenizer {
        names: &["default"],
        splits: &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
        ignore_merges: false,
        nfc: false,
        add_bos: false,
    },
];

/// The rule with this name.
pub(crate) fn find(name: &str) -> Option<&'static PreTokenizer> {
    PRE_TOKENIZERS.iter().find(|row| row.names.contains(&name))
}

/// The rule of a pre-tokenizer in `tokenizer.json`. Its first name is the name to write. `None` if the rule is not in the
/// table: similar rules give different tokens.
///
/// The same rule is spelled in several ways: `Digits` is a split into single digits, and a `ByteLevel` step with
/// `use_regex` starts with GPT-2's split.
pub(super) fn find_by_json(pre_tokenizer: &Value) -> Option<&'static PreTokenizer> {
    let mut steps = steps(pre_tokenizer, "pretokenizers");
    let last = steps.pop().filter(|step| step["type"] == "ByteLevel" && step["add_prefix_space"] == false)?;
    let mut splits = steps.into_iter().map(split_of).collect::<Option<Vec<&str>>>()?;
    if last["use_regex"] != false {
        splits.push(GPT2);
    }
    PRE_TOKENIZERS.iter().find(|row| row.splits == splits)
}

fn split_of(step: &Value) -> Option<&str> {
    match step["type"].as_str()? {
        "Split" if step["behavior"] == "Isolated" && step["invert"] == false => step["pattern"]["Regex"].as_str(),
        "Digits" if step["individual_digits"] == true => Some(r"\p{N}"),
        _ => None,
    }
}

/// All names, for messages.
pub(crate) fn names() -> String {
    let names: Vec<&str> = PRE_TOKENIZERS.iter().flat_map(|row| row.names).copied().collect();
    names.join(", ")
}

impl PreTokenizer {
    /// The rule in the format of `tokenizer.json`: the splits, then a ByteLevel step.
    pub(crate) fn to_json(&self) -> Value {
        let split = |pattern: &&str| json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false });
        let mut steps: Vec<Value> = self.splits.iter().map(split).collect();
        steps.push(byte_level());
        json!({ "type": "Sequence", "pretokenizers": steps })
    }
}

pub(crate) fn byte_level() -> Value {
    json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false })
}
