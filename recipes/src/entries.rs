//! The text of a recipe as a flat list of keys and values.
//!
//! Responsible for: TOML, tables and lists of tables.
//! Must not depend on: the keys of each table, the meaning of values.

use toml::de::{DeTable, DeValue};

use crate::diagnostics::{Diagnostic, Place};
use crate::schema::{self, TABLES};
use crate::suggest;
use crate::values::PlacedValue;

/// Paths of keys, such as `lora.rank` or `source[0].files`, and their values.
pub(crate) type Entries<'a> = Vec<(String, PlacedValue<'a>)>;

/// The entries of a recipe, and faults that leave the rest of the recipe readable.
pub(crate) fn parse(source: &str) -> Result<(Entries<'_>, Vec<Diagnostic>), Vec<Diagnostic>> {
    let (document, errors) = DeTable::parse_recoverable(source);
    if errors.is_empty() {
        return Ok(flatten(document.get_ref(), 0));
    }
    // After a syntax error, other faults would be guesses. So only syntax errors are reported, all of them.
    let fault = |error: &toml::de::Error| {
        let place = Place::new(0, error.span().unwrap_or(source.len()..source.len()));
        Diagnostic::error("this is not TOML").at(place).label(error.message())
    };
    Err(errors.iter().map(fault).collect())
}

/// The entries of a document, and a fault for each thing that no recipe can contain.
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
                        let given = PlacedValue { value: item.get_ref().clone(), key: place.clone(), place };
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
                    let given =
                        PlacedValue { value: written.clone(), key: place, place: Place::new(source, value.span()) };
                    entries.push((path, given));
                }
            }
        }
    }
    (entries, faults)
}

/// Quotes a key that contains a dot, because it would look like a key in a table.
fn bare_or_quoted(key: &str) -> String {
    let is_bare = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
    if is_bare { key.to_owned() } else { format!("{key:?}") }
}

fn unknown_table(path: &str, place: Place) -> Diagnostic {
    let fault = Diagnostic::error(format!("unknown table `{path}`")).at(place);
    let names = TABLES.iter().map(|(name, _)| *name).filter(|name| !name.is_empty());
    match suggest::table(path) {
        Some(meant) => fault.label(format!("did you mean `{meant}`?")),
        None => fault.label(format!("the tables are {}", names.collect::<Vec<_>>().join(", "))),
    }
}
