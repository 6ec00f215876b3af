//! The plan hash of tonfall 0.1.0.
//!
//! Responsible for: verifying plans of runs that 0.1.0 made. Its hash was the SHA-256 of the plan as compact JSON. The
//! keys had the order of its structs, and unset values were `null`. [`KEYS`] is that order. It never changes, whatever
//! keys a plan has today.

use serde_json::{Map, Value as Json};
use sha2::{Digest, Sha256};
use toml::{Table, Value};
use tonfall_durable::hex;

/// The tables of a plan and their keys, in the order of 0.1.0. `""` is the top level.
#[rustfmt::skip]
const KEYS: [(&str, &[&str]); 10] = [
    ("", &["name", "base", "quantization", "allow_download", "seed", "output_dir"]),
    ("adapter", &["kind"]),
    ("lora", &["rank", "alpha", "dropout", "use_rslora", "target_modules", "init"]),
    ("data", &[
        "train", "eval", "eval_fraction", "format", "columns", "max_bad_rows", "train_on", "thinking", "chat_template",
        "max_seq_len", "overflow", "packing", "shuffle", "cache",
    ]),
    ("source", &["files", "split", "format", "columns", "filter", "weight", "language", "no_answer"]),
    ("template", &["kind", "user", "assistant", "system", "language"]),
    ("audit", &[
        "no_trained_token", "no_end_token", "double_bos", "truncated", "other_template", "tools_left_out", "duplicates",
        "near_duplicates", "leakage", "empty_text", "long_text", "mojibake", "language", "unused_term", "forbidden_term",
        "personal_data", "secrets",
    ]),
    ("training", &[
        "epochs", "max_steps", "micro_batch_size", "gradient_accumulation_steps", "learning_rate", "schedule",
        "warmup_ratio", "warmup_steps", "optimizer", "weight_decay", "beta1", "beta2", "epsilon", "max_grad_norm",
        "recompute", "max_memory", "deterministic", "log_every", "save_every", "keep_checkpoints",
    ]),
    ("evaluation", &["every", "prompts", "max_new_tokens"]),
    ("export", &["adapter", "merged"]),
];

/// The hash that 0.1.0 computed for the plan with this text; `None` if the text is no plan of 0.1.0.
pub(super) fn hash(text: &str) -> Option<String> {
    let mut top: Table = toml::from_str(text).ok()?;
    let [(_, top_keys), tables @ ..] = &KEYS;
    let mut parts = Vec::with_capacity(tables.len());
    for (name, keys) in tables {
        let part = match top.remove(*name)? {
            Value::Table(table) => Json::Object(ordered(keys, &table)?),
            Value::Array(items) => {
                let items = items.iter().map(|item| Some(Json::Object(ordered(keys, item.as_table()?)?)));
                Json::Array(items.collect::<Option<_>>()?)
            }
            _ => return None,
        };
        parts.push(((*name).to_owned(), part));
    }
    let mut plan = ordered(top_keys, &top)?;
    plan.extend(parts);
    Some(hex(&Sha256::digest(serde_json::to_vec(&plan).ok()?)))
}

/// A table with its keys in order; `None` if it has other keys.
fn ordered(keys: &[&str], table: &Table) -> Option<Map<String, Json>> {
    if table.keys().any(|key| !keys.contains(&key.as_str())) {
        return None;
    }
    keys.iter().map(|key| Some(((*key).to_owned(), table.get(*key).map_or(Some(Json::Null), json)?))).collect()
}

/// A value as 0.1.0 wrote it; `None` for types that no plan has.
fn json(value: &Value) -> Option<Json> {
    Some(match value {
        Value::String(text) => Json::String(text.clone()),
        Value::Integer(number) => Json::from(*number),
        Value::Float(number) => Json::from(*number),
        Value::Boolean(value) => Json::Bool(*value),
        Value::Array(items) => Json::Array(items.iter().map(json).collect::<Option<_>>()?),
        Value::Table(table) => {
            // 0.1.0 sorted columns by name.
            let mut items: Vec<_> = table.iter().collect();
            items.sort_by_key(|(name, _)| *name);
            Json::Object(
                items.into_iter().map(|(name, value)| Some((name.clone(), json(value)?))).collect::<Option<_>>()?,
            )
        }
        Value::Datetime(_) => return None,
    })
}
