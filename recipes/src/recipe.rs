//! From the text of a recipe to a plan.
//!
//! Responsible for: reading TOML with places, applying overrides, checking every key against the schema, filling in
//! defaults. All faults are collected.
//! Must not depend on: what a plan is used for.

use std::path::{Path, PathBuf};

use toml::{Table, Value};
use toml_edit::{Document, Item, TableLike};

use crate::diagnostics::{Diagnostic, Diagnostics, Place};
use crate::plan::Plan;
use crate::rules;
use crate::schema::{self, Default, KEYS, Key, Kind};

/// One value of a recipe or override.
#[derive(Debug)]
pub(crate) struct Entry {
    path: String,
    pub(crate) value: Value,
    pub(crate) value_place: Place,
}

/// Everything that was set, later entries before earlier ones in effect.
#[derive(Debug, std::default::Default)]
pub(crate) struct Entries(Vec<Entry>);

impl Entries {
    /// The entry in effect for a dotted path.
    pub(crate) fn get(&self, path: &str) -> Option<&Entry> {
        self.0.iter().rev().find(|entry| entry.path == path)
    }
}

/// Reads a recipe file; `overrides` are `key=value` texts that win over the file.
///
/// # Errors
/// Every fault of the recipe at once.
pub fn load(path: &Path, overrides: &[String]) -> Result<Plan, Diagnostics> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        single(
            format!("can't read the recipe {}: {error}", path.display()),
            "give the path of a recipe; `tonfall init DIR` writes one",
        )
    })?;
    let folder = path.parent().map(Path::to_owned).unwrap_or_default();
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let shown = path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned());
    let mut diagnostics = resolve(&shown, &text, overrides, &folder, &stem);
    if let Err(faults) = &mut diagnostics {
        faults.hint =
            Some(format!("`tonfall check {}` shows all faults; docs/recipes.md lists every key", path.display()));
    }
    diagnostics
}

/// Reads a recipe's text; relative paths are taken from `folder`, the name defaults to `stem`.
///
/// # Errors
/// Every fault of the recipe at once.
pub fn resolve(
    source_name: &str,
    text: &str,
    overrides: &[String],
    folder: &Path,
    stem: &str,
) -> Result<Plan, Diagnostics> {
    let mut faults = Vec::new();
    let mut entries = Entries::default();
    read(source_name, text, &mut entries, &mut faults);
    for set in overrides {
        read_override(set, &mut entries, &mut faults);
    }
    let mut plan = Table::new();
    for key in KEYS {
        if let Some(value) = value_of(key, &entries, folder, stem, &mut faults) {
            insert(&mut plan, key, value);
        }
    }
    rules::check(&entries, &plan, &mut faults);
    if !faults.is_empty() {
        return Err(Diagnostics { items: faults, hint: None });
    }
    plan.try_into()
        .map_err(|error: toml::de::Error| single(error.message().to_owned(), "this is a fault of tonfall's schema"))
}

fn single(message: String, help: &str) -> Diagnostics {
    let item = Diagnostic { message, place: None, label: String::new(), help: Some(help.to_owned()) };
    Diagnostics { items: vec![item], hint: None }
}

/// Adds the entries of one TOML text.
fn read(source_name: &str, text: &str, entries: &mut Entries, faults: &mut Vec<Diagnostic>) {
    let place = |span: Option<std::ops::Range<usize>>| Place {
        source_name: source_name.to_owned(),
        text: text.to_owned(),
        span: span.unwrap_or(0..0),
    };
    match Document::parse(text) {
        Err(error) => faults.push(Diagnostic {
            message: format!("the recipe is not TOML: {}", error.message()),
            place: Some(place(error.span())),
            label: String::new(),
            help: None,
        }),
        Ok(document) => walk("", document.as_table(), &place, entries, faults),
    }
}

fn walk(
    prefix: &str,
    table: &dyn TableLike,
    place: &dyn Fn(Option<std::ops::Range<usize>>) -> Place,
    entries: &mut Entries,
    faults: &mut Vec<Diagnostic>,
) {
    for (name, item) in table.iter() {
        let path = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") };
        let key_place = place(table.key(name).and_then(toml_edit::Key::span));
        match (item.as_table_like(), schema::find(&path)) {
            (Some(inner), _) if schema::is_table(&path) => walk(&path, inner, place, entries, faults),
            (_, Some(_)) => match plain(item) {
                Some(value) => entries.0.push(Entry { path, value, value_place: place(item.span()) }),
                None => faults.push(Diagnostic {
                    message: format!("`{path}` is a key, not a table"),
                    place: Some(key_place),
                    label: String::new(),
                    help: None,
                }),
            },
            (None, None) if schema::is_table(&path) => faults.push(Diagnostic {
                message: format!("`{path}` is a table, not a value"),
                place: Some(key_place),
                label: format!("write [{path}]"),
                help: None,
            }),
            (_, None) => faults.push(unknown(&path, key_place)),
        }
    }
}

fn plain(item: &Item) -> Option<Value> {
    let value = item.as_value()?;
    let mut bare = value.clone();
    bare.decor_mut().clear();
    let table: Table = toml::from_str(&format!("value = {}", bare.to_string().trim())).ok()?;
    table.get("value").filter(|value| !value.is_table()).cloned()
}

/// Adds one `key=value`. A value that is not TOML is taken as text.
fn read_override(set: &str, entries: &mut Entries, faults: &mut Vec<Diagnostic>) {
    let place = |span| Place { source_name: "--set".to_owned(), text: set.to_owned(), span };
    let Some((path, value)) = set.split_once('=') else {
        faults.push(Diagnostic {
            message: "an override has the form key=value".to_owned(),
            place: Some(place(0..set.len())),
            label: String::new(),
            help: Some("for example --set training.learning_rate=1e-4".to_owned()),
        });
        return;
    };
    let key_place = place(0..path.len());
    let value_place = place(path.len() + 1..set.len());
    let path = path.trim().to_owned();
    if schema::find(&path).is_none() {
        faults.push(unknown(&path, key_place));
        return;
    }
    let parsed: Result<Table, _> = toml::from_str(&format!("value = {value}"));
    let value = match parsed.ok().and_then(|mut table| table.remove("value")) {
        Some(value) => value,
        None => Value::String(value.to_owned()),
    };
    entries.0.push(Entry { path, value, value_place });
}

/// An unknown key, with the known one that is most like it.
fn unknown(path: &str, place: Place) -> Diagnostic {
    let name = path.rsplit('.').next().unwrap_or(path);
    let likeness = |key: &&Key| {
        let whole = strsim::jaro_winkler(path, key.path);
        let last = strsim::jaro_winkler(name, key.parts().1);
        (whole.max(last) * 1e6) as u64
    };
    let best = KEYS.iter().max_by_key(likeness).filter(|key| likeness(key) > 750_000);
    let same_table = |key: &Key| path.rsplit_once('.').map_or("", |(table, _)| table) == key.parts().0;
    let label = best.map(|key| {
        let shown = if same_table(key) { key.parts().1 } else { key.path };
        format!("did you mean `{shown}`?")
    });
    let help = label.is_none().then(|| "docs/recipes.md lists every key".to_owned());
    Diagnostic { message: format!("unknown key `{path}`"), place: Some(place), label: label.unwrap_or_default(), help }
}

/// The value of a key for the plan: what was set, checked, or the default.
fn value_of(key: &Key, entries: &Entries, folder: &Path, stem: &str, faults: &mut Vec<Diagnostic>) -> Option<Value> {
    let Some(entry) = entries.get(key.path) else {
        if key.default == Default::Required {
            faults.push(Diagnostic {
                message: format!("the recipe has no `{}`", key.path),
                place: None,
                label: String::new(),
                help: Some(format!("{} It is {}.", key.doc, key.kind.describe())),
            });
        }
        return match key.kind {
            Kind::Name => Some(Value::String(clean_name(stem))),
            Kind::OutputDir => Some(Value::String(absolute(Path::new("runs")))),
            _ => key.default_value(),
        };
    };
    match check(key.kind, &entry.value, folder) {
        Ok(value) => Some(value),
        Err(fault) => {
            faults.push(Diagnostic {
                message: format!("`{}` {}", key.path, fault.message),
                place: Some(entry.value_place.clone()),
                label: fault.label,
                help: None,
            });
            None
        }
    }
}

struct Fault {
    message: String,
    label: String,
}

/// Checks a value and brings it into the plan's form: paths absolute, single paths as lists, whole numbers as floats.
fn check(kind: Kind, value: &Value, folder: &Path) -> Result<Value, Fault> {
    let wrong =
        || Fault { message: format!("must be {}", kind.describe()), label: format!("this is {}", type_name(value)) };
    let range = || Fault { message: format!("must be {}", kind.describe()), label: "out of range".to_owned() };
    let existing = |text: &str| {
        let path = folder.join(text);
        match path.exists() {
            true => Ok(Value::String(absolute(&path))),
            false => Err(Fault {
                message: "names a file that does not exist".to_owned(),
                label: format!("looked for {}", absolute(&path)),
            }),
        }
    };
    match (kind, value) {
        (Kind::Text, Value::String(_)) | (Kind::Bool, Value::Boolean(_)) => Ok(value.clone()),
        (Kind::Name, Value::String(text)) => match !text.is_empty() && *text == clean_name(text) {
            true => Ok(value.clone()),
            false => Err(Fault {
                message: format!("must be {}", kind.describe()),
                label: format!("try `{}`", clean_name(text)),
            }),
        },
        (Kind::Base, Value::String(text)) if text.starts_with("hf:") => {
            match text["hf:".len()..]
                .split('@')
                .next()
                .is_some_and(|id| id.split('/').filter(|part| !part.is_empty()).count() == 2)
            {
                true => Ok(value.clone()),
                false => Err(Fault { message: "must have the form hf:owner/name".to_owned(), label: String::new() }),
            }
        }
        (Kind::Base | Kind::Path, Value::String(text)) => existing(text),
        (Kind::OutputDir, Value::String(text)) => Ok(Value::String(absolute(Path::new(text)))),
        (Kind::Paths, Value::String(text)) => Ok(Value::Array(vec![existing(text)?])),
        (Kind::Paths, Value::Array(paths)) => {
            let each = paths.iter().map(|path| existing(path.as_str().ok_or_else(wrong)?));
            Ok(Value::Array(each.collect::<Result<_, _>>()?))
        }
        (Kind::Integer { min, max }, Value::Integer(number)) => match (min..=max).contains(number) {
            true => Ok(value.clone()),
            false => Err(range()),
        },
        (Kind::Float { min, max, open }, Value::Integer(_) | Value::Float(_)) => {
            let number = value.as_float().or(value.as_integer().map(|whole| whole as f64)).unwrap_or(f64::NAN);
            let below = number < min || open.0 && number == min;
            let above = number > max || open.1 && number == max;
            match number.is_finite() && !below && !above {
                true => Ok(Value::Float(number)),
                false => Err(range()),
            }
        }
        (Kind::Choice(words), Value::String(word)) => match words.contains(&word.as_str()) {
            true => Ok(value.clone()),
            false => {
                let closest = words.iter().max_by_key(|known| (strsim::jaro_winkler(known, word) * 1e6) as u64);
                let label = closest.map(|known| format!("did you mean \"{known}\"?")).unwrap_or_default();
                Err(Fault { message: format!("must be one of {}", kind.describe()), label })
            }
        },
        (Kind::Modules, Value::String(word)) if word == "all-linear" => Ok(value.clone()),
        (Kind::Modules, Value::Array(names)) if !names.is_empty() && names.iter().all(Value::is_str) => {
            Ok(value.clone())
        }
        _ => Err(wrong()),
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "text",
        Value::Integer(_) => "a whole number",
        Value::Float(_) => "a number",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "a list",
        Value::Table(_) => "a table",
    }
}

fn clean_name(text: &str) -> String {
    let lower = text.to_lowercase();
    let words: Vec<&str> = lower.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    if words.is_empty() { "run".to_owned() } else { words.join("-") }
}

fn absolute(path: &Path) -> String {
    let path = std::path::absolute(path).unwrap_or_else(|_| PathBuf::from(path));
    path.to_string_lossy().into_owned()
}

fn insert(plan: &mut Table, key: &Key, value: Value) {
    let (table, name) = key.parts();
    let holder = match table {
        "" => plan,
        _ => match plan.entry(table).or_insert_with(|| Value::Table(Table::new())) {
            Value::Table(inner) => inner,
            _ => return,
        },
    };
    holder.insert(name.to_owned(), value);
}
