//! From the text of a recipe to a plan, or to everything that is wrong with it.
//!
//! Responsible for: parsing, overrides, unknown and missing keys, and putting the plan together.
//! Must not depend on: what single values may be (`values.rs`), what they mean together (`rules.rs`).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{self, Path, PathBuf};

use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use crate::diagnostics::{Diagnostic, Diagnostics, Place, Source};
use crate::overrides;
use crate::plan::Plan;
use crate::rules;
use crate::schema::{self, Key, KeyDefault, Kind, TABLES};
use crate::suggest;
use crate::values::{self, Folders, Given};

/// A recipe is written by hand.
const MAX_RECIPE: u64 = 1 << 20;

/// What was written: paths and values.
pub(crate) type Entries<'a> = Vec<(String, Given<'a>)>;

/// The text of a recipe and where it came from. Paths in it are relative to the folder of `path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecipeFile {
    pub path: PathBuf,
    pub source: String,
}

impl RecipeFile {
    /// Reads a recipe.
    ///
    /// # Errors
    /// When there is no such file, or it is no text.
    pub fn read(path: &Path) -> Result<Self, Diagnostics> {
        let fault = |message: String| Diagnostics::of_file(path, "", vec![Diagnostic::error(message)]);
        let mut bytes = Vec::new();
        let read = File::open(path).and_then(|file| file.take(MAX_RECIPE + 1).read_to_end(&mut bytes));
        read.map_err(|error| fault(format!("can't read the recipe: {error}")))?;
        if bytes.len() as u64 > MAX_RECIPE {
            return Err(fault(format!("the recipe is longer than {MAX_RECIPE} bytes")));
        }
        match String::from_utf8(bytes) {
            Ok(source) => Ok(Self { path: path.to_owned(), source }),
            Err(error) => {
                let offset = error.utf8_error().valid_up_to();
                Err(fault(format!("the recipe is not UTF-8: look at byte {offset}")))
            }
        }
    }

    /// Reads a recipe and makes its plan.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(path: &Path, overrides: &[String]) -> Result<(Self, Plan), Diagnostics> {
        let recipe = Self::read(path)?;
        let plan = recipe.plan(overrides)?;
        Ok((recipe, plan))
    }

    /// The plan of this recipe, with `overrides` (`key=value`) in the place of its values.
    ///
    /// # Errors
    /// Everything that is wrong with the recipe and the overrides. When either is no TOML, only that.
    pub fn plan(&self, overrides: &[String]) -> Result<Plan, Diagnostics> {
        let plan = self.make_plan(overrides);
        plan.map_err(|mut items| {
            items.sort_by_key(|item| {
                item.place.as_ref().map_or((usize::MAX, 0), |place| (place.source, place.span.start))
            });
            let file = Source::File { name: self.path.display().to_string(), text: self.source.clone() };
            let overrides = overrides.iter().map(|text| Source::Override(text.clone()));
            Diagnostics { sources: std::iter::once(file).chain(overrides).collect(), items }
        })
    }

    fn make_plan(&self, overrides: &[String]) -> Result<Plan, Vec<Diagnostic>> {
        let (mut entries, mut faults) = parse(&self.source)?;
        for (index, text) in overrides.iter().enumerate() {
            match overrides::parse(text, index + 1) {
                // An override takes the place of a key; of an unknown key it doesn't hide the other mistake.
                Ok(given) => {
                    let list = |path: &str| path.split_once('[').map(|(list, _)| list.to_owned());
                    entries.retain(|(path, _)| {
                        // A list is replaced as a whole.
                        let replaced =
                            |other: &str| other == path || list(path).is_some_and(|l| list(other) == Some(l));
                        let known = schema::find(path).is_some() || schema::item(path).is_some();
                        !(known && given.iter().any(|(other, _)| replaced(other)))
                    });
                    entries.extend(given);
                }
                Err(more) => faults.extend(more),
            }
        }
        let (folder, current) = self.folders()?;
        let folders = Folders { recipe: &folder, current: &current };
        let mut settings = Settings::default();
        for (path, given) in entries {
            match (schema::find(&path), schema::item(&path)) {
                (Some(key), _) => {
                    let value = values::check(key, &given, &folders).map_err(|more| faults.extend(more)).ok();
                    settings.keys.insert(path, Setting { value, key: given.key, place: given.place });
                }
                (None, Some((list, _))) => settings.items.entry(list).or_default().push(given.key),
                (None, None) => faults.push(unknown_key(&path, given.key, &self.path)),
            }
        }
        for (table, _) in TABLES {
            for (prefix, place) in settings.tables(table) {
                let absent = |key: &&Key| settings.explicit(&format!("{prefix}{}", key.split().1)).is_none();
                let missing = schema::table(table).filter(absent).filter_map(missing);
                faults.extend(missing.map(|fault| Diagnostic { place: place.cloned(), ..fault }));
            }
        }
        faults.extend(rules::check(&settings));
        match faults.is_empty() {
            true => Ok(settings.into_plan(&self.path, &current)),
            false => Err(faults),
        }
    }

    /// The recipe's folder and the current one, absolute.
    fn folders(&self) -> Result<(PathBuf, PathBuf), Vec<Diagnostic>> {
        let fault = |error| vec![Diagnostic::error(format!("can't tell the current directory: {error}"))];
        let recipe = path::absolute(&self.path).map_err(fault)?;
        let current = path::absolute(".").map_err(fault)?;
        Ok((recipe.parent().unwrap_or(&recipe).to_owned(), current))
    }
}

/// The entries of a recipe, and faults that leave the rest of it readable.
fn parse(source: &str) -> Result<(Entries<'_>, Vec<Diagnostic>), Vec<Diagnostic>> {
    let (document, errors) = DeTable::parse_recoverable(source);
    if errors.is_empty() {
        return Ok(flatten(document.get_ref(), 0));
    }
    // What a broken line was meant to say is guesswork: only the syntax is reported, but all of it.
    let fault = |error: &toml::de::Error| {
        let place = Place::new(0, error.span().unwrap_or(source.len()..source.len()));
        Diagnostic::error("this is not TOML").at(place).label(error.message())
    };
    Err(errors.iter().map(fault).collect())
}

/// The entries of a document, and what has no place in a recipe at all.
pub(crate) fn flatten<'a>(document: &DeTable<'a>, source: usize) -> (Entries<'a>, Vec<Diagnostic>) {
    let (mut entries, mut faults) = (Entries::new(), Vec::new());
    let mut tables = vec![(String::new(), document)];
    while let Some((prefix, table)) = tables.pop() {
        for (key, value) in table {
            let path = format!("{prefix}{}", bare_or_quoted(key.get_ref()));
            let place = Place::new(source, key.span());
            let is_table = TABLES.iter().any(|(name, _)| *name == path);
            let is_list = schema::LISTS.contains(&path.as_str());
            match value.get_ref() {
                DeValue::Array(items) if is_list => {
                    for (index, item) in items.iter().enumerate() {
                        let place = Place::new(source, item.span());
                        let DeValue::Table(inner) = item.get_ref() else {
                            let fault = Diagnostic::error(format!("`{path}` must be a list of tables")).at(place);
                            faults.push(fault.label(format!("write [[{path}]] and its keys below")));
                            continue;
                        };
                        let given = Given { value: item.get_ref().clone(), key: place.clone(), place };
                        entries.push((format!("{path}[{index}]"), given));
                        tables.push((format!("{path}[{index}]."), inner));
                    }
                }
                _ if is_list => {
                    let fault = Diagnostic::error(format!("`{path}` must be a list of tables")).at(place);
                    faults.push(fault.label(format!("write [[{path}]] and its keys below")));
                }
                DeValue::Table(inner) if is_table => tables.push((format!("{path}."), inner)),
                DeValue::Table(_) if schema::find(&path).is_none() => faults.push(unknown_table(&path, place)),
                _ if is_table => {
                    let fault = Diagnostic::error(format!("`{path}` must be a table")).at(place);
                    faults.push(fault.label(format!("write [{path}] and its keys below")));
                }
                written => {
                    let given = Given { value: written.clone(), key: place, place: Place::new(source, value.span()) };
                    entries.push((path, given));
                }
            }
        }
    }
    (entries, faults)
}

/// A key that holds a dot itself must not pass for a key in a table.
fn bare_or_quoted(key: &str) -> String {
    let is_bare = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
    if is_bare { key.to_owned() } else { format!("{key:?}") }
}

fn unknown_key(path: &str, place: Place, recipe: &Path) -> Diagnostic {
    let in_file = place.source == 0;
    // Which item of a list it is says the place.
    let plain = path.split_once('.').and_then(|(table, name)| Some(format!("{}.{name}", schema::item(table)?.0)));
    let path = plain.as_deref().unwrap_or(path);
    let fault = Diagnostic::error(format!("unknown key `{path}`")).at(place);
    let fault = fault.hint(format!("`tonfall check {}` lists every key", recipe.display()));
    let table = |path: &str| path.rsplit_once('.').map_or("", |(table, _)| table).to_owned();
    match suggest::key(path) {
        // In the file the table stands above; behind `--set` it is part of the key.
        Some(meant) if in_file && table(meant) == table(path) => {
            fault.label(format!("did you mean `{}`?", meant.rsplit('.').next().unwrap_or(meant)))
        }
        Some(meant) => fault.label(format!("did you mean `{meant}`?")),
        None => fault,
    }
}

fn unknown_table(path: &str, place: Place) -> Diagnostic {
    let fault = Diagnostic::error(format!("unknown table `{path}`")).at(place);
    let names = TABLES.iter().map(|(name, _)| *name).filter(|name| !name.is_empty());
    match suggest::word(path, names.clone()) {
        Some(meant) => fault.label(format!("did you mean `{meant}`?")),
        None => fault.label(format!("the tables are {}", names.collect::<Vec<_>>().join(", "))),
    }
}

fn missing(key: &Key) -> Option<Diagnostic> {
    let KeyDefault::Required(example) = key.default else { return None };
    let (table, name) = key.split();
    let table = if schema::LISTS.contains(&table) { format!("[[{table}]]") } else { format!("[{table}]") };
    let place = if key.split().0.is_empty() { "at the top".to_owned() } else { format!("under {table}") };
    let fault = Diagnostic::error(format!("`{}` is missing", key.path));
    Some(fault.hint(format!("write `{name} = \"{example}\"` {place}: {}", key.doc)))
}

/// A key that a recipe or an override sets.
#[derive(Debug)]
pub(crate) struct Setting {
    /// `None` when it is faulty, which was reported.
    pub(crate) value: Option<Value>,
    /// Of the key.
    pub(crate) key: Place,
    /// Of the value.
    pub(crate) place: Place,
}

/// What a recipe and its overrides set, checked key by key.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    /// By path as written: `lora.rank`, `source[0].files`.
    keys: BTreeMap<String, Setting>,
    /// The items of lists, and where they stand.
    items: BTreeMap<&'static str, Vec<Place>>,
}

impl Settings {
    /// What was written for a key.
    pub(crate) fn explicit(&self, path: &str) -> Option<&Setting> {
        self.keys.get(path)
    }

    /// How the keys of a table begin: once, or for each item of a list.
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

    /// The value of a key, written or default; `None` when it is unset or faulty.
    pub(crate) fn value(&self, path: &str) -> Option<Value> {
        match self.explicit(path) {
            Some(setting) => setting.value.clone(),
            None => schema::find(path)?.default_value(),
        }
    }

    /// The plan. Every key was checked against the schema, which a test compares with the plan.
    fn into_plan(self, recipe: &Path, current: &Path) -> Plan {
        let mut plan = Table::new();
        for (table, _) in TABLES {
            let tables = self.tables(table).into_iter().map(|(prefix, _)| {
                let values = schema::table(table).filter_map(|key| {
                    let name = key.split().1;
                    let value = match self.value(&format!("{prefix}{name}")) {
                        Some(Value::String(folder)) if matches!(key.kind, Kind::NewDirectory) => {
                            Some(Value::String(current.join(folder).to_string_lossy().into_owned()))
                        }
                        None if key.path == "name" => Some(Value::String(name_of(recipe))),
                        None if key.path == "data.train" => Some(Value::Array(Vec::new())),
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
        let mut plan: Plan = plan.try_into().expect("the schema's rows fit the plan's fields");
        rules::settle(&mut plan);
        plan
    }
}

/// The recipe's file name as a run's name.
fn name_of(recipe: &Path) -> String {
    let stem = recipe.file_stem().map(|stem| stem.to_string_lossy().to_lowercase()).unwrap_or_default();
    let name: String = stem.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(48).collect();
    match name.trim_matches('-') {
        "" => "run".to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests;
