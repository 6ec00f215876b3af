//! Checking one value against its row of the schema.
//!
//! Responsible for: types, ranges, choices and paths. Returns values in the form that the plan needs.
//! Must not depend on: other keys (that is `rules.rs`).

use std::ops::{Bound, RangeBounds};
use std::path::{self, Component, Path, PathBuf};

use toml::de::{DeArray, DeInteger, DeTable, DeValue};
use toml::{Table, Value};

use crate::diagnostics::{Diagnostic, Place};
use crate::schema::{Key, KeyDefault, Kind};
use crate::suggest;

/// The folders that relative paths are resolved against.
pub(crate) struct Folders<'a> {
    /// The folder of the recipe.
    pub(crate) recipe: &'a Path,
    pub(crate) current: &'a Path,
}

/// A value with its place.
#[derive(Clone, Debug)]
pub(crate) struct PlacedValue<'a> {
    pub(crate) value: DeValue<'a>,
    /// Place of the key.
    pub(crate) key: Place,
    /// Place of the value.
    pub(crate) place: Place,
}

/// The value of `key` in the form of the plan, or its faults. Each item of a list may have its own fault.
pub(crate) fn check(key: &Key, given: &PlacedValue<'_>, folders: &Folders<'_>) -> Result<Value, Vec<Diagnostic>> {
    let place = &given.place;
    let one = |checked: Result<Value, Diagnostic>| checked.map_err(|fault| vec![fault]);
    let file = |place: &Place, text: &str| existing(key, place, text, folders, Path::is_file);
    // Glob patterns are resolved when the data is read.
    let files = |place: &Place, text: &str| match text.contains(PATTERN) {
        true => absolute(key, place, text, folders.recipe),
        false => existing(key, place, text, folders, Path::exists),
    };
    match (key.kind, &given.value) {
        (Kind::Bool, DeValue::Boolean(value)) => Ok(Value::Boolean(*value)),
        (Kind::Integer(min, max), DeValue::Integer(written)) => one(integer(key, place, written, min, max)),
        (Kind::Number(min, max), value @ (DeValue::Integer(_) | DeValue::Float(_))) => {
            one(number(key, place, value, min, max))
        }
        (Kind::Choice(choices), DeValue::String(text)) => one(choice(key, place, text, choices)),
        (Kind::Choices(choices), DeValue::String(text)) => {
            one(choice(key, place, text, choices)).map(|choice| Value::Array(vec![choice]))
        }
        (Kind::Choices(choices), DeValue::Array(items)) => {
            list(key, place, items, |place, text| choice(key, place, text, choices))
        }
        (Kind::Text, DeValue::String(text)) => one(match text.is_empty() {
            true => Err(out_of_range(key, place, "an empty text")),
            false => Ok(Value::String(text.to_string())),
        }),
        (Kind::Name, DeValue::String(text)) => one(match is_name(text) {
            true => Ok(Value::String(text.to_string())),
            false => Err(out_of_range(key, place, &format!("\"{text}\""))),
        }),
        (Kind::Base, DeValue::String(text)) => one(base(key, place, text, folders)),
        (Kind::File, DeValue::String(text)) => one(file(place, text)),
        (Kind::Directory, DeValue::String(text)) => one(existing(key, place, text, folders, Path::is_dir)),
        (Kind::NewDirectory, DeValue::String(text)) => one(absolute(key, place, text, folders.current)),
        (Kind::Files, DeValue::String(text)) => one(files(place, text)).map(|path| Value::Array(vec![path])),
        (Kind::Files, DeValue::Array(items)) if items.is_empty() && matches!(key.default, KeyDefault::Required(_)) => {
            one(Err(out_of_range(key, place, "an empty list")))
        }
        (Kind::Files, DeValue::Array(items)) => list(key, place, items, files),
        (Kind::Columns, DeValue::Table(columns)) => self::columns(key, place, columns),
        (Kind::Variables, DeValue::Table(variables)) => self::variables(key, place, variables),
        (Kind::Modules, DeValue::String(text)) => one(match text.as_ref() {
            "all-linear" => Ok(Value::String(text.to_string())),
            other => Err(out_of_range(key, place, &format!("\"{other}\""))
                .label(format!("a single module is written [\"{other}\"]"))),
        }),
        (Kind::Modules, DeValue::Array(items)) => match items.is_empty() {
            true => one(Err(out_of_range(key, place, "an empty list"))),
            false => list(key, place, items, |place, text| match text.is_empty() {
                true => Err(out_of_range(key, place, "an empty text")),
                false => Ok(Value::String(text.to_owned())),
            }),
        },
        (Kind::Texts, DeValue::String(text)) => one(not_empty(key, place, text)).map(|text| Value::Array(vec![text])),
        (Kind::Texts, DeValue::Array(items)) => list(key, place, items, |place, text| not_empty(key, place, text)),
        (Kind::Pattern, DeValue::String(text)) => one(pattern(key, place, text)),
        (_, value) => one(Err(wrong_type(key, place, value))),
    }
}

fn not_empty(key: &Key, place: &Place, text: &str) -> Result<Value, Diagnostic> {
    match text.trim().is_empty() {
        true => Err(out_of_range(key, place, "an empty text")),
        false => Ok(Value::String(text.to_owned())),
    }
}

/// Maximum bytes of a compiled regular expression, as in the evaluation.
const MAX_PATTERN: usize = 1 << 20;

fn pattern(key: &Key, place: &Place, text: &str) -> Result<Value, Diagnostic> {
    let fault = |why: String| {
        Diagnostic::error(format!("`{}` is no regular expression", key.path)).at(place.clone()).label(why)
    };
    if text.is_empty() {
        return Err(out_of_range(key, place, "an empty text"));
    }
    match regex::RegexBuilder::new(text).size_limit(MAX_PATTERN).build() {
        Ok(_) => Ok(Value::String(text.to_owned())),
        Err(regex::Error::CompiledTooBig(_)) => Err(fault("it is too large; use smaller counts".to_owned())),
        // The last line of the message is the reason, after the pattern itself.
        Err(error) => {
            let message = error.to_string();
            Err(fault(message.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()))
        }
    }
}

/// Characters that make a path a glob pattern.
const PATTERN: [char; 3] = ['*', '?', '['];

/// Column names by field; reports all faults at once.
fn columns(key: &Key, place: &Place, columns: &DeTable<'_>) -> Result<Value, Vec<Diagnostic>> {
    let (mut values, mut faults) = (Table::new(), Vec::new());
    for (field, column) in columns {
        let place = Place::new(place.source, column.span());
        match column.get_ref().as_str() {
            Some("") => faults.push(out_of_range(key, &place, "an empty text")),
            Some(column) => drop(values.insert(field.get_ref().to_string(), Value::String(column.to_owned()))),
            None => faults.push(wrong_type(key, &place, column.get_ref())),
        }
    }
    if faults.is_empty() { Ok(Value::Table(values)) } else { Err(faults) }
}

/// Names of chat template variables that tonfall sets itself.
const RESERVED: [&str; 8] =
    ["messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token", "pad_token", "unk_token"];

/// Template variables by name: booleans, numbers, strings and lists of strings. Reports all faults at once.
fn variables(key: &Key, place: &Place, variables: &DeTable<'_>) -> Result<Value, Vec<Diagnostic>> {
    let (mut values, mut faults) = (Table::new(), Vec::new());
    for (name, written) in variables {
        let place = Place::new(place.source, written.span());
        let name = name.get_ref().as_ref();
        if RESERVED.contains(&name) {
            let why = format!("`{name}` can't be set in `{}`: tonfall gives it to the template", key.path);
            faults.push(Diagnostic::error(why).at(place).label("remove this"));
            continue;
        }
        let value = match written.get_ref() {
            DeValue::Boolean(truth) => Ok(Value::Boolean(*truth)),
            DeValue::Integer(written) => integer(key, &place, written, i64::MIN, i64::MAX).map_err(|fault| vec![fault]),
            written @ DeValue::Float(_) => {
                number(key, &place, written, Bound::Unbounded, Bound::Unbounded).map_err(|fault| vec![fault])
            }
            DeValue::String(text) => Ok(Value::String(text.to_string())),
            DeValue::Array(items) => list(key, &place, items, |_, text| Ok(Value::String(text.to_owned()))),
            other => Err(vec![wrong_type(key, &place, other)]),
        };
        match value {
            Ok(value) => drop(values.insert(name.to_owned(), value)),
            Err(more) => faults.extend(more),
        }
    }
    if faults.is_empty() { Ok(Value::Table(values)) } else { Err(faults) }
}

/// Checks every item of a list of strings; reports all faults at once.
fn list(
    key: &Key,
    place: &Place,
    items: &DeArray<'_>,
    check: impl Fn(&Place, &str) -> Result<Value, Diagnostic>,
) -> Result<Value, Vec<Diagnostic>> {
    let (mut values, mut faults) = (Vec::new(), Vec::new());
    for item in items.iter() {
        let place = Place::new(place.source, item.span());
        let checked = match item.get_ref().as_str() {
            Some(text) => check(&place, text),
            None => Err(wrong_type(key, &place, item.get_ref())),
        };
        match checked {
            Ok(value) => values.push(value),
            Err(fault) => faults.push(fault),
        }
    }
    if faults.is_empty() { Ok(Value::Array(values)) } else { Err(faults) }
}

fn integer(key: &Key, place: &Place, written: &DeInteger<'_>, min: i64, max: i64) -> Result<Value, Diagnostic> {
    match i64::from_str_radix(written.as_str(), written.radix()) {
        Ok(number) if (min..=max).contains(&number) => Ok(Value::Integer(number)),
        // A number of more than 64 bits is out of every range.
        _ => Err(out_of_range(key, place, &written.to_string())),
    }
}

fn number(
    key: &Key,
    place: &Place,
    value: &DeValue<'_>,
    min: Bound<f64>,
    max: Bound<f64>,
) -> Result<Value, Diagnostic> {
    let (written, number) = match value {
        DeValue::Integer(written) => {
            let number = i128::from_str_radix(written.as_str(), written.radix()).ok();
            (written.to_string(), number.map(|number| number as f64))
        }
        DeValue::Float(written) => (written.to_string(), written.as_str().parse().ok()),
        _ => return Err(wrong_type(key, place, value)),
    };
    match number {
        // An unbounded range includes infinity, but no key accepts infinity.
        Some(number) if number.is_finite() && (min, max).contains(&number) => Ok(Value::Float(number)),
        _ => Err(out_of_range(key, place, &written)),
    }
}

fn choice(key: &Key, place: &Place, text: &str, choices: &[&str]) -> Result<Value, Diagnostic> {
    if choices.contains(&text) {
        return Ok(Value::String(text.to_owned()));
    }
    let fault = out_of_range(key, place, &format!("\"{text}\""));
    Err(match suggest::word(text, choices.iter().copied()) {
        Some(meant) => fault.label(format!("did you mean \"{meant}\"?")),
        None => fault,
    })
}

/// Whether a text can be the prefix of a directory name.
pub(crate) fn is_name(text: &str) -> bool {
    let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=64).contains(&text.len()) && text.chars().all(valid) && !text.starts_with('-')
}

fn base(key: &Key, place: &Place, text: &str, folders: &Folders<'_>) -> Result<Value, Diagnostic> {
    if let Some(name) = text.strip_prefix("hf:") {
        return match is_hub_name(name) {
            true => Ok(Value::String(text.to_owned())),
            false => {
                Err(out_of_range(key, place, &format!("\"{text}\""))
                    .label("write hf:owner/name or hf:owner/name@revision"))
            }
        };
    }
    let found = existing(key, place, text, folders, Path::exists);
    found.map_err(|fault| match is_hub_name(text) {
        true => fault.hint(format!("a model on the Hugging Face Hub is written `base = \"hf:{text}\"`")),
        false => fault,
    })
}

/// `owner/name` or `owner/name@revision`.
fn is_hub_name(text: &str) -> bool {
    let (name, revision) = text.split_once('@').unwrap_or((text, "main"));
    let word = |text: &str| {
        let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        !text.is_empty() && !text.starts_with('.') && text.chars().all(valid)
    };
    // A revision may be a branch with slashes in it.
    name.split_once('/').is_some_and(|(owner, name)| word(owner) && word(name)) && revision.split('/').all(word)
}

fn existing(
    key: &Key,
    place: &Place,
    text: &str,
    folders: &Folders<'_>,
    is_there: fn(&Path) -> bool,
) -> Result<Value, Diagnostic> {
    let value = absolute(key, place, text, folders.recipe)?;
    let path = Path::new(value.as_str().unwrap_or_default());
    if is_there(path) {
        return Ok(value);
    }
    if let Some(name) = text.strip_prefix("hf:") {
        let why = format!("`{}` names a dataset on the Hugging Face Hub; only `base` is read from there", key.path);
        let download =
            format!("hf download --repo-type dataset {name} --local-dir {}", name.rsplit('/').next().unwrap_or(name));
        let hint = format!("download it and name the folder: `{download}`");
        return Err(Diagnostic::error(why).at(place.clone()).hint(hint));
    }
    let why = match path.exists() {
        true => format!("`{}` must be {}", key.path, key.kind),
        false => format!("`{}` names a path that does not exist", key.path),
    };
    Err(Diagnostic::error(why).at(place.clone()).label(format!("looked for {}", path.display())))
}

/// The absolute path of `text` in `folder`. `..` is removed where this doesn't change the path's meaning. The path need
/// not exist.
fn absolute(key: &Key, place: &Place, text: &str, folder: &Path) -> Result<Value, Diagnostic> {
    if text.is_empty() {
        return Err(out_of_range(key, place, "an empty text"));
    }
    let path = path::absolute(folder.join(text)).ok().map(|path| without_parents(&path));
    let path = path.and_then(|path| path.into_os_string().into_string().ok());
    path.map(Value::String).ok_or_else(|| {
        Diagnostic::error(format!("`{}` is a path below a folder whose name is not UTF-8", key.path)).at(place.clone())
    })
}

/// Simplifies `a/b/../c` to `a/c`, unless `b` is a symbolic link: then `..` is the parent of the link's target.
fn without_parents(path: &Path) -> PathBuf {
    let mut shorter = PathBuf::new();
    for part in path.components() {
        let removable = matches!(shorter.components().next_back(), Some(Component::Normal(_))) && !shorter.is_symlink();
        match part {
            Component::ParentDir if removable => drop(shorter.pop()),
            part => shorter.push(part),
        }
    }
    shorter
}

fn wrong_type(key: &Key, place: &Place, value: &DeValue<'_>) -> Diagnostic {
    let found = match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    Diagnostic::error(format!("`{}` must be {}, not {found}", key.path, key.kind))
        .at(place.clone())
        .label(format!("this is {found}"))
}

fn out_of_range(key: &Key, place: &Place, found: &str) -> Diagnostic {
    let fault = Diagnostic::error(format!("`{}` must be {}, not {found}", key.path, key.kind)).at(place.clone());
    match key.kind {
        Kind::Integer(..) | Kind::Number(..) => fault.label("out of range"),
        _ => fault,
    }
}
