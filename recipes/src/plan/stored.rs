//! The text form of a plan.
//!
//! Responsible for: writing `plan.toml`, its hash, and reading plans of this and other versions of tonfall. A missing
//! key gets its default from the schema. A key or choice that the schema lacks is an error that names it.
//! Must not depend on: files on disk.
//!
//! The hash of a plan is the SHA-256 of its text, byte for byte. So it can be verified before parsing, and stays valid
//! when later versions add keys. tonfall 0.1.0 hashed the values instead; `first_format.rs` verifies these hashes.

mod first_format;

use serde::Deserialize;
use sha2::{Digest, Sha256};
use thiserror::Error;
use toml::{Table, Value};
use tonfall_durable::hex;

use super::Plan;
use crate::schema::{self, Key, Kind};

/// Why the text of a plan can't be read.
#[derive(Debug, Error)]
pub enum PlanError {
    #[error("this is not TOML: {0}")]
    Toml(toml::de::Error),

    /// A key or choice that only a newer version writes.
    #[error("{0}")]
    Unknown(String),

    #[error("`{0}` is missing")]
    Missing(&'static str),

    #[error("a value does not fit: {0}")]
    Value(toml::de::Error),
}

/// SHA-256 of the text of a plan, in hexadecimal.
pub fn text_hash(text: &str) -> String {
    hex(&Sha256::digest(text))
}

/// Whether `text` is the plan with this hash: by [`text_hash`], or by the hash of tonfall 0.1.0.
pub fn text_matches(text: &str, hash: &str) -> bool {
    text_hash(text) == hash || first_format::hash(text).is_some_and(|first| first == hash)
}

impl Plan {
    /// The text of `plan.toml`: every key with its comment.
    pub fn to_toml(&self) -> String {
        let values = Table::try_from(self).expect("a plan has UTF-8 paths and numbers that TOML has");
        let mut text =
            String::from("# The plan of this run with every value. A run whose plan was changed is refused.\n");
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
        // Top-level keys must be before the first table.
        text.insert_str(end_of_top.unwrap_or(text.len()), &lists);
        text
    }

    /// Reads the text of a plan, from any version of tonfall whose keys and choices this version has.
    ///
    /// # Errors
    /// [`PlanError`].
    pub fn from_toml(text: &str) -> Result<Self, PlanError> {
        let mut values: Table = toml::from_str(text).map_err(PlanError::Toml)?;
        renamed(&mut values);
        if let Some(unknown) = unknown(&values) {
            return Err(PlanError::Unknown(unknown));
        }
        fill(&mut values)?;
        Self::deserialize(values).map_err(PlanError::Value)
    }

    /// The hash of this plan's text, [`text_hash`].
    pub fn hash(&self) -> String {
        text_hash(&self.to_toml())
    }
}

/// Replaces keys that earlier versions wrote by those of today: `export.adapter` and `export.merged` became `export.to`.
fn renamed(values: &mut Table) {
    let Some(export) = values.get_mut("export").and_then(Value::as_table_mut) else { return };
    let old = [("adapter", "peft"), ("merged", "safetensors")].map(|(key, name)| (export.remove(key), name));
    if old.iter().any(|(value, _)| value.is_some()) {
        let is_on = |(value, name): (Option<Value>, &str)| (value == Some(Value::Boolean(true))).then(|| name.into());
        export.insert("to".to_owned(), Value::Array(old.into_iter().filter_map(is_on).collect()));
    }
}

/// The tables of a plan with the name `name`: one, or the items of a list. `None` if `name` is something else.
fn tables<'a>(values: &'a Table, name: &str) -> Option<Vec<&'a Table>> {
    match values.get(name) {
        None if name.is_empty() => Some(vec![values]),
        None => Some(Vec::new()),
        Some(Value::Table(table)) => Some(vec![table]),
        Some(Value::Array(items)) => items.iter().map(Value::as_table).collect(),
        Some(_) => None,
    }
}

/// The first key or choice that the schema doesn't have, in words.
fn unknown(values: &Table) -> Option<String> {
    let is_table = |name: &String| schema::TABLES.iter().any(|(table, _)| table == name);
    for (table, _) in schema::TABLES {
        let path = |name: &str| if table.is_empty() { name.to_owned() } else { format!("{table}.{name}") };
        for (name, value) in tables(values, table).into_iter().flatten().flatten() {
            if table.is_empty() && is_table(name) {
                continue;
            }
            match (schema::table(table).find(|key| key.split().1 == name), value) {
                (None, _) => return Some(format!("`{}` is a key", path(name))),
                (Some(Key { kind: Kind::Choice(choices), .. }), Value::String(choice))
                    if !choices.contains(&choice.as_str()) =>
                {
                    return Some(format!("`{} = \"{choice}\"` is a choice", path(name)));
                }
                (Some(Key { kind: Kind::Choices(choices), .. }), Value::Array(items)) => {
                    let unknown = items.iter().filter_map(Value::as_str).find(|item| !choices.contains(item));
                    if let Some(choice) = unknown {
                        return Some(format!("`{} = [\"{choice}\"]` is a choice", path(name)));
                    }
                }
                _ => {}
            }
        }
    }
    None
}

/// Adds the defaults of missing keys.
fn fill(values: &mut Table) -> Result<(), PlanError> {
    for (name, _) in schema::TABLES {
        match name {
            "" => fill_table(name, values)?,
            list if schema::LISTS.contains(&list) => {
                let items = values.entry(list).or_insert_with(|| Value::Array(Vec::new())).as_array_mut();
                for item in items.into_iter().flatten().filter_map(Value::as_table_mut) {
                    fill_table(list, item)?;
                }
            }
            table => {
                // If the value is no table, the deserializer reports the wrong type.
                if let Value::Table(inner) = values.entry(table).or_insert_with(|| Value::Table(Table::new())) {
                    fill_table(table, inner)?;
                }
            }
        }
    }
    Ok(())
}

fn fill_table(name: &str, values: &mut Table) -> Result<(), PlanError> {
    for key in schema::table(name) {
        let name = key.split().1;
        if values.contains_key(name) {
            continue;
        }
        match key.earlier_value() {
            Some(default) => drop(values.insert(name.to_owned(), default)),
            None if key.is_optional() => {}
            None => return Err(PlanError::Missing(key.path)),
        }
    }
    Ok(())
}
