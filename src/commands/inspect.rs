//! `tonfall inspect FILE`: what is in a weight file, and where it comes from.
//!
//! Responsible for: a table for people and JSON for programs. `tonfall_adapters::inspect` reads the file.

use std::fmt::Display;

use serde_json::Value;
use tonfall_adapters::inspect::{Inspection, TensorInfo, inspect};

use crate::args::Inspect;
use crate::diagnostics::Result;
use crate::output;

/// Tensors that are listed without `--tensors`.
const FIRST: usize = 10;
/// Maximum characters of a value.
const WIDTH: usize = 100;

pub(crate) fn run(args: &Inspect) -> Result<()> {
    let found = inspect(&args.file, args.sha256)?;
    if args.json {
        return Ok(output::json(&serde_json::to_value(&found)?)?);
    }
    for line in table(&found, args.tensors) {
        output::data(&line)?;
    }
    Ok(())
}

fn table(found: &Inspection, all: bool) -> Vec<String> {
    let parameters = match found.parameters {
        Some(count) => format!("{} parameters, ", grouped(count)),
        None => String::new(),
    };
    let mut lines = vec![
        format!("{}, format {}", found.kind.name(), found.format),
        format!("{parameters}{} tensors, {} in {}", found.tensors.len(), size(found.bytes()), files(found.files.len())),
        String::new(),
    ];
    for file in &found.files {
        let hash = file.sha256.as_ref().map_or_else(String::new, |hash| format!("  sha256 {hash}"));
        lines.push(format!("{}  {}{hash}", file.path.display(), size(file.bytes)));
    }
    lines.push(String::new());
    lines.push(format!("{:<12}{:>9}{:>20}{:>14}", "type", "tensors", "elements", "size"));
    for total in &found.totals {
        let (elements, bytes) = (grouped(total.elements), size(total.bytes));
        lines.push(format!("{:<12}{:>9}{elements:>20}{bytes:>14}", total.type_name, total.tensors));
    }
    lines.extend(section("where it comes from", &found.lineage));
    lines.extend(section("metadata", &found.metadata));
    let config = found.config.iter().flatten().map(|(key, value)| (key, Shown(value)));
    lines.extend(section("configuration", config));
    lines.extend(tensors(&found.tensors, all));
    lines
}

/// A title, and a line per key; empty if there are no keys.
fn section<K: Display, V: Display>(title: &str, entries: impl IntoIterator<Item = (K, V)>) -> Vec<String> {
    let entries: Vec<(String, String)> =
        entries.into_iter().map(|(key, value)| (shortened(&key.to_string()), shortened(&value.to_string()))).collect();
    let Some(width) = entries.iter().map(|(key, _)| key.chars().count()).max() else { return Vec::new() };
    let lines = entries.iter().map(|(key, value)| format!("  {key:<width$}  {value}"));
    [String::new(), title.to_owned()].into_iter().chain(lines).collect()
}

fn tensors(tensors: &[TensorInfo], all: bool) -> Vec<String> {
    let count = if all { tensors.len() } else { tensors.len().min(FIRST) };
    let title = match count < tensors.len() {
        true => format!("tensors (the first {count} of {}; --tensors lists all)", tensors.len()),
        false => "tensors".to_owned(),
    };
    let entry = |tensor: &TensorInfo| {
        let bytes = tensor.bytes.map_or_else(|| "unknown size".to_owned(), size);
        (tensor.name.clone(), format!("{:<8} {:?}  {bytes}", tensor.type_name, tensor.shape))
    };
    section(&title, tensors[..count].iter().map(entry))
}

/// A value of a configuration: texts without quotes, all others as JSON.
struct Shown<'a>(&'a Value);

impl Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Value::String(text) => f.write_str(text),
            other => write!(f, "{other}"),
        }
    }
}

/// On one line of at most [`WIDTH`] characters; the length of a longer text is added.
fn shortened(text: &str) -> String {
    let line: String = text.chars().take(WIDTH).map(|c| if c.is_whitespace() { ' ' } else { c }).collect();
    let count = text.chars().count();
    if count > WIDTH { format!("{line}… ({count} characters)") } else { line }
}

fn files(count: usize) -> String {
    if count == 1 { "1 file".to_owned() } else { format!("{count} files") }
}

/// Digits in groups of three.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match UNITS.iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{:.1} {name}", bytes as f64 / *unit as f64),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_sizes_and_long_texts() {
        assert_eq!(
            ["7", "999", "1,000", "134,515,008"],
            [7, 999, 1000, 134_515_008].map(grouped).each_ref().map(|s| &**s)
        );
        assert_eq!(["1023 B", "1.0 KiB", "93.8 MiB"], [1023, 1024, 98_362_432].map(size).each_ref().map(|s| &**s));
        assert_eq!(shortened("a\nb"), "a b");
        assert!(shortened(&"x".repeat(500)).ends_with("x… (500 characters)"));
    }
}
