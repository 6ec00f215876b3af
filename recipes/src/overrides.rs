//! `--set key=value`.
//!
//! Responsible for: parsing an override as a line of TOML, or, if that fails, as a key and an unquoted text.
//! Must not depend on: which keys exist, except for the keys that hold text.

use std::borrow::Cow;

use toml::de::{DeTable, DeValue};

use crate::diagnostics::{Diagnostic, Place};
use crate::entries::{self, Entries};
use crate::schema::{self, Kind};
use crate::values::PlacedValue;

/// The entries of one override; `source` is its index in `Diagnostics::sources`.
pub(crate) fn parse<'a>(text: &'a str, source: usize) -> Result<Entries<'a>, Vec<Diagnostic>> {
    let fault = |message: &str, place, label: &str| vec![Diagnostic::error(message).at(place).label(label)];
    let whole = || Place::new(source, 0..text.len());
    let Some(equals) = text.find('=').filter(|_| !text.contains(['\n', '\r'])) else {
        return Err(fault("an override is one `key=value`", whole(), "such as training.epochs=2"));
    };
    let error = match DeTable::parse(text) {
        Ok(table) => {
            let (mut entries, faults) = entries::flatten(table.get_ref(), source);
            entries.iter_mut().for_each(|(path, given)| restore_text(path, given, text));
            return if faults.is_empty() { Ok(entries) } else { Err(faults) };
        }
        Err(error) => error,
    };
    let (key, value) = (text[..equals].trim(), text[equals + 1..].trim());
    let is_bare =
        |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
    // A value that begins like TOML is TOML with a syntax error, not unquoted text.
    if !key.split('.').all(is_bare) || value.is_empty() || value.starts_with(['"', '\'', '[', '{']) {
        let place = error.span().map_or_else(whole, |span| Place::new(source, span));
        return Err(fault("an override is one `key=value`, the value in TOML", place, error.message()));
    }
    let key_start = text.len() - text.trim_start().len();
    let value_start = equals + 1 + (text[equals + 1..].len() - text[equals + 1..].trim_start().len());
    let given = PlacedValue {
        value: DeValue::String(Cow::Borrowed(value)),
        key: Place::new(source, key_start..key_start + key.len()),
        place: Place::new(source, value_start..value_start + value.len()),
    };
    Ok(vec![(key.to_owned(), given)])
}

/// Restores the text of a value such as `--set name=2026`: a number or a date for a key that holds text.
fn restore_text<'a>(path: &str, given: &mut PlacedValue<'a>, text: &'a str) {
    let holds_number = |kind| matches!(kind, Kind::Bool | Kind::Integer(..) | Kind::Number(..));
    let is_scalar = !matches!(given.value, DeValue::String(_) | DeValue::Array(_) | DeValue::Table(_));
    if is_scalar && schema::find(path).is_some_and(|key| !holds_number(key.kind)) {
        given.value = DeValue::String(Cow::Borrowed(text.get(given.place.span.clone()).unwrap_or_default()));
    }
}
