//! The keys set by a recipe and its overrides, checked one by one.
//!
//! Responsible for: values by path, defaults for unset keys, and building the plan.
//! Must not depend on: how recipes are parsed, values that contradict each other (that is `rules.rs`).

use std::collections::BTreeMap;
use std::path::Path;

use toml::{Table, Value};

use crate::diagnostics::Place;
use crate::plan::Plan;
use crate::recipe::FILE_NAME;
use crate::schema::{self, Kind, TABLES};

/// A key that a recipe or an override sets.
#[derive(Debug)]
pub(crate) struct Setting {
    /// `None` if it is faulty; the fault has been reported.
    pub(crate) value: Option<Value>,
    /// Place of the key.
    pub(crate) key: Place,
    /// Place of the value.
    pub(crate) place: Place,
}

/// All keys set by a recipe and its overrides, checked one by one.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    /// By path as written: `lora.rank`, `source[0].files`.
    keys: BTreeMap<String, Setting>,
    /// The places of the items of each list.
    items: BTreeMap<&'static str, Vec<Place>>,
}

impl Settings {
    /// Adds a key.
    pub(crate) fn insert(&mut self, path: String, setting: Setting) {
        self.keys.insert(path, setting);
    }

    /// Adds an item of a list.
    pub(crate) fn insert_item(&mut self, list: &'static str, place: Place) {
        self.items.entry(list).or_default().push(place);
    }

    /// The setting of a key, if it was set.
    pub(crate) fn explicit(&self, path: &str) -> Option<&Setting> {
        self.keys.get(path)
    }

    /// The key prefix of a table; for a list, the prefix of each item.
    pub(crate) fn tables(&self, table: &'static str) -> Vec<(String, Option<&Place>)> {
        match (table, schema::LISTS.contains(&table)) {
            ("", _) => vec![(String::new(), None)],
            (table, false) => vec![(format!("{table}."), None)],
            (table, true) => {
                let items = self.items.get(table).into_iter().flatten().enumerate();
                items.map(|(index, place)| (format!("{table}[{index}]."), Some(place))).collect()
            }
        }
    }

    /// The value of a key, set or default; `None` if it is unset or faulty.
    pub(crate) fn value(&self, path: &str) -> Option<Value> {
        match self.explicit(path) {
            Some(setting) => setting.value.clone(),
            None => schema::find(path)?.default_value(),
        }
    }

    /// Builds the plan. Every key was checked against the schema; a test compares schema and plan.
    pub(crate) fn into_plan(self, run_name: &str, current: &Path) -> Plan {
        let mut plan = Table::new();
        for (table, _) in TABLES {
            let tables = self.tables(table).into_iter().map(|(prefix, _)| {
                let values = schema::table(table).filter_map(|key| {
                    let name = key.split().1;
                    let value = match self.value(&format!("{prefix}{name}")) {
                        Some(Value::String(folder)) if matches!(key.kind, Kind::NewDirectory) => {
                            Some(Value::String(current.join(folder).to_string_lossy().into_owned()))
                        }
                        None if key.path == "name" => Some(Value::String(run_name.to_owned())),
                        None => key.plan_default(),
                        value => value,
                    };
                    Some((name.to_owned(), value?))
                });
                Value::Table(values.collect())
            });
            let mut tables: Vec<Value> = tables.collect();
            match (table, schema::LISTS.contains(&table)) {
                (list, true) => drop(plan.insert(list.to_owned(), Value::Array(tables))),
                ("", _) => plan.extend(tables.pop().and_then(|top| top.try_into::<Table>().ok()).unwrap_or_default()),
                (table, false) => plan.extend(tables.pop().map(|values| (table.to_owned(), values))),
            }
        }
        plan.try_into().expect("the schema's rows fit the plan's fields")
    }
}

/// The name of a recipe's runs: its file name, or its folder's name if the file is called `recipe.toml`.
pub(crate) fn name_of(recipe: &Path, folder: &Path) -> String {
    let is_default = recipe.file_name().is_some_and(|name| name.eq_ignore_ascii_case(FILE_NAME));
    let named = if is_default { folder.file_name() } else { recipe.file_stem() };
    let text = named.map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    let name: String = text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(48).collect();
    match name.trim_matches('-') {
        "" => "run".to_owned(),
        name => name.to_owned(),
    }
}
